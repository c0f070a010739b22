# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A training batch's rows with the trajectories that they belong to: verl's keys, tags and `extra_fields` in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from verl_videomtr.trajectory import Trajectory

TRAJECTORY_FIELD = "videomtr"
"""Key of `extra_fields` under which a row carries its trajectory's record."""

ROW_FIELD = "videomtr_row"
"""Key of `extra_fields` for the row's number in its trajectory."""

SAMPLE_KEY = "sample_id"
"""Key of verl's `reward_extra_info` for the sample's id."""

TRAJECTORY_KEY = "trajectory"
"""Key of verl's `reward_extra_info` for the record as JSON text: validation keeps nothing else of a row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrajectoryRow:
    """One row of the step's batch that is no padding."""

    place: int
    """Its place in the batch."""
    number: int
    """Its number in its trajectory."""
    trajectory: Trajectory


def real_rows(
    tags: Sequence[dict[str, Any]], extra_fields: Sequence[dict[str, Any]], *, all_needed: bool
) -> list[TrajectoryRow]:
    """Read the records of a batch's rows, those of padding left out, and those of other agent loops.

    Args:
        tags: verl's tag of every row.
        extra_fields: what the agent loop gave with it.
        all_needed: whether every row must have a record.
    Raises:
        RuntimeError: a row comes from another agent loop, and its record is needed.
    """
    rows = []
    for place, (tag, extra) in enumerate(zip(tags, extra_fields, strict=True)):
        if tag.get("is_padding", False):
            continue
        if TRAJECTORY_FIELD not in extra:
            if not all_needed:
                continue
            raise RuntimeError(
                "algorithm.adv_estimator=bi_level_gae got a trajectory of another agent loop than video_mtr; expected "
                "the plugin's, whose record says where turns end; set the rows' agent_name to video_mtr, or "
                "algorithm.adv_estimator=grpo videomtr.bootstrap.enabled=false critic.enable=false"
            )
        trajectory = Trajectory.from_dict(extra[TRAJECTORY_FIELD])
        rows.append(TrajectoryRow(place=place, number=extra[ROW_FIELD], trajectory=trajectory))
    return rows


def distinct_trajectories(rows: Sequence[TrajectoryRow]) -> list[Trajectory]:
    """Return each trajectory once."""
    return [row.trajectory for row in rows if row.number == 0]
