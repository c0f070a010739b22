# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Did it learn? Validation episodes -> accuracy with an interval over videos, beside what looking blindly comes to.

The two levels are computed, not measured: the best looks that are the same for every question, and one uniform look at
the same frame budget. A policy above both has learned to look where the question points.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from data_prep.synthetic import NeedleConfig
from recipes.learning_study.blind_bound import compute_bounds
from verl_videomtr.episode import EpisodeConfig
from verl_videomtr.evaluation.statistics import Estimate, mean_by_video
from verl_videomtr.trajectory_files import VAL_FOLDER, read_file, step_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """A run's held-out result."""

    before: Estimate | None
    """None where there was no validation before training."""
    after: Estimate
    num_videos: int
    blind: float | None
    """The best blind sweep; None where bounds cannot be computed for the run's episodes."""
    single_look: float | None
    frame_budget: int

    @property
    def learned(self) -> bool | None:
        """None where the data or the bounds do not decide it."""
        if self.blind is None or self.single_look is None or self.after.low is None:
            return None
        level = max(self.blind, self.single_look)
        if self.after.low > level:
            return True
        return None if self.after.value > level else False

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"learned": self.learned, "words": str(self)}

    def __str__(self) -> str:
        beside = f"{_interval(self.after)} of {self.after.num} questions about {self.num_videos} held-out videos right"
        if self.before is not None:
            beside += f", {self.before.value:.2f} before training"
        if self.blind is None or self.single_look is None:
            return f"Not decided: {beside}; for episodes of these settings no bounds are computed"
        beside += f"; the best blind sweep comes to {self.blind:.2f}, one look at all {self.frame_budget} frames to "
        beside += f"{self.single_look:.2f}"
        if self.learned:
            return f"It learned to look where the question points: {beside}"
        if self.learned is None:
            return f"Not decided, the interval reaches down to what needs no aim: {beside}"
        return f"It did not learn to look where the question points: {beside}"


def judge(trajectories: Path, config: NeedleConfig) -> Verdict | None:
    """Read a run's first and last validation; None where there is none after training.

    Args:
        trajectories: the run's `videomtr.dump.dir`.
        config: the task, for the bounds.
    """
    files = sorted((trajectories / VAL_FOLDER).glob("step_*.jsonl"))
    untrained = step_file(trajectories / VAL_FOLDER, 0)
    if not files or files[-1] == untrained:
        return None
    played = [read_file(path).played for path in (files[0], files[-1])]
    if not played[-1]:
        return None
    before, after = (
        mean_by_video([float(record["correct"]) for record in records], [record["video"] for record in records])
        if records
        else None
        for records in (played[0], played[-1])
    )
    assert after is not None
    episode = played[-1][0]["episode"]
    blind = single_look = None
    try:
        bounds = compute_bounds(
            config,
            EpisodeConfig(
                pool_size=episode["pool_size"],
                frame_budget=episode["frame_budget"],
                max_turns=episode["max_turns"],
                initial_frames=episode["overview_frames"],
            ),
        )
        blind, single_look = bounds.blind, bounds.uniform
    except ValueError:  # Overrides made episodes of a kind that has no bounds; the verdict says so.
        pass
    return Verdict(
        before=before if files[0] == untrained else None,
        after=after,
        num_videos=len({record["video"] for record in played[-1]}),
        blind=blind,
        single_look=single_look,
        frame_budget=episode["frame_budget"],
    )


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
