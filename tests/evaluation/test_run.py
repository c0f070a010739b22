# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr eval` from the command line against a scripted server: numbers, resumption, failures, what is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from killed_client import kill_midway
from scripted_server import Reply, ScriptedServer, say
from trainer_runs import make_needles

from verl_videomtr.cli import main
from verl_videomtr.evaluation.playing import FIRST_EPISODES, Admission
from verl_videomtr.sample import question_text, read_rows, write_rows
from verl_videomtr.serving.endpoints import choose
from verl_videomtr.serving.journal import Journal, JournalError

KEY = "sk-very-secret-0123456789"
LOOK = "<think>0 nothing</think><retrieve>4,9</retrieve>"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve questions, told apart by their text, about a few synthetic videos."""
    folder = make_needles(tmp_path_factory.mktemp("asked"), num_train=4, num_val=12)
    rows = [
        dataclasses.replace(row, question=f"Which shape, question {number}?")
        for number, row in enumerate(read_rows(folder / "val.parquet"))
    ]
    write_rows(folder / "val.parquet", rows)
    return folder


def samples_of(data):
    return read_rows(data / "val.parquet")


def knowing(data, *, wrong=(), look=True):
    """A model that looks once and then answers; `wrong` are the rows that it does not know."""
    answers = {
        question_text(sample): "ABCD"[("ABCD".index(sample.answer) + (number in wrong)) % 4]
        for number, sample in enumerate(samples_of(data))
    }

    def script(request):
        turns = [message["content"] for message in request.body["messages"] if message["role"] == "assistant"]
        if "Where is it?" in request.text:
            return say("x", usage={"prompt_tokens": len(request.text)})  # the question before the run
        if look and not turns:
            return say(LOOK)
        answer = next(answer for question, answer in answers.items() if question in request.text)
        return say(f"<think>0 nothing</think><answer>{answer}</answer>")

    return script


def evaluate(data, out, *servers, rows="val.parquet", extra=(), root=None):
    urls = [part for server in servers for part in ("--base-url", server.url)]
    return main(
        ["eval", str(data / rows), "--out", str(out), *urls, "--backoff", "0.01", "--timeout", "20"]
        + ["+videomtr=paper", "+videomtr/model=tiny", f"videomtr.video.root={root or data}", *extra]
    )


def lines_of(out):
    return [json.loads(line) for line in (out / "trajectories.jsonl").read_text().splitlines()]


def played(server):
    """The requests of episodes, without those before the run."""
    return [request for request in server.requests if "Where is it?" not in request.text]


def test_numbers_tables_and_files(data, tmp_path, capsys):
    with ScriptedServer(knowing(data, wrong=(0, 5, 7))) as server:
        assert evaluate(data, tmp_path / "out", server) == 0
    output = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())["reports"][0]
    assert report["micro"]["value"] == 9 / 12
    assert report["course"]["turns"] == 2.0
    assert report["course"]["input_tokens"] == 200.0
    assert "75.0" in output
    assert "temperature=" in output
    assert (tmp_path / "out" / "report.md").read_text().strip() in output
    lines = lines_of(tmp_path / "out")
    assert [line["sample_id"] for line in lines] == [sample.sample_id for sample in samples_of(data)]
    assert {line["status"] for line in lines} == {"played"}
    assert all(line["episode"]["actions"] == ["retrieve", "answer"] for line in lines)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["videomtr"]["episode"]["pool_size"] == 64
    assert run["servers"][0]["kind"] == "vllm"
    assert run["data"][0]["sha256"][:8] in output
    for request in played(server):
        assert {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"} <= request.body.keys()


def test_sampling_is_that_of_verls_validation(data, tmp_path):
    extra = ["actor_rollout_ref.rollout.val_kwargs.temperature=0", "actor_rollout_ref.rollout.val_kwargs.top_k=5"]
    with ScriptedServer(knowing(data)) as server:
        assert evaluate(data, tmp_path / "out", server, extra=extra) == 0
    assert {(r.body["temperature"], r.body["top_p"], r.body["top_k"]) for r in played(server)} == {(0, 0.95, 5)}


def test_run_that_stopped_goes_on_and_asks_nothing_twice(data, tmp_path, capsys):
    knows = knowing(data)

    def script(request):
        return Reply(status=500) if request.number >= 4 else knows(request)

    with ScriptedServer(script) as server:
        assert evaluate(data, tmp_path / "out", server, extra=["--concurrency", "3", "--max-attempts", "1"]) == 2
        assert "requests in a row had no answer" in capsys.readouterr().err
    kept = len((tmp_path / "out" / "journal.jsonl").read_text().splitlines())
    assert kept == 2  # two of the four were asked before the run
    with ScriptedServer(knows) as server:
        assert evaluate(data, tmp_path / "out", server) == 0
    assert len(played(server)) == 24 - kept
    assert json.loads((tmp_path / "out" / "report.json").read_text())["reports"][0]["micro"]["value"] == 1.0
    with ScriptedServer(knows) as server:
        assert evaluate(data, tmp_path / "out", server) == 0
    assert played(server) == []


def test_killed_run_pays_for_nothing_twice(data, tmp_path):
    """SIGKILL; the server's own log is the judge."""
    knows = knowing(data)

    def slowly(request):
        reply = knows(request)
        return Reply(body=reply.body, delay_seconds=0.15)

    with ScriptedServer(slowly) as server:
        arguments = [str(data / "val.parquet"), "--base-url", server.url, "--concurrency", "2"]
        arguments += ["+videomtr=paper", "+videomtr/model=tiny", f"videomtr.video.root={data}"]
        kept = kill_midway(arguments, tmp_path / "out", num_answers=7, limit_seconds=60)
        assert 7 <= len(kept) < 24
        time.sleep(0.5)  # what is in flight ends at the server
        before = len(played(server))
        assert evaluate(data, tmp_path / "out", server) == 0
    assert len(played(server)) - before == 24 - len(kept)
    assert len(played(server)) <= 24 + 2


