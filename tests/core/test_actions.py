# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Reading a response: every valid form, every way to be invalid, any text at all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz_actions import FRAGMENTS, check_parse
from hypothesis import example, given, settings
from hypothesis import strategies as st

from verl_videomtr.actions import Answer, Invalid, Retrieve, parse_action


def parse(text, **options):
    return parse_action(text, **{"pool_size": 128, **options})


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<think>look</think><retrieve>3,40</retrieve>", Retrieve(3, 40)),
        ("<think>look</think>\n<retrieve> 3 ,\n40 </retrieve>", Retrieve(3, 40)),
        ("<think></think><retrieve>0,127</retrieve>", Retrieve(0, 127)),
        ("<think>x</think><retrieve>5,5</retrieve>", Retrieve(5, 5)),
        ("<think>x</think><retrieve>005,0007</retrieve>", Retrieve(5, 7)),
        ("<think>x</think><answer>B</answer>", Answer("B")),
        ("<think>x</think><answer>\n B. a cat \n</answer>", Answer("B. a cat")),
        ("Sure.\n<think>x</think> So: <answer>B</answer> Done.", Answer("B")),
        ("<think>1 < 2 and <b>bold</b></think><answer>a < b</answer>", Answer("a < b")),
    ],
)
def test_valid_responses(text, action):
    assert parse(text) == action


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("The answer is B.", "no thought"),
        ("<answer>B</answer>", "no thought"),
        ("<think>x</think>", "no action"),
        ("<think>x</think>B", "no action"),
        ("<think>x", "<think> was not closed"),
        ("<think>x</think><answer>B", "<answer> was not closed"),
        ("<think>x</think>B</answer>", "</answer> comes without"),
        ("<think>a</think><think>b</think><answer>B</answer>", "more than one <think>"),
        ("<think>a</think><answer>B</answer><think>b</think>", "more than one <think>"),
        ("<answer>B</answer><think>a</think>", "after the action"),
        ("<think>a</think><answer>B</answer><answer>B</answer>", "more than one action"),
        ("<think>a</think><retrieve>1,2</retrieve><answer>B</answer>", "more than one action"),
        ("<think>a<retrieve>1,2</retrieve></think>", "inside the thought"),
        ("<think>a<answer>B</answer>", "inside the thought"),
        ("<think>a<think>b</think></think><answer>B</answer>", "nested"),
        ("<think>a</think><answer><retrieve>1,2</retrieve></answer>", "nested"),
        ("<think>a</think><answer>A<answer>B</answer></answer>", "nested"),
        ("<think>a</think><answer>B</think>", "nested"),
        ("<think>a</think><answer></answer>", "answer was empty"),
        ("<think>a</think><answer> \n</answer>", "answer was empty"),
        ("<think>a</think><answer>" + "x" * 513 + "</answer>", "513 characters"),
        ("<think>a</think><retrieve>9,3</retrieve>", "backwards"),
        ("<think>a</think><retrieve>0,128</retrieve>", "numbered 0 to 127"),
        ("<think>a</think><retrieve>128,128</retrieve>", "numbered 0 to 127"),
        ("<think>a</think><retrieve>0,99999999999999999999</retrieve>", "numbered 0 to 127"),
        ("<think>a</think><retrieve>0," + "9" * 5000 + "</retrieve>", "two whole numbers"),
        ("<think>a</think><retrieve></retrieve>", "two whole numbers"),
        ("<think>a</think><retrieve>3</retrieve>", "two whole numbers"),
        ("<think>a</think><retrieve>1,2,3</retrieve>", "two whole numbers"),
        ("<think>a</think><retrieve>-1,3</retrieve>", "two whole numbers"),
        ("<think>a</think><retrieve>1.5,3</retrieve>", "two whole numbers"),
        ("<think>a</think><retrieve>1e1,30</retrieve>", "two whole numbers"),
        ("<think>a</think><retrieve>٣,٤</retrieve>", "two whole numbers"),
        ("<think>a</think><retrieve>３,４</retrieve>", "two whole numbers"),
        ("<think>a</think><retrieve>1，2</retrieve>", "two whole numbers"),
        ("<think>a</think><retrieve>1-2</retrieve>", "two whole numbers"),
    ],
)
def test_invalid_responses_say_why(text, reason):
    action = parse(text)
    assert isinstance(action, Invalid)
    assert reason in action.reason
    assert len(action.reason) < 160


def test_only_an_answer_is_valid_on_the_last_turn():
    assert parse("<think>x</think><answer>B</answer>", last_turn=True) == Answer("B")
    for content in ("1,2", "2,1", "nonsense"):
        action = parse(f"<think>x</think><retrieve>{content}</retrieve>", last_turn=True)
        assert isinstance(action, Invalid)
        assert "last turn" in action.reason


def test_the_answer_limit_counts_the_stripped_text():
    assert parse("<think>x</think><answer> 12345 </answer>", max_answer_chars=5) == Answer("12345")
    assert isinstance(parse("<think>x</think><answer> 123456 </answer>", max_answer_chars=5), Invalid)


def test_a_pool_of_one_frame():
    assert parse("<think>x</think><retrieve>0,0</retrieve>", pool_size=1) == Retrieve(0, 0)
    assert isinstance(parse("<think>x</think><retrieve>0,1</retrieve>", pool_size=1), Invalid)


TIMES = [0.25 + 0.5 * i for i in range(8)]  # bin centres of a video of 4 seconds


