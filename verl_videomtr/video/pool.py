"""The candidate pool of one video: M frames, each with its index and its true time, read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from verl_videomtr.video.decode_workers import DecodeWorkers, shared_workers
from verl_videomtr.video.plan import PoolConfig, PoolPlan

__all__ = ["FramePool", "PoolConfig", "open_pool"]


class FramePool:
    """The candidate frames of one video. Safe to use from several threads."""

    def __init__(self, plan: PoolPlan, config: PoolConfig, workers: DecodeWorkers) -> None:
        self.path = plan.path
        self.times_seconds = plan.times_seconds
        """(M,) float64, strictly rising: true presentation times, in seconds after the first frame."""
        self.duration_seconds = plan.duration_seconds
        self.height_px, self.width_px = plan.size
        self.decoder = "pyav" if config.decoder == "auto" else config.decoder
        """The decoder that reads this pool; `pyav-full` once sparse reading has failed."""
        self._plan = plan
        self._chosen_decoder = config.decoder
        self._workers = workers

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
        frames = self._decode(unique)
        return frames if np.array_equal(unique, rows) else frames[inverse]

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        frames, self.decoder = self._workers.decode(self._plan, rows, self._chosen_decoder)
        if self.decoder == "pyav-full":
            self._chosen_decoder = "pyav-full"
        return frames


def open_pool(
    path: str | Path,
    config: PoolConfig | None = None,
    cache: object | None = None,
    *,
    workers: DecodeWorkers | None = None,
) -> FramePool:
    """Probe `path` and choose its candidate frames.

    Args:
        workers: the processes that open and decode files; None shares those of this process.
    Raises:
        VideoError: the file is missing, not allowed, damaged, or holds no video.
    """
    config = config or PoolConfig()
    workers = workers or shared_workers()
    return FramePool(workers.plan(path, config), config, workers)