def test_other_settings_in_the_same_folder_are_refused(data, tmp_path, capsys):
    with ScriptedServer(knowing(data)) as server:
        assert evaluate(data, tmp_path / "out", server) == 0
        extra = ["actor_rollout_ref.rollout.val_kwargs.temperature=0.1", "videomtr.video.workers.num_processes=1"]
        assert evaluate(data, tmp_path / "out", server, extra=extra) == 2
        error = capsys.readouterr().err
        assert "the folder holds another run (sampling.temperature: 0.7 -> 0.1)" in error
        assert evaluate(data, tmp_path / "out", server, extra=["--image-format", "png"]) == 2
        assert "image_format: 'webp' -> 'png'" in capsys.readouterr().err


def test_answers_without_their_settings_are_not_gone_on_with(data, tmp_path, capsys):
    with ScriptedServer(knowing(data)) as server:
        assert evaluate(data, tmp_path / "out", server) == 0
        asked = len(played(server))
        (tmp_path / "out" / "run.json").unlink()
        assert evaluate(data, tmp_path / "out", server, extra=["--single-turn"]) == 2
    assert "holds 24 answers, and no run.json says of which settings" in capsys.readouterr().err
    assert len(played(server)) == asked


def test_file_system_without_locks_is_not_another_run(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(JournalError, match=r"cannot be locked .*No locks available"):
        Journal(tmp_path / "journal.jsonl")


def test_half_a_character_in_a_servers_error_costs_no_table(data, tmp_path, capsys):
    """JSON may hold one, and no file of UTF-8 does."""
    knows, odd = knowing(data), b'{"error": {"message": "bad \\ud800 frame"}}'

    def script(request):
        return Reply(status=400, body=odd) if "question 3?" in request.text else knows(request)

    with ScriptedServer(script) as server:
        assert evaluate(data, tmp_path / "out", server) == 0
    assert "refused: HTTP 400: bad \N{REPLACEMENT CHARACTER} frame" in (tmp_path / "out" / "report.md").read_text()


def test_failures_are_listed_wrong_in_the_main_number_and_left_out_of_the_second(data, tmp_path, capsys):
    rows = samples_of(data)
    rows[:2] = [
        dataclasses.replace(row, video=f"{name}.mp4") for row, name in zip(rows, ("broken", "gone"), strict=False)
    ]
    (data / "broken.mp4").write_bytes(b"this is no video" * 100)
    write_rows(data / "broken.parquet", rows)
    knows = knowing(data)
    refused = question_text(rows[2])
    unlucky = question_text(rows[3])

    def script(request):
        if refused in request.text:
            return Reply(status=400, body={"error": {"message": "At most 4 image(s) may be provided"}})
        return Reply(status=500) if unlucky in request.text else knows(request)

    with ScriptedServer(script) as server:
        extra = ["--max-attempts", "1", "--concurrency", "1"]
        assert evaluate(data, tmp_path / "out", server, rows="broken.parquet", extra=extra) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())["reports"][0]
    num_failed = 4
    assert report["micro"]["value"] == pytest.approx((12 - num_failed) / 12)
    assert (report["answered"]["value"], report["answered"]["num"]) == (1.0, 12 - num_failed)
    failures = dict(report["failures"])
    assert failures[rows[0].sample_id].startswith("unreadable: ")
    assert failures[rows[1].sample_id].startswith("unreadable: ")
    assert failures[rows[2].sample_id] == "refused: HTTP 400: At most 4 image(s) may be provided"
    assert failures[rows[3].sample_id].startswith("unanswered: HTTP 500")
    assert f"{num_failed} episodes failed" in capsys.readouterr().out


