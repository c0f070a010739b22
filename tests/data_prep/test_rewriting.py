# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a language model's answer must look like, and the journal that keeps it."""

import json
import multiprocessing
from collections import Counter

import pytest

from data_prep.drops import Dropped
from data_prep.rewriting import read_rewrite, request_body, request_key
from verl_videomtr.serving.journal import Journal, JournalError

GOOD = {
    "suitable": True,
    "question": "What does the man in the kitchen pour?",
    "options": ["tea", "milk", "juice", "water"],
    "answer": "tea",
}


def answer(**changes):
    return json.dumps({**GOOD, **changes})


def test_request_constrains_the_answer_to_the_schema():
    body = request_body("A man pours tea.", model="m", max_tokens=99)
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["required"] == ["suitable", "question", "options", "answer"]
    assert schema["schema"]["additionalProperties"] is False
    assert body["messages"][1]["content"].endswith("A man pours tea.")
    assert body["max_completion_tokens"] == 99


def test_key_follows_the_request():
    body = request_body("A man pours tea.", model="m", max_tokens=99)
    assert request_key(body) == request_key(json.loads(json.dumps(body)))
    assert request_key(body) != request_key(request_body("A man pours tea.", model="n", max_tokens=99))
    assert request_key(body) != request_key(request_body("A man pours milk.", model="m", max_tokens=99))
    assert request_key(body) == request_key(request_body("A man pours tea.", model="m", max_tokens=512))


def test_right_option_is_placed_by_the_seed():
    places = Counter()
    for seed in range(400):
        choice = read_rewrite(answer(), seed=str(seed))
        assert choice.options["ABCD".index(choice.answer)] == "tea"
        assert sorted(choice.options) == sorted(GOOD["options"])
        places[choice.answer] += 1
    assert read_rewrite(answer(), seed="7") == read_rewrite(answer(), seed="7")
    # 400 draws of 1/4 each: 100 expected, standard deviation 8.7.
    assert all(60 <= places[letter] <= 140 for letter in "ABCD")


def test_letters_in_front_are_removed_and_may_be_the_answer():
    lettered = ["A. tea", "B. milk", "C. juice", "D. water"]
    choice = read_rewrite(answer(options=lettered, answer="C"), seed="0")
    assert choice.options["ABCD".index(choice.answer)] == "juice"


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (answer(suitable=False, question="", options=[], answer=""), "judged unsuitable", ""),
        (answer()[:-9], "malformed answer", "Invalid JSON"),
        ("", "malformed answer", "Invalid JSON"),
        ("Sure! Here is a question.", "malformed answer", "Invalid JSON"),
        ('{"suitable": true}', "malformed answer", "question: Field required"),
        (answer(suitable="yes"), "malformed answer", "suitable"),
        (answer(mood="good"), "malformed answer", "mood: Extra inputs"),
        (answer(question=" "), "malformed answer", "no question"),
        (answer(options=["tea", "milk", "juice"]), "malformed answer", "3 options"),
        (answer(options=["tea", "milk", "juice", " "]), "malformed answer", "expected 4 texts"),
        (answer(options=["tea", "milk", "Tea", "water"]), "duplicate option text", "Tea"),
        (answer(answer="coffee"), "answer is not among the options", "coffee"),
    ],
)
def test_unusable_answer_is_dropped_with_its_reason(content, reason, detail):
    with pytest.raises(Dropped) as caught:
        read_rewrite(content, seed="0")
    assert caught.value.reason == reason
    assert detail in caught.value.detail


def test_journal_gives_back_what_was_appended(tmp_path):
    with Journal(tmp_path / "new" / "journal.jsonl") as journal:
        journal.append({"key": "a", "content": "é\nline"})
        journal.append({"key": "b", "content": "1"})
        journal.append({"key": "b", "content": "2"})
    with Journal(journal.path) as again:
        assert again.entries == {"a": {"key": "a", "content": "é\nline"}, "b": {"key": "b", "content": "2"}}


def test_journal_keeps_an_answer_that_utf8_cannot_hold(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append({"key": "a", "content": "half a \ud83d"})
    with Journal(journal.path) as again:
        assert again.entries["a"]["content"] == "half a \ud83d"


def test_torn_last_line_is_cut_off_and_the_rest_kept(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"key": "a"}\n{"key": "b", "conte')
    with Journal(path) as journal:
        assert list(journal.entries) == ["a"]
        journal.append({"key": "c"})
    assert path.read_bytes() == b'{"key": "a"}\n{"key": "c"}\n'


@pytest.mark.parametrize("content", [b'{"qid": 1}\n{"qid": 2}', b'{"qid": 1}', b"video,question"])
def test_file_of_somebody_else_is_refused_and_left_alone_to_the_last_byte(tmp_path, content):
    path = tmp_path / "annotations.jsonl"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"is not an entry|no entry in it"):
        Journal(path)
    assert path.read_bytes() == content


def test_journal_killed_in_its_first_write_starts_again(tmp_path):
    for content in (b"", b'{"k', b'{"key": "a", "con'):
        path = tmp_path / "journal.jsonl"
        path.write_bytes(content)
        with Journal(path) as journal:
            assert journal.entries == {}
        assert path.read_bytes() == b""


def test_strange_line_is_named_and_the_file_left_alone(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"key": "a"}\nnot json\n{"key": "b"}\n')
    with pytest.raises(JournalError, match="line 2 is not an entry"):
        Journal(path)
    assert path.read_bytes().count(b"\n") == 3


def _try_to_open(path, results):
    try:
        Journal(path).close()
        results.put("opened")
    except JournalError as error:
        results.put(str(error))


def test_two_runs_cannot_share_a_journal(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with Journal(tmp_path / "journal.jsonl") as journal:
        other = context.Process(target=_try_to_open, args=(journal.path, results))
        other.start()
        assert "another run is writing it" in results.get(timeout=30)
        other.join(30)
