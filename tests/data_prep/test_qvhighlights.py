# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""QVHighlights rewrites against a real HTTP server that fails in every way that servers fail."""

import asyncio
import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from data_prep import benchmark, check, mix, nextgqa, qvhighlights
from verl_videomtr.sample import read_rows
from verl_videomtr.serving.batch import ask_all
from verl_videomtr.serving.server import AskError, Server

ROOT = Path(__file__).resolve().parents[2]
REAL_FILE = ROOT.parent / "shared" / "data" / "qvhighlights" / "highlight_val_release.jsonl"
KEY = "sk-very-secret-0123456789"


class Cut(str):
    """Content that broke off at the limit of its length."""


class QueryServer:
    """An OpenAI-compatible server on a local port.

    `script(query, attempt)` says what the attempt-th request about a query gets: a dict is the answer's content, an
    int an HTTP status, and `truncate`, `cut`, `hang`, `trickle` or `page` the misbehaviour of that name.
    """

    def __init__(self, script, *, delay_seconds=0.0):
        self.script = script
        self.delay_seconds = delay_seconds
        self.requests = Counter()
        self.bodies = []
        self.keys = set()
        self.times = {}
        self.num_open = self.max_open = 0
        self.lock = threading.Lock()
        self.release = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.handle(self)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

    def handle(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        query = body["messages"][-1]["content"].removeprefix("Sentence: ")
        with self.lock:
            self.requests[query] += 1
            attempt = self.requests[query]
            self.bodies.append(body)
            self.keys.add(handler.headers["Authorization"])
            self.times.setdefault(query, []).append(time.monotonic())
            self.num_open += 1
            self.max_open = max(self.max_open, self.num_open)
        try:
            time.sleep(self.delay_seconds)
            self.reply(handler, self.script(query, attempt))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self.lock:
                self.num_open -= 1

    def reply(self, handler, what):
        status, headers = 200, {}
        if isinstance(what, tuple):
            what, headers = what
        if isinstance(what, int):
            status, payload = what, {"error": {"message": f"no luck with {handler.headers['Authorization']}"}}
        else:
            content = what if isinstance(what, str) else json.dumps(what)
            payload = {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "length" if isinstance(what, Cut) else "stop",
                        "message": {"role": "assistant", "content": content},
                    }
                ],
                "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
            }
        data = json.dumps(payload).encode()
        if what == "hang":
            self.release.wait(30)
            return
        if what == "truncate":
            data = data[: len(data) // 2]
        if what == "deep":
            data = b"[" * 200_000
        if what == "page":
            data = b"<html>welcome</html>"
        handler.send_response(status)
        handler.send_header("Content-Type", "text/html" if what == "page" else "application/json")
        handler.send_header("Content-Length", str(len(data) + (what == "cut")))
        handler.close_connection = what == "cut"
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if what == "trickle":
            for position in range(len(data)):
                handler.wfile.write(data[position : position + 1])
                handler.wfile.flush()
                if self.release.wait(0.05):
                    return
        handler.wfile.write(data)


def rewrite(query, **changes):
    good = {
        "suitable": True,
        "question": f"What happens: {query}?",
        "options": ["tea", "milk", "juice", "water"],
        "answer": "tea",
    }
    return {**good, **changes}


def always_good(query, attempt):
    return rewrite(query)


def write_annotations(path, num_queries=3, **changes):
    lines = []
    for number in range(num_queries):
        record = {
            "qid": 100 + number,
            "query": f"A cook pours cup number {number}",
            "duration": 150,
            "vid": f"ab_c-{number}_60.0_210.0",
            "relevant_windows": [[10, 20], [30, 40]],
            "relevant_clip_ids": [5],
            "saliency_scores": [[4, 3, 2]],
        }
        lines.append(json.dumps({**record, **changes}) + "\n")
    path.write_text("".join(lines))
    return path


def run(directory, server, *extra, num_queries=3):
    source = directory / "queries.jsonl"
    if not source.exists():
        write_annotations(source, num_queries)
    out = directory / "rows.parquet"
    arguments = ["--annotations", str(source), "--base-url", server.url, "--model", "m", "--out", str(out)]
    code = qvhighlights.main([*arguments, "--backoff", "0.01", *extra])
    return code, read_rows(out) if out.exists() else []


def ask(server, queries, **changes):
    """Ask for each query through the client alone; return the answers, what was left over, and the order."""
    answers = {}
    settings = {"backoff_seconds": 0.01, "timeout_seconds": 5.0, "api_key": KEY, **changes}
    bodies = [(query, {"model": "m", "messages": [{"role": "user", "content": query}]}) for query in queries]
    outcome = asyncio.run(ask_all(bodies, server=Server(base_url=server.url, **settings), answered=answers.__setitem__))
    return answers, outcome


@pytest.fixture(autouse=True)
def api_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_rows_journal_and_licence(tmp_path, capsys):
    with QueryServer(always_good) as server:
        code, samples = run(tmp_path, server, "--price-in", "2.5", "--price-out", "10")
    assert code == 0
    assert [sample.sample_id for sample in samples] == ["qvhighlights/100", "qvhighlights/101", "qvhighlights/102"]
    first = samples[0]
    assert first.video == "qvhighlights/ab_c-0_60.0_210.0.mp4"
    assert (first.segments, first.duration_seconds) == (((10.0, 20.0), (30.0, 40.0)), 150.0)
    assert first.question == "What happens: A cook pours cup number 0?"
    assert first.options["ABCD".index(first.answer)] == "tea"
    assert (first.metadata["license"], first.metadata["source_video"]) == ("CC BY-NC-SA 4.0", "ab_c-0")
    entries = [json.loads(line) for line in (tmp_path / "rows.journal.jsonl").read_text().splitlines()]
    assert {entry["license"] for entry in entries} == {"CC BY-NC-SA 4.0"}
    output = capsys.readouterr().out
    # 3 x 100 tokens at 2.5 and 3 x 20 at 10 per million: 0.00075 + 0.0006.
    assert "this run: 3 answers; input tokens 300; output tokens 60; cost 0.0014" in output
    assert "qvhighlights        3            3         3         3     3" in output
    assert "right answers:" in output


@pytest.mark.parametrize("failure", [429, 500, 503, "truncate", "cut", "hang", "trickle"])
def test_passing_failure_is_survived(failure):
    with QueryServer(lambda query, attempt: failure if attempt < 3 else "fine") as server:
        answers, outcome = ask(server, ["one"], timeout_seconds=2.0)
    assert answers["one"].content == "fine"
    assert (outcome.refused, outcome.unanswered) == ({}, {})
    assert server.requests["one"] == 3


def test_connection_refused_is_unanswered_not_a_crash():
    with QueryServer(always_good) as server:
        pass
    _, outcome = ask(server, ["one"], max_attempts=2)
    assert "ClientConnectorError" in outcome.unanswered["one"]
    assert "after 2 attempts" in outcome.unanswered["one"]


def test_wait_grows_and_retry_after_is_obeyed():
    def script(query, attempt):
        if query == "told" and attempt == 1:
            return 429, {"Retry-After": "0.5"}
        return 500 if attempt < 4 else "fine"

    with QueryServer(script) as server:
        ask(server, ["told"], backoff_seconds=0.01)
        ask(server, ["grow"], backoff_seconds=0.2)
    assert server.times["told"][1] - server.times["told"][0] >= 0.5
    waits = [later - earlier for earlier, later in zip(server.times["grow"], server.times["grow"][1:], strict=False)]
    # Doubling from 0.2 s, each shortened by up to a half.
    assert [wait >= low for wait, low in zip(waits, (0.1, 0.2, 0.4), strict=True)] == [True] * 3


def test_concurrency_is_bounded_and_used():
    with QueryServer(lambda query, attempt: "fine", delay_seconds=0.05) as server:
        answers, _ = ask(server, [str(number) for number in range(12)], concurrency=3)
    assert len(answers) == 12
    assert server.max_open == 3


def test_unanswered_queries_stop_the_file_and_the_next_run_asks_only_for_them(tmp_path, capsys):
    down = True

    def script(query, attempt):
        return 500 if query.endswith("1") and down else rewrite(query)

    with QueryServer(script) as server:
        assert run(tmp_path, server, "--max-attempts", "2") == (1, [])
        assert "1 of 3 queries have no answer (HTTP 500" in capsys.readouterr().err
        before = Counter(server.requests)
        down = False
        code, samples = run(tmp_path, server)
    assert (code, len(samples)) == (0, 3)
    assert server.requests - before == Counter({"A cook pours cup number 1": 1})
    assert "this run: 1 answers" in capsys.readouterr().out


def test_killed_run_continues_and_pays_for_no_answer_twice(tmp_path):
    source = write_annotations(tmp_path / "queries.jsonl", 40)
    journal = tmp_path / "rows.journal.jsonl"
    with QueryServer(always_good, delay_seconds=0.1) as server:
        arguments = ["--annotations", str(source), "--base-url", server.url, "--model", "m", "--concurrency", "2"]
        process = subprocess.Popen(
            [sys.executable, "-m", "data_prep.qvhighlights", *arguments, "--out", str(tmp_path / "rows.parquet")],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and (not journal.exists() or journal.read_bytes().count(b"\n") < 6):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        time.sleep(0.3)  # requests in flight end at the server
        kept = {json.loads(line)["query"] for line in journal.read_bytes().split(b"\n")[:-1]}
        assert 6 <= len(kept) < 40
        assert not (tmp_path / "rows.parquet").exists()
        code, samples = run(tmp_path, server, "--concurrency", "8")
    assert (code, len(samples)) == (0, 40)
    assert {query for query, count in server.requests.items() if count > 1}.isdisjoint(kept)
    assert sum(server.requests.values()) <= 40 + 2


def test_same_answers_give_the_same_rows_whatever_is_asked_with_them(tmp_path):
    with QueryServer(always_good) as server:
        _, few = run(tmp_path, server, "--limit", "2")
        _, all_rows = run(tmp_path, server)
        _, other_seed = run(tmp_path, server, "--seed", "5")
    assert all_rows[:2] == few
    assert [sample.options for sample in other_seed] != [sample.options for sample in all_rows]
    assert sum(server.requests.values()) == 3


def test_dry_run_prints_the_request_and_sends_nothing(tmp_path, capsys):
    with QueryServer(always_good) as server:
        assert run(tmp_path, server, "--dry-run") == (0, [])
    output = capsys.readouterr().out
    assert '"model": "m"' in output
    assert "Sentence: A cook pours cup number 0" in output
    assert "to ask for: 3; nothing was sent" in output
    assert KEY not in output
    assert server.requests == Counter()
    assert list(tmp_path.iterdir()) == [tmp_path / "queries.jsonl"]


def test_unsuitable_and_malformed_answers_are_listed_and_kept(tmp_path, capsys):
    def script(query, attempt):
        if query.endswith("0"):
            return rewrite(query, suitable=False, question="", options=[], answer="")
        if query.endswith("1") and attempt == 1:
            return json.dumps(rewrite(query))[:40]
        return rewrite(query)

    with QueryServer(script) as server:
        code, samples = run(tmp_path, server)
        assert (code, [sample.sample_id for sample in samples]) == (0, ["qvhighlights/102"])
        output = capsys.readouterr().out
        assert "qvhighlights        3            3         3         1     1" in output
        assert "1  judged unsuitable  (qvhighlights/100)" in output
        assert "1  malformed answer  (qvhighlights/101)" in output
        _, samples = run(tmp_path, server)
        assert len(samples) == 1
        assert sum(server.requests.values()) == 3
        _, samples = run(tmp_path, server, "--retry-malformed")
    assert [sample.sample_id for sample in samples] == ["qvhighlights/101", "qvhighlights/102"]
    assert sum(server.requests.values()) == 4


def test_another_length_limit_pays_only_for_the_answers_that_were_cut(tmp_path, capsys):
    def script(query, attempt):
        whole = json.dumps(rewrite(query))
        if query.endswith("0"):
            # Ends exactly at the limit: cut by name only.
            return Cut(whole)
        return Cut(whole[:40]) if query.endswith("1") and attempt == 1 else whole

    with QueryServer(script) as server:
        code, samples = run(tmp_path, server, "--max-tokens", "10")
        assert (code, [sample.sample_id for sample in samples]) == (0, ["qvhighlights/100", "qvhighlights/102"])
        assert "1  answer cut off at its longest  (qvhighlights/101)" in capsys.readouterr().out
        assert "larger --max-tokens" in (tmp_path / "rows.dropped.jsonl").read_text()
        before = Counter(server.requests)
        _, samples = run(tmp_path, server, "--max-tokens", "1000")
    assert len(samples) == 3
    assert server.requests - before == Counter({"A cook pours cup number 1": 1})


def test_deeply_nested_answers_are_no_crash(tmp_path, capsys):
    deep = "[" * 200_000
    with QueryServer(lambda query, attempt: deep if query.endswith("0") else rewrite(query)) as server:
        code, samples = run(tmp_path, server)
    assert (code, len(samples)) == (0, 2)
    assert "1  malformed answer  (qvhighlights/100)" in capsys.readouterr().out
    with QueryServer(lambda query, attempt: "deep") as server:
        _, outcome = ask(server, ["one"], max_attempts=1)
    assert "cut off or is not JSON" in outcome.unanswered["one"]
    (tmp_path / "rows.journal.jsonl").write_text(deep + "\n")
    with QueryServer(always_good) as server:
        assert run(tmp_path, server)[0] == 1
    assert "line 1 is not an entry" in capsys.readouterr().err
    (tmp_path / "rows.journal.jsonl").write_text('{"key": "k", "content": 7, "model": "m"}\n')
    with QueryServer(always_good) as server:
        assert run(tmp_path, server)[0] == 1
    assert "{'content': 7, 'finish_reason': None," in capsys.readouterr().err


def test_one_refused_query_is_listed_and_a_server_that_refuses_all_stops_the_run(tmp_path, capsys):
    with QueryServer(lambda query, attempt: 400 if query.endswith("0") else rewrite(query)) as server:
        code, samples = run(tmp_path, server)
    assert (code, len(samples)) == (0, 2)
    assert "1  refused by the server  (qvhighlights/100)" in capsys.readouterr().out
    with QueryServer(lambda query, attempt: 400) as server, pytest.raises(AskError, match="refuses every request"):
        ask(server, [str(number) for number in range(100)])
    assert sum(server.requests.values()) < 30


@pytest.mark.parametrize("status", [401, 403, 404])
def test_wrong_key_or_address_stops_at_once(status):
    with QueryServer(lambda query, attempt: status) as server, pytest.raises(AskError, match=f"HTTP {status}"):
        ask(server, [str(number) for number in range(100)], concurrency=2)
    assert sum(server.requests.values()) <= 4


def test_server_that_is_gone_stops_the_run():
    with QueryServer(lambda query, attempt: 500) as server, pytest.raises(AskError, match="10 requests in a row"):
        ask(server, [str(number) for number in range(100)], max_attempts=1)
    assert sum(server.requests.values()) < 30


def test_web_page_instead_of_an_api_is_named():
    with QueryServer(lambda query, attempt: "page") as server, pytest.raises(AskError, match="check --base-url"):
        ask(server, ["one"])


@pytest.mark.parametrize("reply", [400, 401, 500, KEY])
def test_key_is_sent_but_never_shown_or_stored(tmp_path, capsys, reply):
    with QueryServer(lambda query, attempt: reply) as server:
        run(tmp_path, server, "--max-attempts", "2")
    assert server.keys == {f"Bearer {KEY}"}
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes()
    assert KEY not in repr(Server(base_url=server.url))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "is not an address"),
        (f"https://user:{KEY}@host/v1", "holds credentials"),
        (f"https://host/v1?key={KEY}", "holds credentials"),
    ],
)
def test_base_url_must_be_plain(url, message):
    with pytest.raises(ValueError, match=message) as caught:
        Server(base_url=url)
    assert KEY not in str(caught.value)