def test_root_without_one_of_the_videos_stops_before_the_first_request(data, tmp_path, capsys):
    with ScriptedServer(knowing(data)) as server:
        assert evaluate(data, tmp_path / "out", server, root=tmp_path) == 2
        assert "not one of the rows' videos can be opened (no such file" in capsys.readouterr().err
    assert server.requests == []
    assert not (tmp_path / "out").exists()


def stripping(script):
    def stripped(request):
        reply = script(request)
        text = request.text.replace("<think>It is the second scene.</think>", "")
        reply.body["prompt_token_ids"] = list(text.encode())
        return reply

    return stripped


def test_template_that_strips_thoughts_is_refused_or_said(data, tmp_path, capsys):
    with ScriptedServer(stripping(knowing(data))) as server:
        assert evaluate(data, tmp_path / "out", server) == 2
        assert "chat template removes the thoughts of earlier turns" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        assert evaluate(data, tmp_path / "out", server, extra=["--single-turn"]) == 0
        assert evaluate(data, tmp_path / "all", server, extra=["--allow-stripped-thoughts"]) == 0


def test_drift_is_counted_by_episode_and_said_with_its_first_example(data, tmp_path, capsys):
    knows = knowing(data)
    marked = question_text(samples_of(data)[4])

    def script(request):
        reply = knows(request)
        late = any(message["role"] == "assistant" for message in request.body["messages"])
        drifted = late and marked in request.text
        reply.body["prompt_token_ids"] = (
            [1, 2, 3, 4, 5] if late and not drifted else [1, 2, 30, 4, 5] if late else [1, 2]
        )
        if "Where is it?" in request.text:
            reply.body["prompt_token_ids"] = [len(request.text)]
        reply.body["choices"][0]["token_ids"] = [3, 4]
        return reply

    with ScriptedServer(script) as server:
        assert evaluate(data, tmp_path / "out", server) == 0
    output = capsys.readouterr().out
    assert "drift 1 of 12 episodes, NOT COMPARABLE with training's numbers" in output
    assert "token 2 of a prompt: sampled before [1, 2, 3, 4], rendered now [1, 2, 30, 4, 5]" in output
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "out")]) == 0
    assert "B drifted in 1 episodes; it is NOT COMPARABLE" in capsys.readouterr().out


