# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Every way in which a server fails, row by row, against a server on the loopback that fails in that way."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import resource
import subprocess
import sys
import time

import pytest
from scripted_server import Reply, ScriptedServer, completion, say

from verl_videomtr.serving.client import Body, Client
from verl_videomtr.serving.journal import Journal, SharedJournal
from verl_videomtr.serving.server import AskError, Refused, Server, Unanswered

KEY = "sk-very-secret-0123456789"
BODY = Body.of({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
WHOLE = json.dumps(completion("fine")).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def ask(server, *, times=1, **changes):
    """Ask one after the other; return what came: completions, or the exception that each request raised."""
    settings = {"backoff_seconds": 0.01, "timeout_seconds": 2.0, "max_attempts": 3, "api_key": KEY, **changes}

    async def run():
        results = []
        async with Client(Server(base_url=server.url, **settings)) as client:
            for _ in range(times):
                try:
                    results.append(await client.complete(BODY))
                except (AskError, Refused, Unanswered) as error:
                    results.append(error)
        return results

    return asyncio.run(run())


def failing_twice(failure):
    return lambda request: failure if request.number < 2 else say("fine")


PASSING = {
    "429": Reply(status=429, body={"error": {"message": "slow down"}}),
    "500": Reply(status=500, body={"error": {"message": "oops"}}),
    "502 with a web page": Reply(status=502, body=b"<html>Bad gateway</html>", headers={"Content-Type": "text/html"}),
    "503": Reply(status=503),
    "connection reset": Reply(reset=True),
    "body cut": Reply(raw=[HEAD + b"Content-Length: %d\r\n\r\n" % len(WHOLE), WHOLE[:50]]),
    "chunks without the last one": Reply(raw=[HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + WHOLE[:5] + b"\r\n"]),
    "truncated JSON": Reply(body=WHOLE[:80]),
    "deep JSON": Reply(body=b"[" * 200_000),
    "no finish reason": Reply(body=completion("half an ans", finish_reason=None)),
    "no choices": Reply(body={"choices": []}),
    "no message": Reply(body={"choices": [{"finish_reason": "stop"}]}),
    "content that is no text": Reply(body=completion({"a": 1})),
    "given up by a server that is paused": Reply(body=completion("half an ans", finish_reason="abort")),
    "no HTTP at all": Reply(raw=[b"SSH-2.0-OpenSSH\r\n"]),
}


@pytest.mark.parametrize("name", PASSING)
def test_failure_that_may_pass_is_tried_again(name):
    with ScriptedServer(failing_twice(PASSING[name])) as server:
        (answer,) = ask(server)
    assert answer.content == "fine"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "failure",
    [
        Reply(delay_seconds=30.0),
        # A byte now and then: each would start a timeout between bytes anew.
        Reply(raw=[HEAD + b"Content-Length: 400\r\n\r\n", *[b" ", 0.1] * 300]),
    ],
    ids=["hangs", "trickles"],
)
def test_answer_that_does_not_come_in_time_is_tried_again(failure):
    with ScriptedServer(lambda request: failure if request.number < 1 else say("fine")) as server:
        began = time.monotonic()
        (answer,) = ask(server, timeout_seconds=0.6)
    assert answer.content == "fine"
    assert 0.5 < time.monotonic() - began < 8
    assert len(server.requests) == 2


def test_text_with_status_200_means_a_wrong_address_at_first_and_a_passing_failure_later():
    page = Reply(body=b"<html>welcome</html>", headers={"Content-Type": "text/html"})
    with ScriptedServer(lambda request: page) as server:
        (error,) = ask(server)
    assert isinstance(error, AskError)
    assert "something else than JSON (<html>welcome</html>); check --base-url" in str(error)
    with ScriptedServer(lambda request: page if request.number == 1 else say("fine")) as server:
        assert [answer.content for answer in ask(server, times=2)] == ["fine", "fine"]
    assert len(server.requests) == 3


def test_event_stream_that_was_not_asked_for_is_no_answer():
    stream = Reply(body=b'data: {"choices": []}\n\n', headers={"Content-Type": "text/event-stream"})
    with ScriptedServer(lambda request: stream) as server:
        (error,) = ask(server)
    assert isinstance(error, AskError)


def test_content_null_is_an_empty_answer_and_reasoning_is_kept_apart():
    script = [say(None), say("B", message={"reasoning": "I see"}), say("B", message={"reasoning_content": "Hm"})]
    with ScriptedServer(lambda request: script[request.number]) as server:
        answers = ask(server, times=3)
    assert [(answer.content, answer.reasoning) for answer in answers] == [("", None), ("B", "I see"), ("B", "Hm")]


def test_answer_of_50_megabytes_is_not_read_to_its_end():
    # What would follow never comes: whoever reads on waits in vain.
    huge = Reply(raw=[HEAD + b"Content-Length: 50000000\r\n\r\n{", *[b"x" * 2**20] * 18, 60.0])
    with ScriptedServer(lambda request: huge if request.number == 0 else say("fine")) as server:
        huge_answer, next_answer = ask(server, times=2, timeout_seconds=30.0, max_attempts=1)
    assert isinstance(huge_answer, Refused)
    assert "longer than 16,777,216 bytes" in str(huge_answer)
    assert next_answer.content == "fine"


def test_compressed_answer_that_grows_to_hundreds_of_megabytes_is_not_unpacked():
    bomb = gzip.compress(b"{" + b" " * 300 * 2**20)
    assert len(bomb) < 2**20
    huge = Reply(body=bomb, headers={"Content-Encoding": "gzip"})
    before = peak_bytes()
    with ScriptedServer(lambda request: huge if request.number == 0 else say("fine")) as server:
        huge_answer, next_answer = ask(server, times=2, timeout_seconds=30.0, max_attempts=1)
    assert isinstance(huge_answer, (Refused, Unanswered))
    assert peak_bytes() - before < 150 * 2**20
    assert next_answer.content == "fine"


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("status", [302, 307])
def test_redirection_is_not_followed_with_the_key(status):
    with ScriptedServer(lambda request: say("stolen")) as other:
        elsewhere = {"Location": f"{other.url}/chat/completions"}
        with ScriptedServer(lambda request: Reply(status=status, headers=elsewhere)) as server:
            (error,) = ask(server)
    assert isinstance(error, AskError)
    assert f"HTTP {status}" in str(error)
    assert other.requests == []


@pytest.mark.parametrize("status", [400, 413, 422])
def test_request_that_is_refused_is_not_sent_again(status):
    message = "This model's maximum context length is 512 tokens."
    script = [say("fine"), Reply(status=status, body={"error": {"message": message}}), say("fine")]
    with ScriptedServer(lambda request: script[request.number]) as server:
        _, refused, answer = ask(server, times=3)
    assert isinstance(refused, Refused)
    assert str(refused) == f"HTTP {status}: {message}"
    assert answer.content == "fine"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_wrong_key_or_model_stops_at_once(status):
    with ScriptedServer(lambda request: Reply(status=status, body={"error": {"message": "no"}})) as server:
        (error,) = ask(server)
    assert isinstance(error, AskError)
    assert f"HTTP {status}: no; check --base-url, --model" in str(error)
    assert len(server.requests) == 1


def test_account_that_cannot_pay_stops_at_once():
    broke = Reply(status=429, body={"error": {"message": "no money", "code": "insufficient_quota"}})
    with ScriptedServer(lambda request: broke) as server:
        (error,) = ask(server)
    assert isinstance(error, AskError)


def test_answer_that_a_filter_withheld_is_a_refusal_not_what_the_model_wrote():
    script = [say("fine"), say("", finish_reason="content_filter")]
    with ScriptedServer(lambda request: script[request.number]) as server:
        _, refused = ask(server, times=2)
    assert isinstance(refused, Refused)
    assert "finish_reason='content_filter'" in str(refused)
    assert len(server.requests) == 2


def test_error_that_comes_with_status_200_is_told():
    broken = Reply(body={"error": {"message": "upstream provider is down", "code": 502}})
    with ScriptedServer(lambda request: broken) as server:
        (failure,) = ask(server)
    assert isinstance(failure, Unanswered)
    assert "no choices in it: upstream provider is down" in str(failure)


def test_tries_that_fail_are_told_while_the_run_waits_and_not_each(caplog):
    with ScriptedServer(lambda request: say("fine") if request.number == 6 else Reply(status=503)) as server:
        ask(server, max_attempts=7)
    (record,) = caplog.records
    assert f"{server.url}: 1 tries have failed so far, the last: HTTP 503" in record.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timeout_seconds": float("nan")}, "timeout_seconds=nan; expected a finite number above 0; correct --timeout"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds=inf"),
        ({"max_attempts": 0}, "correct --max-attempts"),
        ({"backoff_seconds": -1.0}, "backoff_seconds=-1.0; expected 0 or more"),
        ({"api_key": "sk-secret\n"}, "the key of OPENAI_API_KEY has a line break"),
        ({"api_key": "sk-\N{EN DASH}secret"}, "expected printable ASCII"),
        ({"base_url": "http://[::1/v1"}, "not an address"),
        ({"base_url": "http://host:99999/v1"}, "not an address"),
        ({"base_url": "localhost:8000/v1"}, "not an address"),
    ],
)
def test_settings_of_which_no_request_can_come_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Server(**{"base_url": "http://host/v1", **changes})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (Reply(status=401, body={"error": {"message": "no key"}}), "HTTP 401: no key; .*set OPENAI_API_KEY"),
        (Reply(status=503, body=b"<html>starting</html>"), "HTTP 503: <html>.*wait until it does"),
        (Reply(status=404), "HTTP 404: .*check --base-url"),
        (Reply(delay_seconds=5.0), "no answer within 0.3 s; .*still loads its model"),
        (Reply(body=b"<html>welcome</html>"), "the answer is no JSON; .*check --base-url"),
    ],
)
def test_server_that_does_not_list_its_models_says_what_to_do(listing, message):
    async def run(url):
        async with Client(Server(base_url=url, timeout_seconds=0.3, api_key=KEY)) as client:
            await client.get("/models")

    server = ScriptedServer(lambda request: say("fine"), listing=listing)
    with server, pytest.raises(AskError, match=message):
        asyncio.run(run(server.url))


