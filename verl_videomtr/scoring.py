# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Calling a reward function of verl's form on a finished episode: sample and record in, one reward per turn out.

The function is the user's to choose (`reward.custom_reward_function`): the package's own rewards every turn, a stock
one returns a number or a dict with `score` and judges the trajectory as a whole. It runs beside the event loop and
beside every other work, for a bounded time: plain functions in threads of their own, coroutines on a loop of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import math
import numbers
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from verl_videomtr.answers import is_correct
from verl_videomtr.sample import Sample

TIMEOUT_SECONDS = 300.0
MAX_AT_ONCE = 32
"""Calls of plain functions that run at the same time on one event loop; the others wait for a place."""

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeScore:
    """What a reward function made of one episode."""

    turn_rewards: list[float]
    """One per turn."""
    correct: bool
    """The function's own `acc`, or else whether the answer matches."""
    components: dict[str, float]
    """Sums by component, where the function reports them."""
    turn_components: list[dict[str, float]]
    """Components of each turn, where the function reports them; [] where it does not."""
    numbers: dict[str, float]
    """Every other number that the function returned."""


async def score_episode(
    reward_fn: Callable[..., Any],
    sample: Sample,
    record: dict[str, Any],
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> EpisodeScore:
    """Call `reward_fn(data_source, solution_str, ground_truth, extra_info)`, plain or async, off the event loop.

    `extra_info` is the row's, with the episode's record under `episode`; `solution_str` is the last response. A
    function that gives no `turn_rewards` scores the trajectory: its score goes to the last turn, as in stock verl.

    Args:
        record: `Episode.record()`.
        timeout_seconds: how long the function may run.
    Raises:
        TimeoutError: it has not returned in that time.
        ValueError: it returned something else than finite numbers, or not one reward per turn.
    """
    return await score_record(
        reward_fn,
        record,
        data_source=sample.data_source,
        ground_truth=sample.answer,
        extra_info=sample.to_row()["extra_info"],
        timeout_seconds=timeout_seconds,
    )


async def score_record(
    reward_fn: Callable[..., Any],
    record: dict[str, Any],
    *,
    data_source: str,
    ground_truth: str,
    extra_info: Mapping[str, Any],
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> EpisodeScore:
    """Score an episode by its record and its row's values; otherwise as `score_episode`."""
    where = f"sample {extra_info['sample_id']!r}; see reward.custom_reward_function"
    responses = record["responses"]
    arguments: dict[str, Any] = {
        "data_source": data_source,
        "solution_str": responses[-1] if responses else "",
        "ground_truth": ground_truth,
        "extra_info": {**extra_info, "episode": record},
    }
    try:
        result = await _call(functools.partial(reward_fn, **arguments), timeout_seconds)
    except asyncio.TimeoutError as error:
        raise TimeoutError(
            f"the reward function has not returned after {timeout_seconds:g} s; expected it to within "
            f"videomtr.reward_timeout_seconds; {where}; raise that, or give the function a time limit of its own"
        ) from error
    returned = _as_dict(result, where)
    turn_rewards = returned.get("turn_rewards")
    if turn_rewards is None:
        turn_rewards = [0.0] * (len(responses) - 1) + [returned["score"]] if responses else []
    if not isinstance(turn_rewards, (list, tuple)) or len(turn_rewards) != len(responses):
        num = len(turn_rewards) if isinstance(turn_rewards, (list, tuple)) else turn_rewards
        raise ValueError(
            f"the reward function returned {num} turn rewards; expected one for each of the {len(responses)} turns; "
            f"{where}"
        )
    accuracy = returned.get("acc")
    if accuracy is None:
        answer = record["answer"]
        accuracy = answer is not None and is_correct(
            answer,
            ground_truth,
            question_type=extra_info["question_type"],
            options=tuple(extra_info.get("options") or ()),
        )
    # verl appends `reward` itself, and a second value under that name would shift its columns.
    named = {"score", "acc", "turn_rewards", "turn_components", "components", "reward"}
    return EpisodeScore(
        turn_rewards=[_finite(reward, "a turn reward", where) for reward in turn_rewards],
        correct=bool(_finite(accuracy, "acc", where)),
        components=_finite_values(returned.get("components") or {}, "components", where),
        turn_components=[
            _finite_values(parts, "turn_components", where) for parts in returned.get("turn_components") or ()
        ],
        numbers={
            name: float(value)
            for name, value in returned.items()
            if name not in named and isinstance(value, numbers.Real)
        },
    )


def _as_dict(result: Any, where: str) -> dict[str, Any]:
    if isinstance(result, numbers.Real):
        return {"score": result}
    if isinstance(result, Mapping) and (result.get("turn_rewards") is not None or "score" in result):
        return dict(result)
    got = sorted(result) if isinstance(result, Mapping) else type(result).__name__
    raise ValueError(
        f"the reward function returned {got}; expected a number, or a dict with 'score' or 'turn_rewards'; {where}"
    )


def _finite(value: Any, name: str, where: str) -> float:
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    raise ValueError(f"the reward function returned {value!r} as {name}; expected a finite number; {where}")


def _finite_values(values: Mapping[str, Any], name: str, where: str) -> dict[str, float]:
    return {key: _finite(value, f"{name}[{key!r}]", where) for key, value in values.items()}


async def _call(function: Callable[[], Any], timeout_seconds: float) -> Any:
    """Call a plain or async function beside this event loop."""
    if inspect.iscoroutinefunction(function):
        return await _on_reward_loop(function(), timeout_seconds)
    result = await _in_thread(function, timeout_seconds)
    return await _on_reward_loop(result, timeout_seconds) if inspect.isawaitable(result) else result


async def _in_thread(function: Callable[[], _T], timeout_seconds: float) -> _T:
    """Run a function in a thread of its own.

    Not in an executor: its threads are joined when the process ends, and one that never returns would keep it alive.
    """
    loop = asyncio.get_running_loop()
    async with _places(loop):
        future: asyncio.Future[_T] = loop.create_future()

        def settle(set_value: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                set_value(value)

        def work() -> None:
            done: tuple[Callable[[Any], None], Any]
            try:
                done = (future.set_result, function())
            except BaseException as error:
                # A future cannot carry this one.
                done = (future.set_exception, RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, *done)

        threading.Thread(target=work, name="videomtr-reward", daemon=True).start()
        return await asyncio.wait_for(future, timeout_seconds)


_places_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _places(loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
    return _places_of_loop.setdefault(loop, asyncio.Semaphore(MAX_AT_ONCE))


async def _on_reward_loop(awaitable: Awaitable[Any], timeout_seconds: float) -> Any:
    """Await something on the loop that all async reward functions of this process share."""

    async def wait() -> Any:
        return await awaitable

    future = asyncio.run_coroutine_threadsafe(wait(), _reward_loop())
    return await asyncio.wait_for(asyncio.wrap_future(future), timeout_seconds)


@functools.lru_cache(maxsize=1)
def _reward_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="videomtr-reward-loop", daemon=True).start()
    return loop