@pytest.mark.parametrize(
    ("content", "action"),
    [
        ("0,4", Retrieve(0, 7)),
        ("0.25,1.25", Retrieve(0, 2)),
        ("0.3,1.2", Retrieve(0, 2)),  # a tenth of a second is what prompts announce
        ("0.4,1.1", Retrieve(1, 1)),
        ("0.4,0.6", Retrieve(0, 0)),  # no frame within; the middle, 0.5, is as near to 0 as to 1: the earlier
        ("1,1", Retrieve(1, 1)),
        ("0.55,0.65", Retrieve(1, 1)),
        ("4,4", Retrieve(7, 7)),
        ("0,0", Retrieve(0, 0)),
        (" 1.0 , 2.00 ", Retrieve(2, 3)),
        ("4.04,4.04", Retrieve(7, 7)),
    ],
)
def test_seconds(content, action):
    text = f"<think>x</think><retrieve>{content}</retrieve>"
    assert parse(text, pool_size=8, unit="seconds", frame_times_seconds=TIMES) == action


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("2,1", "backwards"),
        ("0,4.2", "ends at 4.0 seconds"),
        ("9,10", "ends at 4.0 seconds"),
        ("0,1e9", "two times in seconds"),
        ("00:01,00:02", "two times in seconds"),
        ("1s,2s", "two times in seconds"),
        ("nan,nan", "two times in seconds"),
        ("inf,inf", "two times in seconds"),
        (".5,1", "two times in seconds"),
        ("1.,2", "two times in seconds"),
        ("0," + "9" * 60, "leaves the video"),
        ("0," + "9" * 600, "two times in seconds"),
    ],
)
def test_seconds_that_are_invalid(content, reason):
    text = f"<think>x</think><retrieve>{content}</retrieve>"
    action = parse(text, pool_size=8, unit="seconds", frame_times_seconds=TIMES)
    assert isinstance(action, Invalid)
    assert reason in action.reason


def test_the_length_of_the_video_bounds_a_range_in_seconds():
    text = "<think>x</think><retrieve>3,9</retrieve>"
    options = {"pool_size": 8, "unit": "seconds", "frame_times_seconds": TIMES}
    assert parse(text, duration_seconds=9.0, **options) == Retrieve(6, 7)
    assert "ends at 8.0 seconds" in parse(text, duration_seconds=8.0, **options).reason


@given(
    gaps=st.lists(st.floats(0.11, 60), min_size=1, max_size=64),
    ends=st.tuples(st.integers(0, 63), st.integers(0, 63)),
    decimals=st.integers(1, 4),
)
def test_seconds_give_the_same_actions_as_indices(gaps, ends, decimals):
    # Name frames by their times as a prompt prints them, or more exactly.
    times, now = [], 0.0
    for gap in gaps:
        now += gap
        times.append(now)
    start, end = sorted(idx % len(times) for idx in ends)
    by_index = parse(f"<think>x</think><retrieve>{start},{end}</retrieve>", pool_size=len(times))
    by_time = parse(
        f"<think>x</think><retrieve>{times[start]:.{decimals}f},{times[end]:.{decimals}f}</retrieve>",
        pool_size=len(times),
        unit="seconds",
        frame_times_seconds=times,
    )
    assert by_index == by_time == Retrieve(start, end)


texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=12).map("".join)
shaped = st.builds(
    "{}<think>{}</think>{}<{tag}>{}</{tag}>{}".format,
    *[st.lists(st.sampled_from(FRAGMENTS[6:]) | st.text(max_size=5), max_size=3).map("".join)] * 5,
    tag=st.sampled_from(["retrieve", "answer"]),
)


@settings(max_examples=400, deadline=None)
@given(text=texts | shaped | st.text())
@example(text="<think><answer>A</answer></think>")
def test_any_text_keeps_the_promises(text):
    check_parse(text)


@pytest.mark.parametrize(
    "unit_of_text",
    [
        "<think>",
        "</think>",
        "<think></think>",
        "<answer>",
        "<",
        "</",
        "<think",
        " ",
        "9",
        "9,",
        "1.",
        "<retrieve>1,",
        "\u0663",
        "<think>a</think><answer>b</answer>",
    ],
)
@pytest.mark.parametrize(
    "frame",
    [
        "{}",
        "<think>{}</think><retrieve>1,2</retrieve>",
        "<think>a</think><retrieve>{}</retrieve>",
        "<think>a</think><answer>{}",
    ],
)
def test_megabytes_are_read_in_linear_time(unit_of_text, frame):
    text = frame.format(unit_of_text * (2_000_000 // len(unit_of_text)))
    for options in ({}, {"unit": "seconds", "frame_times_seconds": TIMES, "pool_size": 8}):
        start = time.process_time()
        parse(text, **options)
        assert time.process_time() - start < 2.0  # milliseconds as a rule; minutes if anything were quadratic


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_size": 0}, "pool_size=0; expected at least 1"),
        ({"unit": "frames"}, "unit='frames'; expected 'index' or 'seconds'"),
        ({"unit": "seconds"}, "None frame times for pool_size=128"),
        ({"unit": "seconds", "frame_times_seconds": [0.0]}, "1 frame times for pool_size=128"),
        ({"unit": "seconds", "pool_size": 2, "frame_times_seconds": [2.0, 1.0]}, "ascending seconds"),
        ({"unit": "seconds", "pool_size": 2, "frame_times_seconds": [0.0, float("nan")]}, "finite"),
        ({"unit": "seconds", "pool_size": 2, "frame_times_seconds": [-1.0, 1.0]}, "from 0"),
    ],
)
def test_a_wrong_call_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        parse("<think>x</think><answer>B</answer>", **options)


@pytest.mark.slow
def test_coverage_guided_fuzzing_finds_nothing(tmp_path):
    pytest.importorskip("atheris")
    fuzzer = Path(__file__).parents[1] / "support/fuzz_actions.py"
    done = subprocess.run(
        [sys.executable, str(fuzzer), "-runs=300000", "-max_len=2000", "-seed=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done 300000 runs" in done.stderr
