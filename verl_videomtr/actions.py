# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a policy does in one turn: response text -> Retrieve | Answer | Invalid.

A response holds one thought and then one action, with free text around them:

    <think>...</think><retrieve>start,end</retrieve>    look closer at the pool frames start..end, both included
    <think>...</think><answer>X</answer>                finish

The tags are read in one left-to-right pass, so nesting is seen for what it is and the time is linear in the text,
whatever the text is. (arXiv 2508.20478v2, section 3.1.)
"""

from __future__ import annotations

import enum
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ANSWER_CHARS = 512
"""Default for the longest valid answer."""

_TAG = re.compile(r"<(/?)(think|retrieve|answer)>")
_MAX_RANGE_CHARS = 64
_INDEX_RANGE = re.compile(r"[ \t\r\n]*([0-9]+)[ \t\r\n]*,[ \t\r\n]*([0-9]+)[ \t\r\n]*")
_SECONDS_RANGE = re.compile(r"[ \t\r\n]*([0-9]+(?:\.[0-9]+)?)[ \t\r\n]*,[ \t\r\n]*([0-9]+(?:\.[0-9]+)?)[ \t\r\n]*")
_TIME_TOLERANCE_SECONDS = 0.05 + 1e-6
"""Prompts announce times to a tenth of a second, so a quoted time may lie this far beside its frame's true time."""


@dataclass(frozen=True)
class Retrieve:
    """Look closer at a segment."""

    start: int
    """First pool index, inclusive."""
    end: int
    """Last pool index, inclusive."""


@dataclass(frozen=True)
class Answer:
    """Finish the episode."""

    text: str
    """The answer without surrounding white space; never empty."""


class InvalidKind(str, enum.Enum):
    """What was wrong with a response, for counting."""

    EMPTY = "empty"
    """No text at all."""
    TAGS = "tags"
    """A tag without its partner, or inside another."""
    THOUGHT = "thought"
    """None, several, or one after the action."""
    ACTION = "action"
    """None, or several."""
    RANGE = "range"
    """Unreadable, backwards, or outside the video."""
    ANSWER = "answer"
    """Empty, or too long."""
    LAST_TURN = "last_turn"
    """A retrieval where only an answer is valid."""


@dataclass(frozen=True)
class Invalid:
    """A response that does nothing and uses up its turn."""

    reason: str
    """One or two short sentences that tell the policy what to do differently."""
    kind: InvalidKind = InvalidKind.ACTION


Action = Retrieve | Answer | Invalid


def parse_action(
    text: str,
    *,
    pool_size: int,
    last_turn: bool = False,
    unit: str = "index",
    frame_times_seconds: Sequence[float] | None = None,
    duration_seconds: float | None = None,
    max_answer_chars: int = MAX_ANSWER_CHARS,
) -> Action:
    """Read one response.

    Whatever the policy wrote comes back as a value; only a wrong call raises.

    In seconds, a range stands for the pool frames whose time lies in it, both ends included and 0.05 s of rounding
    allowed for; a range that falls between two frames stands for the frame nearest to its middle (the earlier of two).

    Args:
        text: the response, without special tokens.
        pool_size: number of frames in this video's candidate pool.
        last_turn: only an answer is valid.
        unit: how the policy names a range, "index" (pool indices) or "seconds".
        frame_times_seconds: (pool_size,) ascending time of each pool frame; needed for "seconds".
        duration_seconds: length of the video, the largest second a range may name; None takes it from the frame times
            as those of bin centres (first + last).
        max_answer_chars: a longer answer is invalid.
    Raises:
        ValueError: the pool is empty, the unit is unknown, or the frame times are missing or do not fit the pool.
    """
    if pool_size < 1:
        raise ValueError(f"{pool_size=}; expected at least 1 frame to choose from; parse_action")
    if unit not in ("index", "seconds"):
        raise ValueError(f"{unit=}; expected 'index' or 'seconds'; parse_action")
    if unit == "seconds":
        _check_times(frame_times_seconds, pool_size)
    found = _one_action(text)
    if isinstance(found, Invalid):
        return found
    name, content = found
    if name == "answer":
        return _answer(content, max_answer_chars)
    if last_turn:
        return Invalid("This was the last turn. Only <answer> is allowed.", InvalidKind.LAST_TURN)
    return parse_range(
        content,
        pool_size=pool_size,
        unit=unit,
        frame_times_seconds=frame_times_seconds,
        duration_seconds=duration_seconds,
    )


def parse_range(
    text: str,
    *,
    pool_size: int,
    unit: str = "index",
    frame_times_seconds: Sequence[float] | None = None,
    duration_seconds: float | None = None,
) -> Retrieve | Invalid:
    """Read a range, "start,end": what stands between the tags of a retrieval. For the arguments see `parse_action`."""
    if unit == "index":
        return _index_range(text, pool_size)
    assert frame_times_seconds is not None
    return _seconds_range(text, frame_times_seconds, duration_seconds)


