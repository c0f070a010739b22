# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""How a stored picture is turned and mirrored to be shown upright: a frame's display matrix -> one of eight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.buffer import Buffer
from av.video.frame import VideoFrame

from verl_videomtr.video.errors import UnsupportedVideoError


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """Mirror first, then turn."""

    is_mirrored: bool = False
    """Whether left and right are exchanged."""
    quarter_turns: int = 0
    """Counter-clockwise, 0 to 3."""

    def upright(self, picture: np.ndarray) -> np.ndarray:
        """Return the (height, width, 3) picture as it is shown."""
        return np.rot90(picture[:, ::-1] if self.is_mirrored else picture, self.quarter_turns)


def display_matrix(frame: VideoFrame) -> bytes | None:
    """Return the display matrix that container or stream give with a frame; None where they give none."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return bytes(data) if isinstance(data, Buffer) else None


def orientation_of(frame: VideoFrame, path: str | Path) -> Orientation:
    """Return the orientation that a frame's display matrix says.

    The matrix takes (x, y), to the right and down, to (a x + c y, b x + d y). (ISO/IEC 14496-12, 8.3.2.)

    Raises:
        UnsupportedVideoError: it turns by other than quarter turns, or skews.
    """
    matrix = display_matrix(frame)
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].astype(float) / 65536
    if not (_vanish(b, c, beside=(a, d)) or _vanish(a, d, beside=(b, c))):
        raise UnsupportedVideoError(
            f"is turned by other than a quarter, or skewed (display matrix {a:g} {b:g} {c:g} {d:g})",
            path=path,
            remedy="re-encode it upright",
        )
    is_mirrored = a * d - b * c < 0
    across, down = (-a, -b) if is_mirrored else (a, b)
    turns = (0 if across > 0 else 2) if abs(across) > abs(down) else (3 if down > 0 else 1)
    return Orientation(is_mirrored=bool(is_mirrored), quarter_turns=turns)


def _vanish(*small: float, beside: tuple[float, float]) -> bool:
    return min(map(abs, beside)) > 0 and max(map(abs, small)) < 0.01 * min(map(abs, beside))