def test_episodes_of_a_video_stay_on_one_of_several_servers(data, tmp_path):
    with ScriptedServer(knowing(data)) as one, ScriptedServer(knowing(data)) as two:
        assert evaluate(data, tmp_path / "out", one, two) == 0
    pictures = []
    for server in (one, two):
        assert played(server)
        pictures.append(
            {
                part["image_url"]["url"]
                for request in played(server)
                for message in request.body["messages"]
                if message["role"] == "user"
                for part in message["content"]
                if part["type"] == "image_url"
            }
        )
    assert len(played(one)) + len(played(two)) == 24
    counts = Counter(question for server in (one, two) for question in {r.text for r in played(server)})
    assert max(counts.values()) == 1


def test_videos_are_spread_over_servers():
    counts = Counter(choose("abc", f"videos/val_{number:05d}.mp4") for number in range(300))
    assert min(counts.values()) > 60


def test_servers_with_different_models_are_refused(data, tmp_path, capsys):
    with ScriptedServer(knowing(data)) as one, ScriptedServer(knowing(data), models=[{"id": "other"}]) as two:
        assert evaluate(data, tmp_path / "out", one, two) == 2
    assert "different models ['m', 'other']" in capsys.readouterr().err


def test_concurrency_bounds_what_is_in_flight(data, tmp_path):
    knows = knowing(data)

    def slowly(request):
        return Reply(body=knows(request).body, delay_seconds=0.05)

    with ScriptedServer(slowly) as server:
        assert evaluate(data, tmp_path / "out", server, extra=["--concurrency", "3"]) == 0
    assert server.most_in_flight == 3


def test_single_turn_shows_the_whole_budget_at_once(data, tmp_path):
    with ScriptedServer(knowing(data, look=False)) as server:
        assert evaluate(data, tmp_path / "out", server, extra=["--single-turn"]) == 0
    requests = played(server)
    assert len(requests) == 12
    shown = [part["type"] for part in requests[0].body["messages"][-1]["content"]].count("image_url")
    assert shown == 16
    assert "max_turns=1" in (tmp_path / "out" / "report.md").read_text()


def test_subtitles_are_told_and_stand_in_the_line_and_in_what_a_folder_goes_on_with(data, tmp_path, capsys):
    videos = dict.fromkeys(sample.video for sample in samples_of(data))
    folder = tmp_path / "subtitles"
    folder.mkdir()
    for video in list(videos)[:2]:
        words = f"1\n00:00:00,000 --> 01:00:00,000\nThis is {Path(video).stem}.\n"
        (folder / f"{Path(video).stem}.srt").write_text(words)
    extra = ["--subtitles", str(folder)]
    with ScriptedServer(knowing(data)) as server:
        assert evaluate(data, tmp_path / "out", server, extra=extra) == 0
        with_words = [line for line in lines_of(tmp_path / "out") if "subtitles are listed" in str(line["episode"])]
        assert {line["video"] for line in with_words} == set(list(videos)[:2])
        for line in with_words:
            assert str(line["episode"]["messages"]).count(f"This is {Path(line['video']).stem}.") == 2
        assert sum("subtitles are listed" in request.text for request in played(server)) == 2 * len(with_words)
        report = (tmp_path / "out" / "report.md").read_text()
        assert f"subtitles of the frames shown, 2 of {len(videos)} videos, " in report
        capsys.readouterr()
        assert evaluate(data, tmp_path / "out", server) == 2
        assert "another run (subtitles" in capsys.readouterr().err
        assert evaluate(data, tmp_path / "off", server) == 0
        assert "; subtitles off; " in (tmp_path / "off" / "report.md").read_text()
        number = len(server.requests)
        assert evaluate(data, tmp_path / "none", server, extra=["--subtitles", str(tmp_path / "nowhere")]) == 2
        assert "no such folder" in capsys.readouterr().err
        assert len(server.requests) == number


