# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One episode: a question about a video, played in turns. Pool indices in, observations and turns out.

No pixels and no tokens live here: a frame is its index in the candidate pool, a response is text, and whoever plays
the episode turns both into what its model reads. (arXiv 2508.20478v2, section 3.1.)
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verl_videomtr.actions import Action, Answer, Invalid, InvalidKind, Retrieve, parse_action
from verl_videomtr.prompts import Prompts
from verl_videomtr.subtitles import Cue, lines_at


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
    """The constants of an episode; the defaults are the paper's."""

    pool_size: int = 128
    """M: frames sampled uniformly over the whole video; a shorter video has a smaller pool."""
    frame_budget: int = 32
    """B: frames that one episode may show, all turns together."""
    max_turns: int = 3
    """K_max: most responses in an episode, the answer included."""
    window: int = 2
    """w: past interactions that stay in the context beside the current one."""
    initial_frames: int | None = None
    """n_0: frames of the overview; None means B/2 (all of B where max_turns is 1)."""
    retrieval_frames: int | None = None
    """n_k: most frames that one retrieval returns; None means (B - n_0)/(K_max - 1)."""
    unit: str = "index"
    """How a policy names a range: "index" (pool indices) or "seconds"."""
    max_answer_chars: int = 512
    """A longer answer is invalid."""

    def __post_init__(self) -> None:
        for name, lowest in (("pool_size", 1), ("frame_budget", 1), ("max_turns", 1), ("window", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"videomtr.episode.{name}={getattr(self, name)}; expected at least {lowest}")
        if self.unit not in ("index", "seconds"):
            raise ValueError(f"videomtr.episode.unit={self.unit!r}; expected 'index' or 'seconds'")
        if not 1 <= self.overview_frames <= self.frame_budget:
            raise ValueError(
                f"videomtr.episode.initial_frames={self.overview_frames}; "
                f"expected 1 to frame_budget={self.frame_budget}"
            )
        if self.max_turns > 1 and self.frames_per_retrieval < 1:
            raise ValueError(
                f"videomtr.episode.frame_budget={self.frame_budget} leaves no frame for each of the "
                f"{self.max_turns - 1} retrievals after an overview of {self.overview_frames}; "
                "raise frame_budget, or lower max_turns or initial_frames"
            )

    @property
    def overview_frames(self) -> int:
        """n_0, resolved."""
        if self.initial_frames is not None:
            return self.initial_frames
        return self.frame_budget if self.max_turns == 1 else max(1, self.frame_budget // 2)

    @property
    def frames_per_retrieval(self) -> int:
        """n_k, resolved; 0 where an episode has no retrievals."""
        if self.max_turns == 1:
            return 0
        if self.retrieval_frames is not None:
            return self.retrieval_frames
        return (self.frame_budget - self.overview_frames) // (self.max_turns - 1)

    @property
    def slides(self) -> bool:
        """Whether a full-length episode drops its oldest turns from the context."""
        return self.max_turns > self.window + 1


class StopReason(str, enum.Enum):
    """Why an episode ended."""

    ANSWERED = "answered"
    TURN_LIMIT = "turn_limit"
    LENGTH_LIMIT = "length_limit"
    """The context or response length ran out: the episode is truncated."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the policy is shown before a response: one user message."""

    parts: tuple[str | int, ...]
    """The message in order: text, and pool indices where a frame's image goes."""

    @property
    def frames(self) -> tuple[int, ...]:
        """Pool indices shown, in order."""
        return tuple(part for part in self.parts if isinstance(part, int))


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One interaction: what was observed, what the policy wrote, and what that did."""

    observation: Observation
    response: str
    action: Action
    returned: tuple[int, ...] = ()
    """Pool indices that a valid retrieval brought back."""
    returned_iou: float | None = None
    """IoU of `returned` with the ground truth; None where nothing was returned or without ground truth."""


def spread(start: int, end: int, num: int) -> list[int]:
    """Choose at most `num` indices evenly over the inclusive range [start, end], ends included, in order.

    A range of at most `num` indices is returned whole; a single index is the middle one.
    """
    span = end - start
    if span + 1 <= num:
        return list(range(start, end + 1))
    if num == 1:
        return [start + span // 2]
    return [start + (2 * i * span + num - 1) // (2 * (num - 1)) for i in range(num)]


def ground_truth_frames(
    segments: Sequence[tuple[float, float]] | None, times_seconds: Sequence[float]
) -> tuple[frozenset[int], int]:
    """Find G, the pool frames whose time lies in a ground-truth segment, both ends inclusive.

    A segment that falls between two pool frames contributes the frame nearest to its middle.

    Args:
        segments: (start_seconds, end_seconds) pairs, or None without ground truth.
        times_seconds: (M,) time of each pool frame.
    Returns:
        The pool indices, and how many segments fell between frames.
    """
    frames: set[int] = set()
    num_between = 0
    for start, end in segments or ():
        inside = [i for i, time in enumerate(times_seconds) if start <= time <= end]
        if not inside:
            num_between += 1
            middle = (start + end) / 2
            inside = [min(range(len(times_seconds)), key=lambda i: abs(times_seconds[i] - middle))]
        frames.update(inside)
    return frozenset(frames), num_between


def segments_inside(
    segments: Sequence[tuple[float, float]] | None, duration_seconds: float
) -> list[tuple[float, float]]:
    """Return the ground-truth segments that begin inside the real video.

    An annotation that was made on another cut of the video must not turn into frames that it never meant. Of a segment
    that runs over the end only the part before it counts: behind it there is no frame.
    """
    return [(start, end) for start, end in segments or () if start < duration_seconds]


def iou(frames: Sequence[int], truth: frozenset[int]) -> float:
    """|F n G| / |F u G| over pool indices; 0 where both are empty."""
    shown = set(frames)
    union = shown | truth
    return len(shown & truth) / len(union) if union else 0.0


class Episode:
    """The state of one question being played.

    Call `reset` once, then `step` with each response until it returns None.

    Args:
        config: the constants.
        prompts: the texts of the messages.
        question: the question with its options; repeated every turn.
        times_seconds: (M,) time of each pool frame in seconds; its length is this video's pool size.
        duration_seconds: length of the video.
        segments: ground truth in seconds, or None; without one inside the video the episode counts as not annotated.
        subtitles: those on screen at a frame are told with it.
    Raises:
        ValueError: the pool is empty or larger than the configured one.
    """

    def __init__(
        self,
        *,
        config: EpisodeConfig,
        prompts: Prompts,
        question: str,
        times_seconds: Sequence[float],
        duration_seconds: float,
        segments: Sequence[tuple[float, float]] | None = None,
        subtitles: Sequence[Cue] = (),
    ) -> None:
        if not 1 <= len(times_seconds) <= config.pool_size:
            raise ValueError(
                f"a pool of {len(times_seconds)} frames; expected 1 to videomtr.episode.pool_size={config.pool_size}"
            )
        self.config = config
        self.prompts = prompts
        self.question = question
        self.times_seconds = tuple(float(time) for time in times_seconds)
        self.duration_seconds = duration_seconds
        self.subtitles = tuple(subtitles)
        inside = segments_inside(segments, duration_seconds)
        self.truth: frozenset[int] | None = None
        self.num_segments_between_frames = 0
        self.num_segments_outside_video = len(segments or ()) - len(inside)
        if inside:
            self.truth, self.num_segments_between_frames = ground_truth_frames(inside, self.times_seconds)
        self.turns: list[Turn] = []
        self.stop_reason: StopReason | None = None
        self.initial_iou: float | None = None
        self._pending: Observation | None = None
        self._shown: list[int] = []

    @property
    def done(self) -> bool:
        return self.stop_reason is not None

    @property
    def frames_shown(self) -> int:
        """Frames spent of the budget; a frame shown twice counts twice."""
        return len(self._shown)

    @property
    def system_text(self) -> str:
        """The instructions: they stand before every context, whatever the window drops."""
        return self.prompts.system(
            single_turn=self.config.max_turns == 1,
            unit=self.config.unit,
            last_index=len(self.times_seconds) - 1,
            duration_seconds=self.duration_seconds,
            max_frames=self.config.frames_per_retrieval,
            max_turns=self.config.max_turns,
        )

    @property
    def context_start(self) -> int:
        """The oldest turn that the context of the coming response holds: the last w turns stay."""
        return max(0, len(self.turns) - self.config.window)

    def reset(self) -> Observation:
        """Show the overview: n_0 frames, uniform over the pool."""
        if self._pending is not None or self.turns:
            raise RuntimeError("Episode.reset was called twice; make a new Episode for every episode")
        frames = spread(0, len(self.times_seconds) - 1, self.config.overview_frames)
        if self.truth is not None:
            self.initial_iou = iou(frames, self.truth)
        return self._observe("overview", frames)

    def step(self, response: str, *, out_of_room: bool = False) -> Observation | None:
        """Play one response; return what the policy sees next, or None when the episode has ended.

        Args:
            out_of_room: the response was cut because the context or response length ran out. Then the episode ends
                with it, truncated, unless it holds a valid answer all the same.
        """
        self._check_open()
        action = parse_action(
            response,
            pool_size=len(self.times_seconds),
            last_turn=len(self.turns) == self.config.max_turns - 1,
            unit=self.config.unit,
            frame_times_seconds=self.times_seconds,
            duration_seconds=self.duration_seconds,
            max_answer_chars=self.config.max_answer_chars,
        )
        return self.act(action, response, out_of_room=out_of_room)

    def act(self, action: Action, response: str, *, out_of_room: bool = False) -> Observation | None:
        """Play one response that was read elsewhere, such as a native tool call; otherwise as `step`."""
        pending = self._check_open()
        is_last = len(self.turns) == self.config.max_turns - 1
        if is_last and isinstance(action, Retrieve):
            action = Invalid("This was the last turn. Only an answer is allowed.", InvalidKind.LAST_TURN)
        returned: list[int] = []
        returned_iou = None
        if isinstance(action, Retrieve):
            left = self.config.frame_budget - self.frames_shown
            returned = spread(action.start, action.end, min(self.config.frames_per_retrieval, left))
            if returned and self.truth is not None:
                returned_iou = iou(returned, self.truth)
        self.turns.append(
            Turn(
                observation=pending,
                response=response,
                action=action,
                returned=tuple(returned),
                returned_iou=returned_iou,
            )
        )
        if isinstance(action, Answer):
            self.stop_reason = StopReason.ANSWERED
        elif out_of_room:
            self.stop_reason = StopReason.LENGTH_LIMIT
        elif is_last:
            self.stop_reason = StopReason.TURN_LIMIT
        if self.done:
            return None
        if isinstance(action, Invalid):
            return self._observe("invalid", [], reason=action.reason)
        assert isinstance(action, Retrieve)
        return self._observe("retrieved", returned, start=action.start, end=action.end)

    def _check_open(self) -> Observation:
        if self._pending is None or self.done:
            raise RuntimeError("Episode.step needs an open episode; call reset first, and stop when it returns None")
        return self._pending

    def truncate(self) -> None:
        """End the episode because its context or response length ran out."""
        if self.done:
            raise RuntimeError(f"the episode has already ended ({self.stop_reason})")
        self.stop_reason = StopReason.LENGTH_LIMIT

    @property
    def answer(self) -> str | None:
        """The final answer's text, or None if the episode ended without one."""
        last = self.turns[-1].action if self.turns else None
        return last.text if isinstance(last, Answer) else None

    def record(self) -> dict[str, Any]:
        """Describe the finished episode in plain values: what rewards, metrics and reports read of it.

        It can be played again from these values alone (`replay`); docs/records.md says what each is.
        """
        config = self.config
        return {
            "answer": self.answer,
            "format_ok": [not isinstance(turn.action, Invalid) for turn in self.turns],
            "initial_iou": self.initial_iou,
            "retrieval_ious": [turn.returned_iou for turn in self.turns],
            "actions": [type(turn.action).__name__.lower() for turn in self.turns],
            "ranges": [
                [turn.action.start, turn.action.end] if isinstance(turn.action, Retrieve) else None
                for turn in self.turns
            ],
            "invalid_reasons": [turn.action.reason for turn in self.turns if isinstance(turn.action, Invalid)],
            "invalid_kinds": [turn.action.kind.value for turn in self.turns if isinstance(turn.action, Invalid)],
            "frames": [list(turn.observation.frames) for turn in self.turns],
            "responses": [turn.response for turn in self.turns],
            "returned": [list(turn.returned) if isinstance(turn.action, Retrieve) else None for turn in self.turns],
            "system": self.system_text,
            "messages": [list(turn.observation.parts) for turn in self.turns],
            "frame_budget": config.frame_budget,
            "overview_frames": config.overview_frames,
            "frames_per_retrieval": config.frames_per_retrieval,
            "max_turns": config.max_turns,
            "window": config.window,
            "unit": config.unit,
            "max_answer_chars": config.max_answer_chars,
            "pool_size": len(self.times_seconds),
            "times_seconds": list(self.times_seconds),
            "duration_seconds": self.duration_seconds,
            "truth": None if self.truth is None else sorted(self.truth),
            "num_segments_between_frames": self.num_segments_between_frames,
            "num_segments_outside_video": self.num_segments_outside_video,
            "stop_reason": self.stop_reason.value if self.stop_reason else None,
        }

    def _observe(self, kind: str, frames: Sequence[int], **values: Any) -> Observation:
        turns_left = self.config.max_turns - len(self.turns)
        if self.frames_shown + len(frames) > self.config.frame_budget:
            raise AssertionError(
                f"{self.frames_shown} + {len(frames)} frames would pass frame_budget={self.config.frame_budget}"
            )
        parts = self.prompts.message(
            kind,
            frames=[(i, self.times_seconds[i]) for i in frames],
            subtitles=lines_at(self.subtitles, [self.times_seconds[i] for i in frames]),
            last_turn=turns_left == 1,
            question=self.question,
            last_index=len(self.times_seconds) - 1,
            duration_seconds=self.duration_seconds,
            turns_left=turns_left,
            retrievals_left=turns_left - 1,
            max_frames=self.config.frames_per_retrieval,
            unit=self.config.unit,
            **values,
        )
        self._shown.extend(frames)
        self._pending = Observation(parts=tuple(parts))
        return self._pending