def test_filter_and_short_queries_cost_nothing(tmp_path, capsys):
    source = tmp_path / "queries.jsonl"
    lines = []
    for qid, changes in enumerate(
        [
            {"relevant_windows": [[0, 75]]},
            {"query": "A cat sleeps."},
            {"duration": 20},
            {"relevant_windows": [[160, 170]]},
            {"relevant_windows": None},
            {},
            {"qid": 5},
            {"duration": float("nan")},
            {"relevant_windows": [[float("nan"), 20]]},
            {"relevant_windows": "[[10, 20]]"},
            {"vid": ""},
        ]
    ):
        write_annotations(source, 1, **{"qid": qid, **changes})
        lines.append(source.read_text())
    source.write_text("".join(lines))
    with QueryServer(always_good) as server:
        code, samples = run(tmp_path, server)
    assert (code, [sample.sample_id for sample in samples]) == (0, ["qvhighlights/5"])
    assert sum(server.requests.values()) == 1
    output = capsys.readouterr().out
    for reason in (
        "relevant ratio not below 0.5  (qvhighlights/0)",
        "query of fewer than 4 words  (qvhighlights/1)",
        "video shorter than 30 s  (qvhighlights/2)",
        "no window inside the video  (qvhighlights/3)",
        "3  segments are not pairs of seconds  (qvhighlights/4, qvhighlights/8, qvhighlights/9)",
        "2  malformed annotation  (qvhighlights/7, qvhighlights/10)",
        "qid occurs twice  (qvhighlights/5)",
    ):
        assert reason in output