def test_key_reaches_no_file_and_no_output(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    knows = knowing(data)

    def leaky(request):
        assert request.headers["authorization"] == f"Bearer {KEY}"
        if request.number == 5:
            return Reply(status=400, body={"error": {"message": f"bad {KEY}"}})
        reply = knows(request)
        message = reply.body["choices"][0]["message"]
        message["content"] = message["content"].replace("nothing", KEY)
        return reply

    with ScriptedServer(leaky) as server:
        assert evaluate(data, tmp_path / "out", server) == 0
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err
    for path in (tmp_path / "out").iterdir():
        assert KEY not in path.read_text()
    assert "[key]" in (tmp_path / "out" / "journal.jsonl").read_text()


def test_second_run_in_a_folder_changes_nothing_in_it(data, tmp_path, capsys):
    with ScriptedServer(knowing(data)) as server:
        with Journal(tmp_path / "out" / "journal.jsonl"):
            assert evaluate(data, tmp_path / "out", server, extra=["--image-format", "png"]) == 2
        assert "another run is writing it" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["journal.jsonl"]
        assert evaluate(data, tmp_path / "out", server) == 0


def test_one_of_two_servers_that_dies_is_named_and_the_other_finishes(data, tmp_path, capsys):
    """Nothing that was received is asked for again, by whichever server it was answered."""
    knows = knowing(data)

    def dying(request):
        return Reply(reset=True) if request.number >= 6 else knows(request)

    rows = [
        dataclasses.replace(row, sample_id=f"{row.sample_id}/{copy}", index=12 * copy + row.index)
        for copy in range(3)
        for row in samples_of(data)
    ]
    write_rows(data / "many.parquet", rows)
    many = {"rows": "many.parquet", "extra": ["--max-attempts", "1"]}
    with ScriptedServer(knows) as one, ScriptedServer(dying) as two:
        assert evaluate(data, tmp_path / "out", one, two, **many) == 2
        error = capsys.readouterr().err
        assert f"{two.url}; run the same command again when the server is back, or without it" in error
        kept = len((tmp_path / "out" / "journal.jsonl").read_text().splitlines())
        asked = len(played(one))
        assert evaluate(data, tmp_path / "out", one, **many) == 0
        assert len(played(one)) - asked == 72 - kept
    assert {line["status"] for line in lines_of(tmp_path / "out")} == {"played"}


def test_hostile_texts_of_a_file_reach_no_path_and_no_terminal(data, tmp_path, capsys):
    ids = ["../../../outside", "/etc/passwd", "a|b\nc\x1b[31mred", "x" * 5000, "journal.jsonl", "s/0"]
    rows = samples_of(data)
    groups = {"t|\x1b[2J\n": ["| --- |\n# heading", "\x1b]0;title\x07"]}
    rows = [
        dataclasses.replace(row, sample_id=name, groups=groups if name != "s/0" else {})
        for row, name in zip(rows, ids, strict=False)
    ] + [dataclasses.replace(rows[6], data_source="lvbench\x1b[1m/../..", video="gone\x1b[31m.mp4")]
    write_rows(data / "hostile.parquet", rows)
    before = set(tmp_path.parent.rglob("*"))
    with ScriptedServer(knowing(data)) as server:
        assert evaluate(data, tmp_path / "out", server, rows="hostile.parquet", extra=["--export"]) == 0
        assert len(played(server)) == 12
        assert evaluate(data, tmp_path / "out", server, rows="hostile.parquet") == 0
        assert len(played(server)) == 12
    new = set(tmp_path.parent.rglob("*")) - before
    assert {path.parent for path in new} <= {tmp_path, tmp_path / "out"}
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "\n# heading" not in output
    assert "t\\|" in output
    assert [line["sample_id"] for line in lines_of(tmp_path / "out")][:6] == ids
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "out")]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "extra", [["--concurrency", "0"], ["--limit", "-1"], ["--max-gib", "0"], ["--max-gib", "inf"], ["--max-gib", "nan"]]
)
def test_nonsense_is_refused(data, tmp_path, capsys, extra):
    with ScriptedServer(knowing(data)) as server:
        assert evaluate(data, tmp_path / "out", server, extra=extra) == 2
    assert "expected more than 0" in capsys.readouterr().err
    assert server.requests == []


