# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A user's stock verl reward function can take the package's place."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from verl_videomtr.rewards import compute_score
from verl_videomtr.sample import Sample
from verl_videomtr.scoring import MAX_AT_ONCE, score_episode

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


async def test_functions_run_in_threads_that_hold_up_no_exit():
    is_daemon = []

    def function(**_):
        is_daemon.append(threading.current_thread().daemon)
        return 0.5

    await score_episode(function, SAMPLE, make_record())
    assert is_daemon == [True]


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


@pytest.mark.parametrize(
    "returned",
    [
        float("nan"),
        float("inf"),
        {"score": None},
        {"score": "1"},
        {"score": float("nan")},
        {"turn_rewards": [0.0, float("nan")]},
        {"turn_rewards": [0.0, None]},
        {"turn_rewards": 1.0},
        {"score": 1.0, "acc": float("nan")},
        {"score": 1.0, "components": {"acc": float("inf")}},
    ],
    ids=str,
)
async def test_what_is_no_finite_number_is_refused_with_the_samples_name(returned):
    with pytest.raises(ValueError, match=r"the reward function returned .*expected .*sample 's'"):
        await score_episode(lambda **_: returned, SAMPLE, make_record())


def never_returns(**_):
    threading.Event().wait()


async def never_returns_async(**_):
    await asyncio.Event().wait()


@pytest.mark.parametrize("function", [never_returns, never_returns_async, lambda **_: never_returns_async()])
async def test_function_that_never_returns_is_given_up_with_the_samples_name(function):
    with pytest.raises(TimeoutError, match=r"not returned after 0.05 s.*videomtr.reward_timeout_seconds.*'s'"):
        await score_episode(function, SAMPLE, make_record(), timeout_seconds=0.05)


async def test_functions_that_wait_hold_up_nothing_else():
    gate, started = threading.Event(), threading.Semaphore(0)

    def waits(**_):
        started.release()
        gate.wait()
        return 0.5

    async def waits_and_blocks_its_loop(**_):
        return waits()

    async def score(function):
        return await score_episode(function, SAMPLE, make_record(), timeout_seconds=60)

    calls = [asyncio.create_task(score(function)) for function in [waits] * 24 + [waits_and_blocks_its_loop]]
    await asyncio.to_thread(lambda: [started.acquire() for _ in calls])  # all of them are running
    # The event loop and its executor, which tokenises, are free meanwhile.
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 60) == "free"
    assert not any(call.done() for call in calls)
    gate.set()
    assert [score.turn_rewards for score in await asyncio.gather(*calls)] == [[0.0, 0.5]] * 25


async def test_no_more_calls_at_once_than_there_are_places():
    running, most, lock = 0, 0, threading.Lock()

    def count(**_):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.001)
        with lock:
            running -= 1
        return 1.0

    await asyncio.gather(*(score_episode(count, SAMPLE, make_record()) for _ in range(4 * MAX_AT_ONCE)))
    assert most <= MAX_AT_ONCE


async def test_error_of_the_function_is_the_error():
    def fails(**_):
        raise KeyError("judge")

    with pytest.raises(KeyError, match="judge"):
        await score_episode(fails, SAMPLE, make_record())


def test_process_ends_although_a_function_never_returns():
    program = (
        "import asyncio, threading\n"
        "from tests.core.test_scoring import SAMPLE, make_record, never_returns\n"
        "from verl_videomtr.scoring import MAX_AT_ONCE, score_episode\n"
        "async def main():\n"
        "    try:\n"
        "        await score_episode(never_returns, SAMPLE, make_record(), timeout_seconds=0.05)\n"
        "    except TimeoutError:\n"
        "        print('given up', flush=True)\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment
    )
    assert result.stdout == "given up\n", result.stderr


async def test_turn_components_are_kept():
    score = await score_episode(compute_score, SAMPLE, make_record())
    assert [sum(parts.values()) for parts in score.turn_components] == pytest.approx(score.turn_rewards)
    assert (await score_episode(lambda **_: 1.0, SAMPLE, make_record())).turn_components == []
