# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The candidate pool of one video: M frames, each with its index and its true time, read when they are asked for.

A pool belongs to the bytes that were at its path when it was opened. A file that was only touched or fetched again is
recognised by its bytes and read on; one that holds another video is an error of this pool, and a new pool when it is
opened again. (A pool without a cache never hashed its bytes, so there any change is that error.)
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.cache_entry import EntryHeader
from verl_videomtr.video.decode_workers import DecodeWorkers, shared_workers
from verl_videomtr.video.errors import VideoError, VideoNotFoundError, VideoTimestampError
from verl_videomtr.video.forks import begin_anew_after_fork
from verl_videomtr.video.plan import FileStamp, PoolConfig, PoolPlan, file_stamp

__all__ = ["FramePool", "PoolConfig", "open_pool"]

_TRIES = 3
"""How often a file may change while it is read before that is an error."""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Where a pool's frames are kept, and of which bytes they are."""

    cache: PoolCache
    key: str
    header: EntryHeader
    content: str


class FramePool:
    """The candidate frames of one video. Safe to use from several threads."""

    def __init__(
        self,
        path: str | Path,
        config: PoolConfig,
        workers: DecodeWorkers,
        *,
        stamp: FileStamp,
        plan: PoolPlan | None = None,
        kept: _Kept | None = None,
    ) -> None:
        """Use `open_pool`. One of `plan` and `kept` must be given; the plan is made when it is first needed."""
        self.path = str(path)
        self._config = config
        self._workers = workers
        self._stamp = stamp
        self._plan = plan
        self._kept = kept
        self._decoder = config.decoder
        self.begin_after_fork()
        begin_anew_after_fork(self)
        if kept is not None:
            header = kept.header
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

    def begin_after_fork(self) -> None:
        """Let go of a lock that a thread may have held which the fork does not have."""
        self._lock = threading.Lock()

    @property
    def num_frames(self) -> int:
        """M, or fewer where the video has fewer distinct frames."""
        return len(self.times_seconds)

    @property
    def is_complete(self) -> bool:
        """Whether every frame is listed in the cache."""
        return self._kept is not None and self._kept.cache.num_filled(self._kept.key) == self.num_frames

    def is_current(self) -> bool:
        """Whether the file is as it was when this pool last looked at it; a pool that is not is to be opened anew.

        A file that is gone leaves a pool current whose frames may all be cached.
        """
        try:
            return file_stamp(self.path) == self._stamp
        except OSError:
            return self._kept is not None

    def read_cached(self, indices: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """Return the frames at `indices` as `read` does if none of them must be decoded, else None."""
        rows = self._rows(indices)
        return None if self._kept is None else self._kept.cache.read(self._kept.key, self._kept.header, rows)

    def read_jpegs(self, indices: Sequence[int] | np.ndarray) -> list[bytes] | None:
        """Return the frames at `indices` as JPEG files if that is how the cache has all of them, else None."""
        rows = self._rows(indices)
        return None if self._kept is None else self._kept.cache.read_jpegs(self._kept.key, self._kept.header, rows)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the frames at `indices`, in that order, as (n, H, W, 3) uint8 RGB.

        Raises:
            IndexError: an index outside the pool.
            VideoError: the frames cannot be decoded, are not the ones asked for, or the file holds another video now.
        """
        rows = self._rows(indices)
        if not rows.size:
            return np.empty((0, self.height_px, self.width_px, 3), dtype=np.uint8)
        if (frames := self.read_cached(rows)) is not None:
            return frames
        unique, inverse = np.unique(rows, return_inverse=True)
        if self._kept is None:
            frames = self._decode(unique)
        else:
            frames = self._kept.cache.fill(self._kept.key, self._kept.header, unique, self._decode)
        return frames if np.array_equal(unique, rows) else frames[inverse]

    def _rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.asarray(indices, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.num_frames):
            raise IndexError(
                f"frame indices {rows.min()}..{rows.max()}; expected 0..{self.num_frames - 1}; video {self.path}"
            )
        return rows

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        """Decode `rows` from a file that had this pool's bytes before and did not change meanwhile."""
        for _ in range(_TRIES):
            plan = self._current_plan()
            try:
                frames, decoder = self._workers.decode(plan, rows, self._decoder)
            except VideoError:
                if _stamp(self.path) == plan.file_stamp:
                    raise
                continue
            if _stamp(self.path) == plan.file_stamp:
                self.decoder = decoder
                if decoder == "pyav-full":
                    self._decoder = decoder
                return frames
        raise _changing(self.path)

    def _current_plan(self) -> PoolPlan:
        with self._lock:
            stamp = _stamp(self.path)
            if self._plan is not None and self._plan.file_stamp == stamp:
                return self._plan
            if stamp != self._stamp:
                self._recognise()
            plan = _plan_of(self.path, self._config, self._workers)
            if plan.file_stamp != self._stamp:
                raise _changing(self.path)
            self._plan = plan
            return plan

    def _recognise(self) -> None:
        """Take the changed file for this pool's if it has the same bytes."""
        changed = VideoTimestampError("changed since it was opened", path=self.path, remedy="open it again")
        if self._kept is None:
            raise changed
        try:
            content, stamp = self._kept.cache.content(self.path, self._workers.hash_file)
        except OSError as error:
            raise VideoNotFoundError(f"cannot be read ({error})", path=self.path) from error
        if content != self._kept.content:
            raise changed
        self._stamp = stamp


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
    if cache is not None:
        for _ in range(_TRIES):
            try:
                content, stamp = cache.content(path, workers.hash_file)
            except OSError:
                break  # The file cannot be read; the probe says what is wrong with it.
            key = cache.key_of(content, config)
            plan = None
            if (header := cache.find(key)) is None:
                plan = _plan_of(path, config, workers)
                if plan.file_stamp != stamp:
                    continue
                header = cache.header(plan, _family(config.decoder))
            kept = _Kept(cache=cache, key=key, header=header, content=content)
            return FramePool(path, config, workers, stamp=stamp, plan=plan, kept=kept)
        else:
            raise _changing(path)
    plan = _plan_of(path, config, workers)
    return FramePool(path, config, workers, stamp=plan.file_stamp, plan=plan)


def _plan_of(path: str | Path, config: PoolConfig, workers: DecodeWorkers) -> PoolPlan:
    """Return a plan whose stamp is that of the very file that was probed."""
    for _ in range(_TRIES):
        try:
            before = file_stamp(path)
        except OSError:
            return workers.plan(path, config)  # It says what is wrong.
        plan = workers.plan(path, config)
        if plan.file_stamp == before:
            return plan
    raise _changing(path)


def _stamp(path: str) -> FileStamp:
    try:
        return file_stamp(path)
    except OSError as error:
        raise VideoNotFoundError(f"is gone since it was opened ({error.strerror})", path=path) from error


def _changing(path: str | Path) -> VideoTimestampError:
    return VideoTimestampError("changes while it is read", path=path, remedy="wait until it is written")


def _family(decoder: str) -> str:
    return "pyav" if decoder == "auto" else decoder
