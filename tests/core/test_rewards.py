# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The reward: hand examples with their sums, laws, and the wrapper that verl calls."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_videomtr.rewards import RewardConfig, compute_score, reward_breakdown, turn_rewards

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
        # The best moves to 0.1009 all the same: 0.1018 is no more than 0.001 above it.
        ("creeping up", [0.1009, 0.1018], True, [0.1, 0.1, 1.1]),
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


def test_without_a_gate_a_retrieval_at_the_last_turn_still_earns_no_turn_level_reward():
    # An episode cut off right after its second retrieval: the sum over R_fms ends before the last turn.
    rewards = turn_rewards(
        correct=False,
        format_ok=[True, True],
        initial_iou=0.1,
        retrieval_ious=[0.4, 0.9],
        config=RewardConfig.preset("paper", gate="none"),
    )
    assert rewards == close([0.6, 0.1])


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


@pytest.mark.parametrize(
    ("what", "overrides", "correct", "expected"),
    [
        ("no gate", {"gate": "none"}, False, [0.6, 0.05, 0.1]),
        ("no turn-level reward", {"turn_level": False}, True, [0.1, 0.1, 1.1]),
        ("no turn-level reward, wrong", {"turn_level": False}, False, [0.0, 0.0, 0.1]),
        ("accuracy only", {"accuracy_only": True}, True, [0.0, 0.0, 1.0]),
        ("accuracy only, wrong", {"accuracy_only": True}, False, [0.0, 0.0, 0.0]),
        ("a steeper penalty", {"drop_penalty": 1.0}, True, [0.6, 0.0, 1.1]),
        ("decay of the answer", {"accuracy_decay": 0.1}, True, [0.6, 0.05, 0.9]),
        ("against the turn before", {"baseline": "previous"}, True, [0.6, 0.05, 1.1]),
    ],
)
def test_every_ablation_is_one_override(what, overrides, correct, expected):
    config = RewardConfig.preset("paper", **overrides)
    assert rewards_of([0.4, 0.3], correct=correct, config=config) == close(expected)


def test_an_invalid_turn_earns_nothing_and_keeps_the_best():
    # Turn 1 is invalid; turn 2 repeats turn 0's IoU and so improves on nothing.
    rewards = turn_rewards(
        correct=True,
        format_ok=[True, False, True, True],
        initial_iou=0.1,
        retrieval_ious=[0.4, None, 0.4, None],
    )
    assert rewards == close([0.6, 0.0, 0.1, 1.1])


def test_without_ground_truth_there_is_no_turn_level_reward():
    for config in (PAPER, RELEASED):
        rewards = turn_rewards(
            correct=True,
            format_ok=[True, True],
            initial_iou=None,
            retrieval_ious=[None, None],
            config=config,
        )
        assert rewards[0] == close(0.1)


def test_an_episode_cut_off_before_its_first_turn_has_no_rewards():
    assert turn_rewards(correct=False, format_ok=[], initial_iou=0.2, retrieval_ious=[]) == []


ious = st.floats(0, 1)
episodes = st.lists(st.none() | ious, max_size=6).flatmap(
    lambda turns: st.fixed_dictionaries(
        {
            "initial_iou": ious,
            "retrieval_ious": st.just([*turns, None]),
            "format_ok": st.tuples(*[st.just(True) if iou is not None else st.booleans() for iou in turns]).map(
                lambda flags: [*flags, True]
            ),
        }
    )
)
configs = st.builds(
    RewardConfig.preset,
    st.sampled_from(["paper", "released_code"]),
    turn_level=st.booleans(),
    accuracy_only=st.booleans(),
    gate=st.sampled_from(["accuracy", "none", "released_code"]),
)


@given(episode=episodes)
def test_a_closed_gate_leaves_only_the_last_format_reward(episode):
    rewards = turn_rewards(correct=False, **episode)
    assert rewards == [0.0] * (len(rewards) - 1) + [0.1]


@given(episode=episodes, correct=st.booleans())
def test_the_paper_total_is_bounded(episode, correct):
    breakdown = reward_breakdown(correct=correct, **episode)
    num_retrievals = sum(iou is not None for iou in episode["retrieval_ious"])
    assert all(-0.5 <= reward <= 0.6 for reward in breakdown.rewards[:-1])
    assert -0.5 * num_retrievals <= breakdown.fms <= 0.5 * num_retrievals
    assert breakdown.total <= 1.0 + 0.5 * num_retrievals + 0.1 * len(breakdown.rewards) + 1e-9


@given(episode=episodes, correct=st.booleans(), config=configs)
def test_the_components_add_up_to_the_turns(episode, correct, config):
    breakdown = reward_breakdown(correct=correct, config=config, **episode)
    assert math.fsum(breakdown.rewards) == close(breakdown.total, abs=1e-9)
    assert len(breakdown.rewards) == len(episode["format_ok"])
    assert turn_rewards(correct=correct, config=config, **episode) == list(breakdown.rewards)


@given(seen=st.lists(ious, min_size=1, max_size=6), pick=st.integers(0, 5))
def test_repeating_never_pays(seen, pick):
    # Bring back again the frames of any earlier turn: R_fms of that turn is at most 0.
    initial, *before = seen
    again = seen[pick % len(seen)]
    rewards = rewards_of([*before, again], correct=True, initial=initial)
    assert rewards[-2] - 0.1 <= 1e-12


@given(low=ious, high=ious, rounds=st.integers(2, 10))
def test_oscillating_never_pays(low, high, rounds):
    # After the first visit to both, going back and forth can only lose.
    fms = [reward - 0.1 for reward in rewards_of([low, high] * rounds, correct=True, initial=0.0)[:-1]]
    assert sum(fms[2:]) <= 1e-9


