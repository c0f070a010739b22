# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the adapter for lmms-eval hands over and back, without lmms-eval, whose two names have stand-ins here.

test_lmms_eval.py runs it inside the real one.
"""

from __future__ import annotations

import importlib
import sys
import types

import pytest
from scripted_server import Reply, ScriptedServer, say
from trainer_runs import make_needles

from verl_videomtr.evaluation.run_file import RunError

OVERRIDES = "+videomtr=paper +videomtr/model=tiny"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = make_needles(tmp_path_factory.mktemp("lmms"), num_train=4)
    return sorted(folder.rglob("*.mp4"))


@pytest.fixture
def adapter(monkeypatch):
    class Lmms:
        def __init__(self):
            self.task_dict = {}

    class Manifest:
        def __init__(self, **fields):
            self.__dict__.update(fields)

    for name, values in (("lmms_eval.api.model", {"lmms": Lmms}), ("registry_v2", {"ModelManifest": Manifest})):
        path = name if "." in name else f"lmms_eval.models.{name}"
        for part in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        module = types.ModuleType(path)
        module.__dict__.update(values)
        monkeypatch.setitem(sys.modules, path, module)
    monkeypatch.delitem(sys.modules, "verl_videomtr.integrations.lmms_eval", raising=False)
    return importlib.import_module("verl_videomtr.integrations.lmms_eval")


def question(video, *texts, **media):
    content = [{"type": "video", "url": str(video), **media}, *({"type": "text", "text": text} for text in texts)]
    return [{"role": "user", "content": content}]


def ask(adapter, out, servers, messages, **options):
    """Hand over documents as lmms-eval does; return the answers."""
    base_url = " ".join(server.url for server in servers)
    model = adapter.VideoMTR(out=str(out), base_url=base_url, overrides=OVERRIDES, backoff=0.01, **options)
    documents = dict(enumerate(messages))
    model.task_dict = {"needles": {"test": documents}}
    requests = [
        types.SimpleNamespace(
            args=("context", lambda document: document, {"max_new_tokens": 16}, number, "needles", "test")
        )
        for number in documents
    ]
    return model.generate_until(requests)


def script(request):
    if "Where is it?" in request.text:
        return say("x", usage={"prompt_tokens": len(request.text)})
    if "refused" in request.text:
        return Reply(status=400, body={"error": {"message": "no"}})
    if "unsure" in request.text:
        return say("nothing of use")
    answer = "ABCD"[int(request.text.split("Question ")[1][0])]
    return say(f"<think>0 nothing</think><answer>{answer}</answer>")


def played(server):
    return [request for request in server.requests if "Where is it?" not in request.text]


def test_it_is_found_under_its_name(adapter):
    assert (adapter.MANIFEST.model_id, adapter.MANIFEST.chat_class_path) == (
        "video_mtr",
        "verl_videomtr.integrations.lmms_eval.VideoMTR",
    )
    assert not adapter.VideoMTR.is_simple


def test_answers_come_in_the_order_of_the_requests_and_failures_are_empty(adapter, videos, tmp_path, caplog):
    messages = [
        question(videos[0], "Question 2?", "A. x"),
        question(videos[1], "Question 1, refused?"),
        question(videos[0], "Question 0?"),
        question(videos[1], "Question 3, unsure?"),
    ]
    with ScriptedServer(script) as server:
        assert ask(adapter, tmp_path / "out", [server], messages) == ["C", "", "A", ""]
    assert "Question 2?\nA. x" in next(request.text for request in played(server) if "Question 2" in request.text)
    assert all(request.body["max_completion_tokens"] == 16 for request in played(server))  # the tiny preset's own
    assert "needles/test/1/1 has no answer: HTTP 400: no" in caplog.text


def test_options_are_those_of_eval(adapter, videos, tmp_path):
    messages = [question(videos[number % 3], f"Question {number % 4}?", f"copy {number}") for number in range(8)]
    with ScriptedServer(lambda request: Reply(body=script(request).body, delay_seconds=0.05)) as server:
        options = {"single_turn": True, "concurrency": 2, "image_format": "png", "model": "m"}
        assert ask(adapter, tmp_path / "out", [server], messages, **options) == list("ABCDABCD")
    assert server.most_in_flight == 2
    (content, *_) = [request.body["messages"][-1]["content"] for request in played(server)]
    pictures = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    assert len(pictures) == 16  # the whole budget at once
    assert pictures[0].startswith("data:image/png;")


def test_it_goes_on_where_it_was_stopped_and_other_questions_are_another_run(adapter, videos, tmp_path):
    messages = [question(videos[0], "Question 0?"), question(videos[1], "Question 1?")]
    with ScriptedServer(script) as one, ScriptedServer(script) as two:
        assert ask(adapter, tmp_path / "out", [one, two], messages) == ["A", "B"]
        number = len(played(one)) + len(played(two))
        assert ask(adapter, tmp_path / "out", [one, two], messages) == ["A", "B"]
        assert number == len(played(one)) + len(played(two)) == 2
        assert one.requests  # both were looked at before the run
        assert two.requests
        with pytest.raises(RunError, match="another run"):
            ask(adapter, tmp_path / "out", [one], [question(videos[0], "Question 3?")])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "Question 0?"}]}], r"with \[\]; expected one video"),
        (question("a.mp4", "Question 0?") + question("b.mp4"), "expected one video file; document 0 of needles"),
        ([{"role": "user", "content": [{"type": "image", "url": "a.png"}]}], r"\['image'\]; expected one video"),
        ([{"role": "user", "content": [{"type": "video", "url": [1, 2]}]}], "expected one video file"),
        (question("a.mp4", "Question 0?", start_time=3.0), "a part of a video; expected the whole"),
        (question("a.mp4", "Question 0?", end_time=3.0), "a part of a video; expected the whole"),
    ],
)
def test_question_that_is_not_about_one_whole_video_is_refused(adapter, tmp_path, message, words):
    with ScriptedServer(script) as server, pytest.raises(ValueError, match=words):
        ask(adapter, tmp_path / "out", [server], [message])
    assert server.requests == []


def test_video_is_named_from_where_it_was_started(adapter, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(videos[0].parent)
    with ScriptedServer(script) as server:
        assert ask(adapter, tmp_path / "out", [server], [question(videos[0].name, "Question 0?")]) == ["A"]


def test_other_kinds_of_tasks_are_refused(adapter, tmp_path):
    model = adapter.VideoMTR(out=str(tmp_path), overrides=OVERRIDES)
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="expected a task of generate_until"):
            method([])