def test_proxy_that_other_clients_take_is_named_where_a_server_cannot_be_reached(monkeypatch):
    async def run(url):
        async with Client(Server(base_url=url)) as client:
            await client.get("/models")

    with ScriptedServer(lambda request: say("fine")) as server:
        pass
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    with pytest.raises(AskError, match=r"cannot be reached \(.*\), HTTPS_PROXY not used"):
        asyncio.run(run(server.url))


def test_server_that_refuses_everything_stops_the_run():
    with ScriptedServer(lambda request: Reply(status=400, body={"error": {"message": "no images"}})) as server:
        results = ask(server, times=10)
    assert [type(result) for result in results] == [Refused] * 9 + [AskError]
    assert "refuses every request: HTTP 400: no images" in str(results[-1])


def test_ten_in_a_row_without_an_answer_stop_the_run():
    with ScriptedServer(lambda request: say("fine") if request.number == 0 else Reply(status=500)) as server:
        results = ask(server, times=11, max_attempts=1)
    assert [type(result) for result in results[1:]] == [Unanswered] * 9 + [AskError]
    assert "10 requests in a row had no answer" in str(results[-1])


def test_server_that_is_not_there_is_unanswered():
    with ScriptedServer(lambda request: say("fine")) as server:
        pass
    (failure,) = ask(server, max_attempts=2)
    assert isinstance(failure, Unanswered)
    assert "after 2 attempts" in str(failure)


