"""The reward: hand examples with their sums, laws, and the wrapper that verl calls."""

from __future__ import annotations

import pytest

from verl_videomtr.rewards import RewardConfig, compute_score, turn_rewards

PAPER = RewardConfig.preset("paper")
RELEASED = RewardConfig.preset("released_code")
close = pytest.approx


def rewards_of(ious, *, correct, initial=0.1, format_ok=None, config=PAPER):
    """An episode that retrieved with these IoUs and then answered."""
    return turn_rewards(
        correct=correct,
        format_ok=format_ok or [True] * (len(ious) + 1),
        initial_iou=initial,
        retrieval_ious=[*ious, None],
        config=config,
    )


@pytest.mark.parametrize(
    ("what", "ious", "correct", "expected"),
    [
        # Turn 0: 0.4 > 0.1 + 0.001 -> 0.5 + 0.1. Turn 1: 0.3 < best 0.4 -> -0.5 * 0.1 + 0.1. Answer: 1 + 0.1.
        ("better, then worse", [0.4, 0.3], True, [0.6, 0.05, 1.1]),
        # The same with a wrong answer: the gate leaves R_format of the last turn.
        ("gate closed", [0.4, 0.3], False, [0.0, 0.0, 0.1]),
        # 0.05 < 0.1 -> -0.5 * 0.05; 0.1 is no better than the best, 0.1 -> 0.
        ("worse, then as before", [0.05, 0.1], True, [0.075, 0.1, 1.1]),
        # Within the margin of 0.001 is not better, and not worse either.
        ("within the margin", [0.1005], True, [0.1, 1.1]),
        ("answer at once", [], True, [1.1]),
        ("wrong at once", [], False, [0.1]),
        ("two improvements", [0.2, 0.9], True, [0.6, 0.6, 1.1]),
    ],
)
def test_paper_examples(what, ious, correct, expected):
    assert rewards_of(ious, correct=correct) == close(expected)


@pytest.mark.parametrize(
    ("what", "ious", "correct", "expected"),
    [
        # The answer at turn index 2 is worth 1 - 0.1 * 2; no penalty for the drop.
        ("better, then worse", [0.4, 0.3], True, [0.6, 0.1, 0.9]),
        # Against the previous turn: falling to 0.2 and coming back to 0.4 pays again.
        ("oscillation pays", [0.4, 0.2, 0.4], True, [0.6, 0.1, 0.6, 0.8]),
        # Wrong: the last positive reward is the answer's 0.1 < 0.5, so 0.5 comes off what is above 0.5; format stays.
        ("gate closed", [0.4, 0.3], False, [0.1, 0.1, 0.1]),
        ("answer at once", [], True, [1.1]),
    ],
)
def test_released_code_examples(what, ious, correct, expected):
    assert rewards_of(ious, correct=correct, config=RELEASED) == close(expected)


def test_released_code_gate_has_its_hole():
    # The last turn is invalid, so the last positive reward is the retrieval's 0.6: nothing is taken.
    invalid_last = turn_rewards(
        correct=False, format_ok=[True, False], initial_iou=0.1, retrieval_ious=[0.4, None], config=RELEASED
    )
    assert invalid_last == close([0.6, 0.0])
    # The last turn retrieves well.
    retrieves_last = turn_rewards(
        correct=False, format_ok=[True, True], initial_iou=0.1, retrieval_ious=[0.05, 0.4], config=RELEASED
    )
    assert retrieves_last == close([0.1, 0.6])
    # The paper's gate closes on both.
    assert turn_rewards(correct=False, format_ok=[True, False], initial_iou=0.1, retrieval_ious=[0.4, None]) == close(
        [0.0, 0.0]
    )
    assert turn_rewards(correct=False, format_ok=[True, True], initial_iou=0.1, retrieval_ious=[0.05, 0.4]) == close(
        [0.0, 0.1]
    )


def test_compute_score_returns_the_turns_and_the_components():
    episode = {
        "answer": "(b)",
        "format_ok": [True, True, True],
        "initial_iou": 0.1,
        "retrieval_ious": [0.4, 0.3, None],
        "stop_reason": "answered",
    }
    info = {"question_type": "multiple_choice", "options": ["a dog", "a cat"], "episode": episode}
    result = compute_score("nextgqa", "", "B", info)
    assert result["score"] == close(1.75)
    assert result["acc"] == 1.0
    assert result["turn_rewards"] == close([0.6, 0.05, 1.1])
    assert result["components"] == close({"acc": 1.0, "fms": 0.45, "format": 0.3, "gate_open": 1})
    released = compute_score("nextgqa", "", "B", info, preset="released_code")
    assert released["turn_rewards"] == close([0.6, 0.1, 0.9])
