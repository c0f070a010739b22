# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Frames that several rows of a trajectory show, each stored once: rows of frames in, parts to store out, and back.

While a context slides, each row shows what the row before showed, without its oldest turn. TransferQueue keeps every
row by itself and spreads rows over storage units that share nothing. So a frame is stored with the last row that shows
it, and the rows before name it by that row's key. Why the last: each slid row then holds the observation that it is
first to drop, and a worker that gets one row alone asks for little that the row does not show. All rows of a trajectory
are stored in one call and cleared together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch

FRAMES = "videomtr_frames"
"""Of a row's inputs: its frames, (height, width, 3) uint8 each, in the order of their tokens."""

Lent: TypeAlias = Sequence[Any]
"""Key of the row that holds a frame, and the frame's place among those of that row."""


class MissingRowError(RuntimeError):
    """A row that holds frames of others is gone."""


def store_once(
    rows: Sequence[Sequence[torch.Tensor] | None], *, keys: Sequence[str]
) -> list[list[torch.Tensor | Lent] | None]:
    """Leave each frame in the last row that shows it.

    Args:
        rows: frames of a trajectory's rows; what is one image is one tensor. None: a row without frames of this kind.
        keys: under which the rows will be stored.
    """
    holders: dict[int, Lent] = {}
    for key, frames in zip(keys, rows, strict=True):
        holders |= {id(frame): (key, place) for place, frame in enumerate(frames or ())}
    return [
        frames and [frame if holders[id(frame)][0] == key else holders[id(frame)] for frame in frames]  # type: ignore[misc]
        for key, frames in zip(keys, rows, strict=True)
    ]


def lacks_frames(inputs: Mapping[str, Any] | None) -> bool:
    """Whether a row shows frames that another row holds."""
    return any(True for _ in _lent(inputs))


def missing_rows(rows: Mapping[str, Any]) -> list[str]:
    """Name the rows that hold frames of these and are not among them; key -> inputs of a row, which may be none."""
    return sorted({part[0] for inputs in rows.values() for part in _lent(inputs)} - set(rows))


def put_back(rows: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Give rows all their frames.

    Args:
        rows: key -> inputs of a row, changed in place.
        others: the same of the rows that `missing_rows` named.
    Raises:
        MissingRowError: one of those is not there.
    """
    held = {key: list(inputs[FRAMES]) for key, inputs in {**others, **rows}.items() if inputs and FRAMES in inputs}
    for key, inputs in rows.items():
        gone = {part[0] for part in _lent(inputs)} - set(held)
        if gone:
            raise MissingRowError(
                f"row {key!r} shows frames that were stored with {sorted(gone)}, of the same trajectory, and "
                "TransferQueue has those no longer; expected all rows of a trajectory to stay until the step is "
                "over; do not clear rows one by one, or set videomtr.device_patches=false, with which every row "
                "holds its own pixels"
            )
        if key in held:
            inputs[FRAMES] = [_found(part, held) for part in inputs[FRAMES]]


def _lent(inputs: Mapping[str, Any] | None) -> Iterator[Lent]:
    return (part for part in (inputs or {}).get(FRAMES, ()) if not isinstance(part, torch.Tensor))


def _found(part: torch.Tensor | Lent, held: Mapping[str, Sequence[Any]]) -> torch.Tensor:
    frame: torch.Tensor = part if isinstance(part, torch.Tensor) else held[part[0]][part[1]]
    return frame