def test_journal_is_a_file_of_its_own_and_prices_come_in_pairs(tmp_path, capsys):
    with QueryServer(always_good) as server:
        for extra in (["rows.parquet"], ["queries.jsonl"]):
            assert run(tmp_path, server, "--journal", str(tmp_path / extra[0])) == (1, [])
            assert "expected a file of its own" in capsys.readouterr().err
        assert run(tmp_path, server, "--price-in", "1") == (1, [])
        assert "expected both or neither" in capsys.readouterr().err
        assert sum(server.requests.values()) == 0


def test_limit_must_let_something_through(tmp_path, capsys):
    with QueryServer(always_good) as server:
        assert run(tmp_path, server, "--limit", "0") == (1, [])
    assert "--limit 0; expected 1 or more" in capsys.readouterr().err


def test_test_split_without_windows_is_refused(tmp_path, capsys):
    (tmp_path / "queries.jsonl").write_text(
        '{"qid": 1, "query": "A man cooks rice", "duration": 150, "vid": "a_0_150"}\n'
    )
    with QueryServer(always_good) as server:
        assert run(tmp_path, server) == (1, [])
    assert "columns ['relevant_windows'] are not there" in capsys.readouterr().err


def test_missing_videos_are_dropped_before_anything_is_paid(tmp_path, capsys):
    pytest.importorskip("av")
    (tmp_path / "videos" / "qvhighlights").mkdir(parents=True)
    (tmp_path / "videos" / "qvhighlights" / "ab_c-0_60.0_210.0.mp4").write_text("not a video")
    with QueryServer(always_good) as server:
        assert run(tmp_path, server, "--videos", str(tmp_path / "videos")) == (1, [])
    captured = capsys.readouterr()
    assert "2  video is not there" in captured.out
    assert "1  video does not open" in captured.out
    assert "no query is left to ask for" in captured.err
    assert server.requests == Counter()


