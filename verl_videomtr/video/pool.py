"""The candidate pool of one video: M frames, each with its index and its true time, read when they are asked for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.cache_entry import CacheDamage, CacheEntry
from verl_videomtr.video.decode_workers import DecodeWorkers, shared_workers
from verl_videomtr.video.plan import PoolConfig, PoolPlan

__all__ = ["FramePool", "PoolConfig", "open_pool"]

logger = logging.getLogger(__name__)


class FramePool:
    """The candidate frames of one video. Safe to use from several threads."""

    def __init__(
        self,
        path: str | Path,
        config: PoolConfig,
        workers: DecodeWorkers,
        *,
        plan: PoolPlan | None = None,
        cached: _CachedFrames | None = None,
    ) -> None:
        """Use `open_pool`. One of `plan` and `cached` must be given; the plan is made when it is first needed."""
        self.path = str(path)
        self._config = config
        self._workers = workers
        self._plan = plan
        self._cached = cached
        self._decoder = config.decoder
        self._lock = threading.Lock()
        if cached is not None:
            header = cached.entry.header
            self.times_seconds = np.array(header.times_seconds)
            """(M,) float64, strictly rising: true presentation times, in seconds after the first frame."""
            self.duration_seconds = header.duration_seconds
            self.height_px, self.width_px = header.height_px, header.width_px
            self.decoder = header.decoder
            """The decoder that reads this pool; `pyav-full` once sparse reading has failed."""
        else:
            assert plan is not None
            self.times_seconds = plan.times_seconds
            self.duration_seconds = plan.duration_seconds
            self.height_px, self.width_px = plan.size
            self.decoder = _family(config.decoder)

    @property
    def num_frames(self) -> int:
        """M, or fewer where the video has fewer distinct frames."""
        return len(self.times_seconds)

    @property
    def is_complete(self) -> bool:
        """Whether every frame is in the cache."""
        return self._cached is not None and self._cached.entry.num_filled == self.num_frames

    def read_cached(self, indices: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """Return the frames at `indices` as `read` does if none of them must be decoded, else None."""
        rows = self._rows(indices)
        return None if self._cached is None else self._cached.read_present(rows)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the frames at `indices`, in that order, as (n, H, W, 3) uint8 RGB.

        Raises:
            IndexError: an index outside the pool.
            VideoError: the frames cannot be decoded, or are not the ones asked for.
        """
        rows = self._rows(indices)
        if not rows.size:
            return np.empty((0, self.height_px, self.width_px, 3), dtype=np.uint8)
        if self._cached is not None and (frames := self._cached.read(rows, self._decode)) is not None:
            return frames
        unique, inverse = np.unique(rows, return_inverse=True)
        frames = self._decode(unique)
        return frames if np.array_equal(unique, rows) else frames[inverse]

    def _rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.asarray(indices, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.num_frames):
            raise IndexError(
                f"frame indices {rows.min()}..{rows.max()}; expected 0..{self.num_frames - 1}; video {self.path}"
            )
        return rows

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        with self._lock:
            if self._plan is None:
                self._plan = self._workers.plan(self.path, self._config)
        frames, self.decoder = self._workers.decode(self._plan, rows, self._decoder)
        if self.decoder == "pyav-full":
            self._decoder = "pyav-full"
        return frames


class _CachedFrames:
    """A pool's entry in the cache, and what to do when it is not there, damaged or cannot be written."""

    def __init__(self, cache: PoolCache, key: str, entry: CacheEntry) -> None:
        self.entry = entry
        self._cache = cache
        self._key = key

    def read_present(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the frames `rows` if all are there and whole."""
        try:
            return None if len(self.entry.missing(rows)) else self.entry.read(rows)
        except (CacheDamage, OSError):
            return None

    def read(self, rows: np.ndarray, decode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
        """Return the frames `rows`, decoding what is missing; None where the cache cannot be used."""
        try:
            missing = self.entry.missing(np.unique(rows))
            if len(missing):
                self._cache.fill(self._key, self.entry, missing, decode)
                if len(self.entry.missing(missing)):
                    raise CacheDamage("frames just written do not read back")
            return self.entry.read(rows)
        except CacheDamage as error:
            logger.warning("cache entry %s is dropped: %s", self.entry.path, error)
            self._cache.drop(self.entry)
        except OSError as error:
            logger.warning("cache entry %s is not used: %s", self.entry.path, error)
        return None


def open_pool(
    path: str | Path,
    config: PoolConfig | None = None,
    cache: PoolCache | None = None,
    *,
    workers: DecodeWorkers | None = None,
) -> FramePool:
    """Choose the candidate frames of `path`, or recall them from the cache.

    Args:
        workers: the processes that open and decode files; None shares those of this process.
    Raises:
        VideoError: the file is missing, not allowed, damaged, or holds no video.
    """
    config = config or PoolConfig()
    workers = workers or shared_workers()
    plan = None
    if cache is not None:
        try:
            key = cache.key(path, config)
            if (entry := cache.open(key)) is None:
                plan = workers.plan(path, config)
                entry = cache.create(key, plan, _family(config.decoder))
            return FramePool(path, config, workers, plan=plan, cached=_CachedFrames(cache, key, entry))
        except OSError as error:
            logger.warning("cache %s cannot be used for %s: %s", cache.directory, path, error)
    return FramePool(path, config, workers, plan=plan or workers.plan(path, config))


def _family(decoder: str) -> str:
    return "pyav" if decoder == "auto" else decoder
