"""Reading a response: every valid form, every way to be invalid, any text at all."""

from __future__ import annotations

import pytest

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