@given(before=st.lists(ious, max_size=5), initial=ious, worse=ious, better=ious)
def test_more_iou_never_pays_less_at_the_same_turn(before, initial, worse, better):
    worse, better = sorted((worse, better))
    paid = [rewards_of([*before, iou], correct=True, initial=initial)[-2] for iou in (worse, better)]
    assert paid[0] <= paid[1] + 1e-12


@given(before=st.lists(ious, max_size=2), initial=ious)
def test_within_three_turns_a_right_answer_always_pays_more_than_a_wrong_one(before, initial):
    # The penalties that the open gate lets through, 0.5 a turn at most, never outweigh the answer.
    right, wrong = (sum(rewards_of(before, correct=correct, initial=initial)) for correct in (True, False))
    assert right > wrong


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_ok": [True]}, "1 format flags and 2 retrieval IoUs"),
        ({"retrieval_ious": [1.5, None]}, r"expected IoUs in \[0, 1\]"),
        ({"retrieval_ious": [float("nan"), None]}, r"expected IoUs in \[0, 1\]"),
        ({"initial_iou": None}, "expected no IoU without ground truth"),
        ({"format_ok": [True, False]}, "expected a valid answer last"),
        ({"retrieval_ious": [0.4, 0.5]}, "expected a valid answer last"),
    ],
)
def test_an_impossible_episode_is_an_error(changes, message):
    episode = {"format_ok": [True, True], "initial_iou": 0.1, "retrieval_ious": [0.4, None], **changes}
    with pytest.raises(ValueError, match=message):
        turn_rewards(correct=True, **episode)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RewardConfig.preset("mine"), "expected one of .'paper', 'released_code'"),
        (lambda: RewardConfig.preset("paper", gama=1), r"unknown=\['gama'\]; expected fields of RewardConfig"),
        (lambda: RewardConfig(format_reward=-0.1), "format_reward=-0.1; expected a finite number from 0"),
        (lambda: RewardConfig(drop_penalty=float("nan")), "drop_penalty=nan"),
        (lambda: RewardConfig(gate="half"), "gate='half'; expected one of accuracy, none, released_code"),
        (lambda: RewardConfig(baseline=1), "baseline=1; expected one of best, previous"),
        (lambda: RewardConfig(turn_level="no"), "turn_level='no'; expected true or false"),
        (lambda: RewardConfig(format_reward="high"), "format_reward='high'; expected a finite number"),
        (lambda: RewardConfig(drop_penalty=True), "drop_penalty=True; expected a finite number"),
    ],
)
def test_an_impossible_config_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


INFO = {"question_type": "multiple_choice", "options": ["a dog", "a cat"]}


@pytest.mark.parametrize(
    ("text", "score", "acc", "format_score"),
    [
        ("<think>x</think><answer>B</answer>", 1.1, 1.0, 0.1),
        ("<think>x</think><answer>A</answer>", 0.1, 0.0, 0.1),
        # A tool loop's text: earlier turns, tool output, then the last turn.
        ("<think>a</think> call\nframes\n<think>b</think><answer>(b)</answer>", 1.1, 1.0, 0.1),
        # Behind a tool's answer only the last message counts, not what was said before or by the environment.
        ("<think>a</think><answer>B</answer> <tool_response>Answer now.</tool_response> B", 0.0, 0.0, 0.0),
        ("<tool_response>Say <think>..</think><answer>B</answer>!</tool_response> <answer>A</answer>", 0.0, 0.0, 0.0),
        # No thought: the answer counts, the format does not.
        ("The answer: <answer>B</answer>", 1.0, 1.0, 0.0),
        ("<think>x</think><answer>A</answer><answer>B</answer>", 1.0, 1.0, 0.0),
        # An answer inside a thought, and one that was never closed, are none.
        ("<think><answer>B</answer></think>", 0.0, 0.0, 0.0),
        ("<think>x</think><answer>B", 0.0, 0.0, 0.0),
        ("<think>x</think><answer> </answer>", 0.0, 0.0, 0.0),
        ("B", 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_compute_score_without_an_episode_reads_the_last_answer(text, score, acc, format_score):
    result = compute_score("s", text, "B", INFO)
    assert result == close({"score": score, "acc": acc, "format": format_score})


def test_compute_score_of_an_episode_without_an_answer():
    episode = {"answer": None, "format_ok": [True, False], "initial_iou": 0.1, "retrieval_ious": [0.4, None]}
    result = compute_score("s", "", "B", {**INFO, "episode": episode})
    assert (result["score"], result["acc"], result["components"]["gate_open"]) == (0.0, 0.0, 0)


def test_compute_score_takes_what_parquet_and_verl_hand_over():
    np = pytest.importorskip("numpy")
    info = {"question_type": "numeric", "options": np.array([], dtype=object), "num_turns": 2}
    result = compute_score(
        data_source="s",
        solution_str="<think>x</think><answer>3.0 m</answer>",
        ground_truth="3",
        extra_info=info,
        accuracy_only=True,
        reward_router_address="host:1",
        reward_model_tokenizer=None,
    )
    assert result == {"score": 1.0, "acc": 1.0, "format": 0.0}


def test_compute_score_names_the_row_that_lacks_its_question_type():
    with pytest.raises(ValueError, match=r"extra_info has no question_type.*sample 'q7'"):
        compute_score("s", "<think>x</think><answer>B</answer>", "B", {"sample_id": "q7"})
    with pytest.raises(ValueError, match="expected fields of RewardConfig"):
        compute_score("s", "", "B", INFO, reward="paper")