def test_dead_idle_connection_costs_no_attempt():
    with ScriptedServer(lambda request: Reply(body=completion("fine"), close_after=True)) as server:

        async def run():
            async with Client(Server(base_url=server.url, max_attempts=1, timeout_seconds=5.0)) as client:
                first = await client.complete(BODY)
                # As a server does that ends between two requests, before the client has noticed.
                return first, await client.complete(BODY)

        answers = asyncio.run(run())
    assert [answer.content for answer in answers] == ["fine", "fine"]


def test_reset_on_a_reused_connection_is_sent_again_without_counting():
    def script(request):
        return Reply(reset=True) if request.number == 1 else say("fine")

    with ScriptedServer(script) as server:
        answers = ask(server, times=2, max_attempts=1)
    assert [answer.content for answer in answers] == ["fine", "fine"]
    assert [request.connection for request in server.requests] == [0, 0, 1]


def test_reset_on_a_new_connection_counts():
    with ScriptedServer(lambda request: Reply(reset=True)) as server:
        (failure,) = ask(server, max_attempts=2)
    assert isinstance(failure, Unanswered)
    assert len(server.requests) == 2


def test_retry_after_is_obeyed_and_bounded_waits_grow():
    wait = Reply(status=429, headers={"Retry-After": "0.6"})
    with ScriptedServer(lambda request: wait if request.number == 0 else say("fine")) as server:
        began = time.monotonic()
        ask(server)
        assert time.monotonic() - began >= 0.6


