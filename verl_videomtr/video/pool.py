"""The candidate pool: M frames spread evenly over a whole video, each with its index and its true time.

path -> probe -> which frames -> (on demand) pixels. Frame i is the real frame shown nearest to the middle of the i-th
of M equal parts of the video. (arXiv 2508.20478v2, section 3.1: the pool F_all.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verl_videomtr.video.decode_pyav import decode_sparse
from verl_videomtr.video.errors import UnsupportedVideoError
from verl_videomtr.video.probe import VideoProbe, probe
from verl_videomtr.video.sizing import grid_size


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
    min_pixels: int = 16 * 28 * 28
    """Least pixels of a frame; a smaller one is enlarged."""
    max_pixels: int = 128 * 28 * 28
    """Most pixels of a frame: 120 visual tokens for a 16:9 video."""
    decoder: str = "auto"
    """`auto`, `pyav`, `torchcodec` or `decord`."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "patch_px", "merge", "min_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"videomtr.video.{name}={getattr(self, name)}; expected at least 1")
        if self.max_pixels < max(self.min_pixels, self.factor_px**2):
            raise ValueError(
                f"videomtr.video.max_pixels={self.max_pixels}; expected at least min_pixels={self.min_pixels} "
                f"and one grid cell of {self.factor_px}x{self.factor_px}"
            )
        if self.mode not in ("uniform", "rate"):
            raise ValueError(f"videomtr.video.mode={self.mode!r}; expected 'uniform' or 'rate'")
        if (self.mode == "rate") != (self.fps is not None) or (self.fps is not None and self.fps <= 0):
            raise ValueError(
                f"videomtr.video.fps={self.fps} with mode={self.mode!r}; expected a rate in mode 'rate' alone"
            )
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"videomtr.video.size={self.size}; expected positive (height, width)")

    @property
    def factor_px(self) -> int:
        """Pixels a side of one visual token."""
        return self.patch_px * self.merge


class FramePool:
    """The M candidate frames of one video; pixels are read when they are asked for."""

    def __init__(self, source: VideoProbe, config: PoolConfig) -> None:
        chosen = choose_frames(source.times_seconds, source.duration_seconds, config)
        self.path = source.path
        self.times_seconds: np.ndarray = source.times_seconds[chosen]
        """(M,) float64, strictly rising: true presentation times, in seconds after the first frame."""
        self.duration_seconds = source.duration_seconds
        self.height_px, self.width_px = _frame_size(source, config)
        self.decoder = "pyav"
        """The decoder that reads this pool."""
        self._pts = source.frame_pts[chosen]
        self._source = source

    @property
    def num_frames(self) -> int:
        """M, or fewer where the video has fewer distinct frames."""
        return len(self.times_seconds)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the frames at `indices`, in that order, as (n, H, W, 3) uint8 RGB.

        Raises:
            IndexError: an index outside the pool.
            VideoError: the frames cannot be decoded, or are not the ones asked for.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.num_frames):
            raise IndexError(
                f"frame indices {rows.min()}..{rows.max()}; expected 0..{self.num_frames - 1}; video {self.path}"
            )
        if not rows.size:
            return np.empty((0, self.height_px, self.width_px, 3), dtype=np.uint8)
        unique, inverse = np.unique(rows, return_inverse=True)
        frames = decode_sparse(self._source, self._pts[unique], (self.height_px, self.width_px))
        return frames if np.array_equal(unique, rows) else frames[inverse]


def open_pool(path: str | Path, config: PoolConfig | None = None, cache: object | None = None) -> FramePool:
    """Probe `path` and choose its candidate frames.

    Raises:
        VideoError: the file is missing, not allowed, damaged, or holds no video.
    """
    return FramePool(probe(path), config or PoolConfig())


def choose_frames(times_seconds: np.ndarray, duration_seconds: float, config: PoolConfig) -> np.ndarray:
    """Return the indices of the frames nearest to the middles of equal parts of the video: (<= M,) int64, rising.

    A video with at most M frames gives them all. Where the frames are so unevenly spaced that two parts share their
    nearest frame, it is taken once.
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
