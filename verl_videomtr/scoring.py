"""Calling a reward function of verl's form on a finished episode: sample and record in, one reward per turn out.

The function is the user's to choose (`reward.custom_reward_function`): the package's own rewards every turn, a stock
one returns a number or a dict with `score` and judges the trajectory as a whole.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from verl_videomtr.answers import is_correct
from verl_videomtr.sample import Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeScore:
    """What a reward function made of one episode."""

    turn_rewards: list[float]
    """One per turn."""
    correct: bool
    """The function's own `acc`, or else whether the answer matches."""
    components: dict[str, float]
    """Sums by component, where the function reports them."""
    numbers: dict[str, float]
    """Every other number that the function returned."""


async def score_episode(reward_fn: Callable[..., Any], sample: Sample, record: dict[str, Any]) -> EpisodeScore:
    """Call `reward_fn(data_source, solution_str, ground_truth, extra_info)`, plain or async, off the event loop.

    `extra_info` is the row's, with the episode's record under `episode`; `solution_str` is the last response. A
    function that gives no `turn_rewards` scores the trajectory: its score goes to the last turn, as in stock verl.

    Args:
        record: `Episode.record()`.
    Raises:
        ValueError: the function returned something else than a number or a dict, or not one reward per turn.
    """
    responses = record["responses"]
    arguments: dict[str, Any] = {
        "data_source": sample.data_source,
        "solution_str": responses[-1] if responses else "",
        "ground_truth": sample.answer,
        "extra_info": {**sample.to_row()["extra_info"], "episode": record},
    }
    if inspect.iscoroutinefunction(reward_fn):
        result = await reward_fn(**arguments)
    else:
        result = await asyncio.to_thread(reward_fn, **arguments)
        if inspect.isawaitable(result):
            result = await result
    returned = _as_dict(result, sample)
    turn_rewards = returned.get("turn_rewards")
    if turn_rewards is None:
        turn_rewards = [0.0] * (len(responses) - 1) + [returned["score"]] if responses else []
    if len(turn_rewards) != len(responses):
        raise ValueError(
            f"the reward function returned {len(turn_rewards)} turn rewards; expected one for each of the "
            f"{len(responses)} turns; sample {sample.sample_id!r}"
        )
    accuracy = returned.get("acc")
    if accuracy is None:
        answer = record["answer"]
        accuracy = answer is not None and is_correct(
            answer, sample.answer, question_type=sample.question_type, options=sample.options
        )
    # verl appends `reward` itself, and a second value under that name would shift its columns.
    named = {"score", "acc", "turn_rewards", "components", "reward"}
    return EpisodeScore(
        turn_rewards=[float(reward) for reward in turn_rewards],
        correct=bool(accuracy),
        components={name: float(value) for name, value in returned.get("components", {}).items()},
        numbers={
            name: float(value)
            for name, value in returned.items()
            if name not in named and isinstance(value, numbers.Real)
        },
    )


def _as_dict(result: Any, sample: Sample) -> dict[str, Any]:
    if isinstance(result, numbers.Real):
        return {"score": float(result)}
    if isinstance(result, Mapping) and (result.get("turn_rewards") is not None or "score" in result):
        return dict(result)
    got = sorted(result) if isinstance(result, Mapping) else type(result).__name__
    raise ValueError(
        f"the reward function returned {got}; expected a number, or a dict with 'score' or 'turn_rewards'; "
        f"sample {sample.sample_id!r}; see reward.custom_reward_function"
    )