def test_key_reaches_no_error_and_no_answer():
    def script(request):
        assert request.headers["authorization"] == f"Bearer {KEY}"
        if request.number == 0:
            return say(f"my key is {KEY}", message={"reasoning": KEY})
        return Reply(status=500 if request.number == 1 else 404, body={"error": {"message": f"bad key {KEY}"}})

    with ScriptedServer(script) as server:
        answer, unanswered, error = ask(server, times=3, max_attempts=1)
    assert (answer.content, answer.reasoning) == ("my key is [key]", "[key]")
    assert "bad key [key]" in str(unanswered)
    assert "bad key [key]" in str(error)
    assert KEY not in f"{answer!r}{unanswered!r}{error!r}{Server(base_url=server.url, api_key=KEY)!r}"


def test_body_is_sent_in_pieces_that_are_never_joined():
    piece = json.dumps("data:image/png;base64," + "A" * 100_000).encode()
    parts = [b'{"model":"m","messages":[{"role":"user","content":[', *[piece, b","] * 20, b'"end"]}]}']
    body = Body(parts)
    with ScriptedServer(lambda request: say(str(len(request.body["messages"][0]["content"])))) as server:

        async def run():
            async with Client(Server(base_url=server.url)) as client:
                return await client.complete(body)

        assert asyncio.run(run()).content == "21"
    assert int(server.requests[0].headers["content-length"]) == body.num_bytes == sum(map(len, parts))


def test_counts_and_token_ids_are_read():
    reply = say(
        "x",
        usage={"prompt_tokens_details": {"cached_tokens": 64}},
        top={"prompt_token_ids": [1, 2]},
        choice={"token_ids": [3]},
    )
    with ScriptedServer(lambda request: reply) as server:
        (answer,) = ask(server)
    assert (answer.input_tokens, answer.output_tokens, answer.cached_tokens) == (100, 20, 64)
    assert (list(answer.prompt_ids), list(answer.response_ids)) == ([1, 2], [3])


def test_journal_of_many_tasks_is_whole_and_waits_for_the_disk_off_the_loop(tmp_path):
    async def run(journal):
        shared = SharedJournal(journal)
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticker = asyncio.create_task(tick())
        await asyncio.gather(*(shared.append({"key": str(number)}) for number in range(500)))
        ticker.cancel()
        await shared.drain()
        assert shared.get("7") == {"key": "7"}
        return ticks

    with Journal(tmp_path / "journal.jsonl") as journal:
        assert asyncio.run(run(journal)) > 1
    assert sorted(
        map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines()), key=lambda e: int(e["key"])
    ) == [{"key": str(number)} for number in range(500)]


FULL_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
from verl_videomtr.serving.journal import Journal, JournalError, SharedJournal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])

async def run(shared):
    await shared.append({"key": "a"})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    try:
        await shared.append({"key": "b", "text": "x" * 300})
    except JournalError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await shared.append({"key": "c"})

with Journal(path) as journal:
    asyncio.run(run(SharedJournal(journal)))
with Journal(path) as journal:
    print(list(journal.entries))
"""


def test_journal_on_a_full_disk_fails_the_task_that_waits_and_stays_whole(tmp_path):
    """The system writes a part of the line, and refuses the rest."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "journal.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, keys = done.stdout.splitlines()
    assert "an answer cannot be kept ([Errno 27] File too large); expected a place to write" in refused
    assert keys == "['a', 'c']"
