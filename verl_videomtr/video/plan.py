# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Which frames of a video make its candidate pool: path -> probe -> the plan that a decoder follows.

Frame i is the real frame shown nearest to the middle of the i-th of M equal parts of the video.
(arXiv 2508.20478v2, section 3.1: the pool F_all.)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from verl_videomtr.video.errors import DamagedVideoError, UnsupportedVideoError, VideoTimestampError
from verl_videomtr.video.probe import VideoProbe, probe
from verl_videomtr.video.sizing import grid_size

DECODERS = ("auto", "pyav", "torchcodec", "decord")


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """How a video becomes a pool. The defaults are the paper's M and the frame size of the authors' evaluation."""

    num_frames: int = 128
    """M; the released code has 64."""
    mode: str = "uniform"
    """`uniform`: M frames over the whole video. `rate`: `fps` frames a second, at most M, as the released code does."""
    fps: float | None = None
    """Frames a second in `rate` mode."""
    size: tuple[int, int] | None = None
    """Exact (height, width), stretched; None fits the model's grid and keeps the aspect."""
    patch_px: int = 14
    """Side of a patch of the model's vision encoder: 14 for Qwen2.5-VL, 16 for Qwen3-VL."""
    merge: int = 2
    """Patches a side that become one visual token; frame sides are multiples of patch_px * merge."""
    min_tokens: int = 16
    """Least visual tokens of a frame; a smaller one is enlarged."""
    max_tokens: int = 128
    """Most visual tokens of a frame; one of 16:9 has 120."""
    decoder: str = "auto"
    """`auto`, `pyav`, `torchcodec` or `decord`."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "patch_px", "merge", "min_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"videomtr.video.pool.{name}={getattr(self, name)}; expected at least 1")
        if self.max_tokens < self.min_tokens:
            raise ValueError(
                f"videomtr.video.pool.max_tokens={self.max_tokens}; expected at least min_tokens={self.min_tokens}"
            )
        if self.mode not in ("uniform", "rate"):
            raise ValueError(f"videomtr.video.pool.mode={self.mode!r}; expected 'uniform' or 'rate'")
        if (self.mode == "rate") != (self.fps is not None) or (self.fps is not None and self.fps <= 0):
            raise ValueError(
                f"videomtr.video.pool.fps={self.fps} with mode={self.mode!r}; "
                "expected a positive rate in mode 'rate', and none in mode 'uniform'"
            )
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"videomtr.video.pool.size={self.size}; expected positive (height, width)")
        if self.decoder not in DECODERS:
            raise ValueError(f"videomtr.video.pool.decoder={self.decoder!r}; expected one of {', '.join(DECODERS)}")

    @property
    def factor_px(self) -> int:
        """Pixels a side of one visual token."""
        return self.patch_px * self.merge

    @property
    def min_pixels(self) -> int:
        """Least area of a frame."""
        return self.min_tokens * self.factor_px**2

    @property
    def max_pixels(self) -> int:
        """Most area of a frame."""
        return self.max_tokens * self.factor_px**2


class FileStamp(NamedTuple):
    """What the file system says of a file; differs when the file was replaced, written or touched."""

    num_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """The chosen frames of one file and all that a decoder needs to fetch them: a few KB, whatever the video."""

    source: VideoProbe
    """The probe, with its tables narrowed to the chosen frames and the key frames before them."""
    duration_seconds: float
    """Of the whole video."""
    num_video_frames: int
    """N: frames in the whole video."""
    frame_idx: np.ndarray
    """(M,) int64: each chosen frame's position among the N frames shown."""
    times_seconds: np.ndarray
    """(M,) float64: each chosen frame's time after the first frame."""
    size: tuple[int, int]
    """(height, width) at which the frames are served, upright."""
    file_stamp: FileStamp
    """Of the file when it was probed."""

    @property
    def path(self) -> str:
        """The file."""
        return self.source.path

    @property
    def num_frames(self) -> int:
        """M, or fewer."""
        return len(self.frame_idx)

    def require_unchanged(self) -> None:
        """Raise VideoTimestampError where the file is not the one that was probed."""
        if file_stamp(self.path) != self.file_stamp:
            raise VideoTimestampError("changed since it was opened", path=self.path, remedy="open it again")

    def require_whole(self, rows: np.ndarray) -> None:
        """Raise DamagedVideoError where data are lost that one of the pool frames `rows` may depend on."""
        broken = rows[~self.source.frame_whole[rows]]
        if len(broken):
            raise DamagedVideoError(
                f"has lost data before the frame at {self.times_seconds[broken[0]]:.2f} s, on which it may depend",
                path=self.path,
                remedy="fetch it again or drop it",
            )


def make_plan(path: str | Path, config: PoolConfig, *, tick: Callable[[], None] = lambda: None) -> PoolPlan:
    """Probe `path` and choose its candidate frames.

    Raises:
        VideoError: the file is missing, not allowed, damaged, or holds no video.
    """
    source = probe(path, tick=tick)
    chosen = choose_frames(source.times_seconds, source.duration_seconds, config)
    pts = source.frame_pts[chosen]
    keys = np.unique(np.searchsorted(source.key_pts, pts, side="right") - 1)
    return PoolPlan(
        source=replace(
            source,
            frame_pts=pts,
            frame_whole=source.frame_whole[chosen],
            key_pts=source.key_pts[keys],
            key_dts=source.key_dts[keys],
        ),
        duration_seconds=source.duration_seconds,
        num_video_frames=source.num_frames,
        frame_idx=chosen,
        times_seconds=source.times_seconds[chosen],
        size=_frame_size(source, config),
        file_stamp=file_stamp(path),
    )


def choose_frames(times_seconds: np.ndarray, duration_seconds: float, config: PoolConfig) -> np.ndarray:
    """Return the indices of the frames nearest to the middles of equal parts of the video: (<= M,) int64, rising.

    A video with at most M frames gives them all. Where the frames are so unevenly spaced that two parts share their
    nearest frame, it is taken once.

    Args:
        times_seconds: (N,) float64, strictly rising from 0.
    """
    count = config.num_frames
    if config.fps is not None:
        count = min(count, max(1, round(duration_seconds * config.fps)))
    if len(times_seconds) <= count:
        return np.arange(len(times_seconds))
    centres = (np.arange(count) + 0.5) * duration_seconds / count
    right = np.searchsorted(times_seconds, centres).clip(1, len(times_seconds) - 1)
    nearer_left = centres - times_seconds[right - 1] <= times_seconds[right] - centres
    return np.unique(right - nearer_left)


def file_stamp(path: str | Path) -> FileStamp:
    """Return the stamp of the file that is now at `path`.

    Raises:
        OSError: there is none.
    """
    status = os.stat(path)
    return FileStamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _frame_size(source: VideoProbe, config: PoolConfig) -> tuple[int, int]:
    if config.size is not None:
        return config.size
    height, width = source.display_size
    try:
        return grid_size(
            height, width, factor_px=config.factor_px, min_pixels=config.min_pixels, max_pixels=config.max_pixels
        )
    except ValueError as error:
        raise UnsupportedVideoError(str(error), path=source.path) from error