async def test_admission_waits_for_room_but_never_for_ever():
    admission = Admission(max_episodes=10, max_bytes=200)
    order = []

    async def episode(name):
        async with admission.episode():
            await admission.hold(80)
            order.append(f"{name} in")
            await asyncio.sleep(0.01)
            order.append(f"{name} out")

    await asyncio.gather(*(episode(name) for name in "abcd"))
    # Two of 80 bytes have room in 200; the others wait until one ends.
    assert admission.most_episodes == 2
    assert order.index("c in") > min(order.index("a out"), order.index("b out"))
    await admission.hold(1000)
    await asyncio.gather(*(episode(name) for name in "ef"))
    assert (admission.num_episodes, order[-4:]) == (0, ["e in", "e out", "f in", "f out"])


async def test_admission_lets_a_few_go_until_it_is_known_what_an_episode_holds():
    admission = Admission(max_episodes=100, max_bytes=10_000)
    known = asyncio.Event()

    async def episode():
        async with admission.episode():
            await known.wait()
            await admission.hold(200)
            await asyncio.sleep(0.01)

    episodes = [asyncio.create_task(episode()) for _ in range(80)]
    await asyncio.sleep(0.01)
    assert admission.num_episodes == FIRST_EPISODES
    known.set()
    await asyncio.gather(*episodes)
    assert admission.most_episodes == 50


# --- two runs, and runs of the trainer -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with ScriptedServer(knowing(data, wrong=(0, 1, 2, 3, 4, 5), look=False)) as server:
        assert evaluate(data, folder / "single", server, extra=["--single-turn"]) == 0
    with ScriptedServer(knowing(data, wrong=(5,))) as server:
        assert evaluate(data, folder / "several", server) == 0
    return folder


def test_two_runs_are_compared_by_question(two_runs, tmp_path, capsys):
    command = ["compare", str(two_runs / "single"), str(two_runs / "several"), "--json", str(tmp_path / "out.json")]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "videomtr.episode.max_turns: 1 -> 3" in output
    assert output.count("->") == 2  # the head line's, and the one setting that differs
    whole = json.loads((tmp_path / "out.json").read_text())["synthetic_needle"][0]
    assert (whole["first"], whole["second"]) == (0.5, pytest.approx(11 / 12))
    assert (whole["only_first"], whole["only_second"], whole["p_value"]) == (0, 5, 0.0625)
    assert "+41.7 [" in output


def test_tables_of_a_validation_that_the_trainer_dumped(two_runs, tmp_path, capsys):
    """The lines have one form: an evaluation's stand in for the trainer's."""
    dump = tmp_path / "dump"
    (dump / "val").mkdir(parents=True)
    lines = (two_runs / "several" / "trajectories.jsonl").read_text().splitlines(keepends=True)
    (dump / "val" / "step_000010.jsonl").write_text("".join(lines[:2]))
    lost = {**json.loads(lines[1]), "status": "lost", "kind": "unreadable", "error": "gone"}
    newest = [
        *lines[:11],
        json.dumps({key: lost[key] for key in ("schema_version", "status", "sample_id", "kind", "error")}),
    ]
    (dump / "val" / "step_000020.jsonl").write_text("".join(newest) + "\n" + lines[0][:40])
    (dump / "run.json").write_text((two_runs / "several" / "run.json").read_text())
    assert main(["eval", str(dump), "--out", str(tmp_path / "tables")]) == 0
    output = capsys.readouterr().out
    assert "step_000020.jsonl, 12 episodes; its last line was cut off and is left out" in output
    (report,) = json.loads((tmp_path / "tables" / "report.json").read_text())["reports"]
    # The lost line's source and groups come from the rows that run.json names.
    assert report["data_source"] == "synthetic_needle"
    assert (report["micro"]["num"], report["micro"]["value"]) == (12, pytest.approx(10 / 12))
    assert report["failures"] == [[json.loads(lines[1])["sample_id"], "unreadable: gone"]]


