# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One question's result, as the tables read it: a trajectory's record in, a few plain values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verl_videomtr.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one question."""

    sample_id: str
    data_source: str
    video: str
    groups: Mapping[str, Any]
    correct: bool
    """A failed episode is not."""
    failure: str | None = None
    """Why there is no episode; None where it was played."""
    answer: str | None = None
    """What was answered."""
    stop_reason: str | None = None
    num_turns: int = 0
    num_retrievals: int = 0
    num_invalid: int = 0
    num_frames: int = 0
    overview_iou: float | None = None
    """None without ground truth."""
    best_iou: float | None = None
    retrieved_ious: tuple[float, ...] = ()
    response_seconds: tuple[float, ...] = ()
    """Latency of each response that was asked for, where it was measured."""
    input_tokens: int = 0
    """Of all requests together: what a turn sends again counts again."""
    output_tokens: int = 0

    def group_values(self, name: str) -> list[str]:
        """The values of a group that the question counts in."""
        value = self.groups.get(name, [])
        return [value] if isinstance(value, str) else list(value)


def result_of(record: Mapping[str, Any], sample: Sample | None = None) -> Result:
    """Read one line of a trajectory file, played or lost.

    Args:
        record: schema 2.
        sample: the question's row; a lost line does not repeat what it says.
    Raises:
        KeyError, TypeError, AttributeError, ValueError: the record lacks something, or holds something else.
    """

    def known(name: str, default: Any) -> Any:
        return record.get(name) or (getattr(sample, name) if sample is not None else default)

    common: dict[str, Any] = {
        "sample_id": record["sample_id"],
        "data_source": str(known("data_source", "unknown")),
        "video": str(known("video", record["sample_id"])),
        "groups": _groups(known("groups", {})),
    }
    if record.get("status") == "lost":
        return Result(**common, correct=False, failure=f"{record.get('kind')}: {record.get('error')}")
    episode = record["episode"]
    ious = [episode.get("initial_iou"), *episode["retrieval_ious"]]
    grounded = [float(iou) for iou in ious if iou is not None]
    return Result(
        **common,
        correct=bool(record["correct"]),
        answer=episode["answer"],
        stop_reason=episode["stop_reason"],
        num_turns=len(episode["responses"]),
        num_retrievals=sum(action == "retrieve" for action in episode["actions"]),
        num_invalid=sum(action == "invalid" for action in episode["actions"]),
        num_frames=sum(map(len, episode["frames"])),
        overview_iou=episode.get("initial_iou"),
        best_iou=max(grounded) if grounded else None,
        retrieved_ious=tuple(float(iou) for iou in episode["retrieval_ious"] if iou is not None),
        response_seconds=tuple(map(float, record.get("response_seconds") or ())),
        input_tokens=sum(count or 0 for count in record.get("prompt_tokens") or ()),
        output_tokens=sum(count or 0 for count in record.get("response_tokens") or ()),
    )


def _groups(groups: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """Read a record's groups: name -> the value that the question counts in, or several."""
    return {
        name: [str(item) for item in value] if isinstance(value, (list, tuple)) else str(value)
        for name, value in groups.items()
    }
