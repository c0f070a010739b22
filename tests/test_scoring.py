"""A user's stock verl reward function can take the package's place."""

from __future__ import annotations

import numpy as np
import pytest

from verl_videomtr.rewards import compute_score
from verl_videomtr.sample import Sample
from verl_videomtr.scoring import score_episode

SAMPLE = Sample(
    data_source="d",
    sample_id="s",
    index=0,
    split="train",
    video="v.mp4",
    duration_seconds=9.0,
    question="Which?",
    options=("red", "blue"),
    answer="B",
    question_type="multiple_choice",
)


def make_record(answer="B", num_turns=2):
    return {
        "answer": answer,
        "format_ok": [True] * num_turns,
        "initial_iou": 0.1,
        "retrieval_ious": [0.5] + [None] * (num_turns - 1) if num_turns > 1 else [None],
        "responses": [f"response {i}" for i in range(num_turns)],
        "stop_reason": "answered",
    }


async def test_number_goes_to_the_last_turn():
    score = await score_episode(lambda **_: 0.7, SAMPLE, make_record())
    assert score.turn_rewards == [0.0, 0.7]
    assert score.correct  # judged by the answer, since the function did not say


async def test_async_function_and_numpy_number():
    async def judge(data_source, solution_str, ground_truth, extra_info):
        assert (data_source, solution_str, ground_truth) == ("d", "response 1", "B")
        assert extra_info["sample_id"] == "s"
        assert extra_info["episode"]["answer"] == "A"
        return np.float32(0.25)

    score = await score_episode(judge, SAMPLE, make_record(answer="A"))
    assert score.turn_rewards == [0.0, 0.25]
    assert not score.correct


async def test_dict_keeps_its_numbers_and_its_own_accuracy():
    score = await score_episode(
        lambda **_: {"score": 1.0, "acc": 0, "length": 3, "pred": "B", "reward": 9.0}, SAMPLE, make_record()
    )
    assert score.turn_rewards == [0.0, 1.0]
    assert not score.correct
    assert score.numbers == {"length": 3.0}


async def test_the_packages_function_rewards_every_turn():
    score = await score_episode(compute_score, SAMPLE, make_record())
    # Gate open: turn 0 raised the IoU from 0.1 to 0.5 (+0.5) in good form (+0.1); turn 1 is right (1) in good form.
    assert score.turn_rewards == pytest.approx([0.6, 1.1])
    assert score.correct
    assert score.components["gate_open"] == 1


@pytest.mark.parametrize("returned", [None, "good", {"accuracy": 1.0}, [1.0]])
async def test_other_results_are_refused(returned):
    with pytest.raises(ValueError, match=r"expected a number, or a dict with 'score'.*'s'"):
        await score_episode(lambda **_: returned, SAMPLE, make_record())


async def test_wrong_number_of_turn_rewards_is_refused():
    with pytest.raises(ValueError, match="1 turn rewards; expected one for each of the 2 turns"):
        await score_episode(lambda **_: {"turn_rewards": [1.0]}, SAMPLE, make_record())


async def test_episode_that_ended_before_any_response_scores_nothing():
    score = await score_episode(lambda **_: 0.0, SAMPLE, make_record(answer=None, num_turns=0))
    assert score.turn_rewards == []
