# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Does the reward function answer? It is called as the agent loop calls it, on an episode that answers right and on one
that answers nothing."""

from __future__ import annotations

import asyncio
import functools
import math
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

from verl_videomtr.episode import Episode
from verl_videomtr.prompts import Prompts
from verl_videomtr.sample import Sample, question_text
from verl_videomtr.scoring import EpisodeScore, score_episode
from verl_videomtr.trajectory import Trajectory
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, error, ok, refused, warning

SECONDS = 30.0
"""A function that takes longer for one episode is not waited for."""
TYPICAL = Sample(
    data_source="doctor",
    sample_id="doctor-0",
    index=0,
    split="train",
    video="video.mp4",
    duration_seconds=60.0,
    question="What does the person do?",
    options=("They sit", "They stand"),
    answer="A",
    question_type="multiple_choice",
    segments=((10.0, 20.0),),
)
FUNCTION = "reward.custom_reward_function"


def check_reward(case: Case) -> Iterator[Finding]:
    """Load the function and call it."""
    try:
        function = _load(case)
    except Exception as failure:  # of the user's module: whatever it raises is the finding
        yield refused("config.reward", failure, why="every agent-loop worker loads it", is_own=False)
        return
    name = case.get(f"{FUNCTION}.path") or "verl_videomtr.rewards"
    if not case.uses_own_loop:
        yield ok("config.reward", f"{name} loads")
        return
    sample = case.samples["train"][0] if case.samples.get("train") else TYPICAL
    scores = []
    for answers in (True, False):
        record = _record(case, sample, answers=answers)
        result = _in_time(functools.partial(score_episode, function, sample, record))
        if result is None:
            yield warning(
                "config.reward",
                f"{name} did not return within {SECONDS:.0f} s",
                why="each episode waits for it",
                advice="give its own calls a timeout",
            )
            return
        if isinstance(result, Exception):
            yield error(
                "config.reward",
                f"{name} fails on an episode: {type(result).__name__}: {result}",
                why="every episode is lost",
                **_remedy(case, result),
            )
            return
        scores.append(result)
    yield from _judge(name, *scores)
    played: Any = types.SimpleNamespace(
        sample=sample, replies=[], seconds={}, episode=types.SimpleNamespace(record=lambda: record)
    )
    numbers = Trajectory.of(played, scores[-1], turn_rows=[], turn_spans=[]).numbers()
    yield from _filter(case, {"reward", *numbers, *scores[-1].numbers})


def _filter(case: Case, known: set[str]) -> Iterator[Finding]:
    """Groups are dropped by a number of their episodes, of those that the agent loop hands to verl."""
    if not case.get("algorithm.filter_groups.enable"):
        return
    metric = case.get("algorithm.filter_groups.metric")
    if metric not in known:
        yield error(
            "config.reward",
            f"algorithm.filter_groups.metric={metric}; expected one of {', '.join(sorted(known))}",
            why="verl's replay buffer finds no such number in the first groups, and the run stops",
            overrides=["algorithm.filter_groups.metric=episode_reward"],
        )


def _remedy(case: Case, failure: Exception) -> dict[str, Any]:
    kwargs = case.get(f"{FUNCTION}.reward_kwargs") or {}
    if isinstance(failure, TypeError) and any(f"'{name}'" in str(failure) for name in kwargs):
        advice = "which are another function's, or let this one take them"
        return {"overrides": [f"~{FUNCTION}.reward_kwargs"], "advice": advice}
    takes = "(data_source, solution_str, ground_truth, extra_info)"
    return {"advice": f"{FUNCTION}.name=<a function {takes} that returns a number, or a dict with 'score'>"}


def _load(case: Case) -> Callable[..., Any]:
    from verl.trainer.ppo.reward import get_custom_reward_fn

    from verl_videomtr.rewards import compute_score

    return get_custom_reward_fn(case.config) or compute_score


def _record(case: Case, sample: Sample, *, answers: bool) -> dict[str, Any]:
    """Play an episode of one turn."""
    config = case.settings.episode
    duration = sample.duration_seconds or 60.0
    episode = Episode(
        config=config,
        prompts=Prompts.load(case.settings.prompts),
        question=question_text(sample),
        times_seconds=[(i + 0.5) * duration / config.pool_size for i in range(config.pool_size)],
        duration_seconds=duration,
        segments=sample.segments,
    )
    episode.reset()
    reply = f"<think></think><answer>{sample.answer}</answer>" if answers else "nothing of use"
    while not episode.done:
        episode.step(reply)
    return episode.record()


def _in_time(call: Callable[[], Any]) -> Any:
    """The result, the exception, or None after `SECONDS`; a thread that hangs does not keep the doctor."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(asyncio.run(call()))
        except Exception as failure:
            results.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return results[0] if results else None


def _judge(name: str, right: EpisodeScore, nothing: EpisodeScore) -> Iterator[Finding]:
    rewards = [*right.turn_rewards, *nothing.turn_rewards]
    if not all(map(math.isfinite, rewards)):
        yield error(
            "config.reward",
            f"{name} returns {next(reward for reward in rewards if not math.isfinite(reward))}",
            why="one such number makes every advantage of the step none",
            advice="return finite rewards",
        )
    elif sum(right.turn_rewards) <= sum(nothing.turn_rewards):
        yield warning(
            "config.reward",
            f"{name} gives {sum(right.turn_rewards):g} to the right answer and {sum(nothing.turn_rewards):g} to none",
            why="what does not tell them apart teaches nothing",
            advice=f"look into {name}; extra_info['episode'] holds what the episode did",
        )
    else:
        yield ok("config.reward", f"{name}: {sum(right.turn_rewards):g} for the right answer, else "
                 f"{sum(nothing.turn_rewards):g}")  # fmt: skip
