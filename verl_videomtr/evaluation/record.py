# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One line of an evaluation's trajectory file: what was played and earned, or why there is no episode."""

from __future__ import annotations

from typing import Any

from verl_videomtr.rollout import Rollout
from verl_videomtr.sample import Sample, question_text
from verl_videomtr.scoring import EpisodeScore
from verl_videomtr.serving.chat import ChatPolicy
from verl_videomtr.trajectory import Trajectory
from verl_videomtr.trajectory_files import lost_record


def played_line(rollout: Rollout, policy: ChatPolicy, score: EpisodeScore) -> dict[str, Any]:
    """Describe a played episode."""
    num_turns = len(policy.entries)
    # A server's tokens have no place in training rows.
    trajectory = Trajectory.of(rollout, score, turn_rows=[0] * num_turns, turn_spans=[[0, 0]] * num_turns)
    return {**trajectory.to_dict(), "response_seconds": [entry["seconds"] for entry in policy.entries]}


def lost_line(sample: Sample, kind: str, error: Exception) -> dict[str, Any]:
    """Describe an episode that was not played to its end.

    Args:
        kind: "unreadable" (the video), "refused", "unanswered" (the server), or "failed".
    """
    return lost_record(
        sample_id=sample.sample_id,
        kind=kind,
        error=str(error),
        split=sample.split,
        data_source=sample.data_source,
        video=sample.video,
        question=question_text(sample),
        ground_truth=sample.answer,
        groups=dict(sample.groups),
    )