def test_runs_whose_settings_are_not_known_are_said_to_be(two_runs, tmp_path, capsys):
    (tmp_path / "trajectories.jsonl").write_bytes((two_runs / "several" / "trajectories.jsonl").read_bytes())
    assert main(["compare", str(tmp_path), str(two_runs / "single")]) == 0
    output = capsys.readouterr().out
    assert "A without run.json: whether the settings are the same is not known" in output
    assert "None ->" not in output


def test_terminal_without_a_character_ends_no_command(two_runs, tmp_path):
    """The words of a question or a folder, on a terminal of another encoding."""
    named = tmp_path / "prüfung"
    named.mkdir()
    (named / "trajectories.jsonl").write_bytes((two_runs / "several" / "trajectories.jsonl").read_bytes())
    command = [sys.executable, "-m", "verl_videomtr.cli", "compare", str(named), str(named)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pr\\xfcfung" in done.stdout


def test_tables_of_one_run_do_not_replace_those_of_another(two_runs, capsys):
    before = (two_runs / "single" / "report.md").read_text()
    assert main(["eval", str(two_runs / "several"), "--out", str(two_runs / "single")]) == 2
    assert "holds a run of its own" in capsys.readouterr().err
    assert (two_runs / "single" / "report.md").read_text() == before


@pytest.mark.parametrize("extra", [["--limit", "3"], ["--export"], ["--single-turn"], ["+videomtr/budget=b64"]])
def test_what_was_played_takes_no_settings(two_runs, tmp_path, capsys, extra):
    assert main(["eval", str(two_runs / "several"), "--out", str(tmp_path / "t"), *extra]) == 2
    assert "nothing is played anew" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episode": None}, "no whole trajectory"),
        ({"groups": "x"}, "no whole trajectory"),
        ({"response_seconds": ["fast"]}, "no whole trajectory"),
        ({"turn_rewards": None}, None),
        ({"sample_id": ["a"]}, "without a sample_id that is a text"),
        ({"status": "half"}, "status='half'; expected 'played' or 'lost'"),
    ],
)
def test_broken_line_is_one_error_with_its_place(two_runs, tmp_path, capsys, change, message):
    """A line that reads as JSON and holds something else; what no table needs is not asked for."""
    lines = lines_of(two_runs / "several")
    lines[4] |= change
    path = tmp_path / "broken.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for command in (
        ["eval", str(path), "--out", str(tmp_path / "t")],
        ["compare", str(two_runs / "single"), str(path)],
    ):
        assert main(command) == (2 if message else 0)
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == bool(message)
        assert all(message in error and str(path) in error for error in errors)


@pytest.mark.parametrize("change", [{"videomtr": []}, {"data": [1]}, {"videomtr": {"episode": 3}}, {"drift": [1]}])
def test_run_file_of_another_form_is_one_error(two_runs, tmp_path, capsys, change):
    for name in ("run.json", "trajectories.jsonl"):
        (tmp_path / name).write_bytes((two_runs / "several" / name).read_bytes())
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(run | change))
    assert main(["compare", str(two_runs / "single"), str(tmp_path)]) == 2
    assert "expected a JSON object that describes a run" in capsys.readouterr().err


def test_folder_without_a_run_is_named(tmp_path, capsys):
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "no evaluation and no validation in it" in capsys.readouterr().err