def _one_action(text: str) -> tuple[str, str] | Invalid:
    """Find the single action's tag name and content behind the single thought."""
    if not text.strip():
        return Invalid("The message was empty. Write <think>...</think> and then one action.", InvalidKind.EMPTY)
    has_thought = False
    action: tuple[str, str] | None = None
    open_name, open_end = None, 0
    for match in _TAG.finditer(text):
        closes, name = bool(match[1]), match[2]
        if open_name is None:
            if closes:
                return Invalid(f"</{name}> comes without <{name}> before it.", InvalidKind.TAGS)
            if name == "think" and has_thought:
                return Invalid("There was more than one <think>. Write exactly one thought.", InvalidKind.THOUGHT)
            if name == "think" and action:
                return Invalid(
                    "The thought came after the action. Write <think>...</think> first.", InvalidKind.THOUGHT
                )
            if name != "think" and action:
                return Invalid(
                    "There was more than one action. Write exactly one <retrieve> or <answer>.", InvalidKind.ACTION
                )
            open_name, open_end = name, match.end()
        elif closes and name == open_name:
            if name == "think":
                has_thought = True
            else:
                action = (name, text[open_end : match.start()])
            open_name = None
        elif open_name == "think" and name != "think":
            return Invalid(f"<{name}> was used inside the thought. Close </think> before the action.", InvalidKind.TAGS)
        else:
            return Invalid(
                f"<{match[1]}{name}> was used inside <{open_name}>. Tags must not be nested.", InvalidKind.TAGS
            )
    if open_name is not None:
        return Invalid(f"<{open_name}> was not closed with </{open_name}>.", InvalidKind.TAGS)
    if not has_thought:
        return Invalid("There was no thought. Write <think>...</think> before the action.", InvalidKind.THOUGHT)
    if action is None:
        return Invalid("There was no action. Write one <retrieve> or <answer> after the thought.", InvalidKind.ACTION)
    return action


def _answer(content: str, max_answer_chars: int) -> Answer | Invalid:
    answer = content.strip()
    if not answer:
        return Invalid("The answer was empty.", InvalidKind.ANSWER)
    if len(answer) > max_answer_chars:
        return Invalid(
            f"The answer was {len(answer)} characters long. At most {max_answer_chars} are allowed.", InvalidKind.ANSWER
        )
    return Answer(answer)


def _index_range(content: str, pool_size: int) -> Retrieve | Invalid:
    match = _INDEX_RANGE.fullmatch(content) if len(content) <= _MAX_RANGE_CHARS else None
    if match is None:
        return Invalid(
            "The range could not be read. Write two whole numbers: <retrieve>first,last</retrieve>.", InvalidKind.RANGE
        )
    start, end = int(match[1]), int(match[2])
    if start > end:
        return Invalid(
            f"The range {start},{end} runs backwards. The first number must not be larger than the last.",
            InvalidKind.RANGE,
        )
    if end >= pool_size:
        return Invalid(
            f"The range {start},{end} leaves the video. Frames are numbered 0 to {pool_size - 1}.", InvalidKind.RANGE
        )
    return Retrieve(start, end)


def _seconds_range(content: str, times: Sequence[float], duration_seconds: float | None) -> Retrieve | Invalid:
    match = _SECONDS_RANGE.fullmatch(content) if len(content) <= _MAX_RANGE_CHARS else None
    if match is None:
        return Invalid(
            "The range could not be read. Write two times in seconds: <retrieve>from,to</retrieve>.", InvalidKind.RANGE
        )
    start, end = float(match[1]), float(match[2])
    if start > end:
        return Invalid(
            f"The range {match[1]},{match[2]} runs backwards. The first time must not be later.", InvalidKind.RANGE
        )
    last_second = max(times[-1], times[0] + times[-1] if duration_seconds is None else duration_seconds)
    if end > last_second + _TIME_TOLERANCE_SECONDS:
        return Invalid(
            f"The range {match[1]},{match[2]} leaves the video. It ends at {last_second:.1f} seconds.",
            InvalidKind.RANGE,
        )
    first = bisect_left(times, start - _TIME_TOLERANCE_SECONDS)
    last = bisect_right(times, end + _TIME_TOLERANCE_SECONDS) - 1
    if first <= last:
        return Retrieve(first, last)
    middle = (start + end) / 2
    nearest = min(range(max(0, first - 1), min(len(times), first + 1)), key=lambda i: abs(times[i] - middle))
    return Retrieve(nearest, nearest)


def _check_times(times: Sequence[float] | None, pool_size: int) -> None:
    if times is None or len(times) != pool_size:
        given = None if times is None else len(times)
        raise ValueError(
            f"{given} frame times for {pool_size=}; expected one per pool frame; parse_action(unit='seconds'); "
            "pass frame_times_seconds"
        )
    if any(not (math.isfinite(b) and a <= b) for a, b in zip((0.0, *times), times, strict=False)):
        raise ValueError(f"frame times {list(times)[:8]}...; expected finite, ascending seconds from 0; parse_action")