@pytest.mark.skipif(not REAL_FILE.is_file(), reason="the real QVHighlights file is not here")
def test_documented_pipeline_ends_well_on_the_real_files(tmp_path, capsys):
    data = REAL_FILE.parents[1]
    queries, movies, train, val = (tmp_path / f"{name}.parquet" for name in ("qv", "videomme", "train", "val"))
    with QueryServer(always_good) as server:
        asked = ["--annotations", str(REAL_FILE), "--base-url", server.url, "--model", "m", "--limit", "200"]
        assert qvhighlights.main([*asked, "--out", str(queries)]) == 0
    arguments = ["--annotations", str(data / "nextgqa"), "--split", "val", "--out", str(tmp_path / "nextgqa.parquet")]
    assert nextgqa.main(arguments) == 0
    shared = read_rows(queries)[7].metadata["source_video"]
    question = {"question_id": "1-1", "videoID": shared, "question": "Who?", "options": ["A. a", "B. b"], "answer": "A"}
    groups = dict.fromkeys(("duration", "domain", "sub_category", "task_type"), "short")
    (tmp_path / "videomme.json").write_text(json.dumps([{**question, **groups}]))
    assert benchmark.main(["videomme", "--annotations", str(tmp_path), "--out", str(movies)]) == 0
    files = [str(tmp_path / "nextgqa.parquet"), str(queries), "--out", str(train), "--exclude", str(movies)]
    assert mix.main([*files, "--holdout", "100", "--holdout-out", str(val)]) == 0
    assert check.main([str(train), str(val), str(movies)]) == 0
    assert "0 problems" in capsys.readouterr().out
    num_shared = sum(row.metadata["source_video"] == shared for row in read_rows(queries))
    assert len(read_rows(train)) + len(read_rows(val)) == 1940 + 200 - num_shared


@pytest.mark.skipif(not REAL_FILE.is_file(), reason="the real QVHighlights file is not here")
def test_real_validation_file_passes_the_filter_as_counted(capsys):
    with contextlib.suppress(SystemExit):
        qvhighlights.main(
            ["--annotations", str(REAL_FILE), "--base-url", "http://localhost/v1", "--model", "m", "--dry-run"]
            + ["--out", "unused.parquet"]
        )
    assert "queries: 1,550; pass the filter: 1,362" in capsys.readouterr().out
