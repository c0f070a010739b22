# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Frames for an agent loop: hundreds of episodes on one event loop, a few videos decoding beside it.

path -> open pool (kept in an LRU) -> frames, with nothing blocking the loop. Cached frames are read by threads of their
own, so that a turn never queues behind a video that is being decoded; opening and decoding wait for one of a bounded
number of places; episodes that want the same video share one opening of it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

import numpy as np

from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.decode_workers import DecodeWorkers, WorkerConfig
from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.forks import begin_anew_after_fork
from verl_videomtr.video.pool import FramePool, PoolConfig, open_pool

_Result = TypeVar("_Result")

_CACHE_THREADS = 2


class FrameService:
    """Opens pools once, reads frames off the event loop, and counts what that cost.

    One service serves one event loop; close it when the loop ends.
    """

    def __init__(
        self,
        *,
        config: PoolConfig | None = None,
        cache: PoolCache | None = None,
        workers: WorkerConfig | None = None,
        max_open_pools: int = 512,
    ) -> None:
        """
        Args:
            workers: how many videos decode at once, and how long one may take.
            max_open_pools: pools kept open, least recently used ones closed first. An open pool takes about 20 KB
                and no file descriptor; its frames stay on disk or in the page cache.
        """
        if max_open_pools < 1:
            raise ValueError(f"videomtr.video.open_pools={max_open_pools}; expected at least 1")
        workers = workers or WorkerConfig()
        self._config = config or PoolConfig()
        self._cache = cache
        self._workers = DecodeWorkers(workers)
        self._max_open_pools = max_open_pools
        self._pools: OrderedDict[str, FramePool] = OrderedDict()
        self._num_decode_threads = workers.num_processes
        self._counts: Counter[str] = Counter()
        self._seconds: dict[str, float] = {"decode_seconds": 0.0, "decode_wait_seconds": 0.0}
        self.begin_after_fork()
        begin_anew_after_fork(self)

    def begin_after_fork(self) -> None:
        """Start threads of its own, and leave what was under way to the process and the loop that began it."""
        self._openings: dict[str, asyncio.Task[FramePool]] = {}
        self._filling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._prefetches: set[asyncio.Task[None]] = set()
        self._decode_threads = ThreadPoolExecutor(self._num_decode_threads, thread_name_prefix="videomtr-decode")
        self._cache_threads = ThreadPoolExecutor(_CACHE_THREADS, thread_name_prefix="videomtr-cache")
        self._seconds_lock = threading.Lock()

    async def pool(self, path: str | Path) -> FramePool:
        """Return the open pool of `path`, opening it at most once however many episodes ask, and anew when it changed.

        Raises:
            VideoError: the video cannot be used; it is tried again when asked for again.
        """
        key = str(path)
        if (pool := self._pools.get(key)) is not None:
            if await self._in_cache_thread(pool.is_current):
                self._counts["pool_hits"] += 1
                if key in self._pools:
                    self._pools.move_to_end(key)
                return pool
            if self._pools.get(key) is pool:
                del self._pools[key]
                self._counts["pools_changed"] += 1
        if (task := self._openings.get(key)) is None:
            self._counts["pool_misses"] += 1
            task = asyncio.ensure_future(self._open(key))
            self._openings[key] = task
            task.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(task)

    async def read(self, video: FramePool | str | Path, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the pool frames `indices` of a video as (n, H, W, 3) uint8 RGB.

        Args:
            video: an open pool, whose frames these are or an error whatever became of the file; or a path.
        Raises:
            IndexError: an index outside the pool.
            VideoError: the video cannot be opened or decoded, or is not the one that the pool was opened on.
        """
        pool = video if isinstance(video, FramePool) else await self.pool(video)
        frames = await self._read_cached(pool, indices)
        if frames is not None:
            self._counts["cache_hits"] += 1
        else:
            self._counts["cache_misses"] += 1
            frames = await self._read_missing(pool, indices)
        self._counts["frames_read"] += len(frames)
        return frames

    async def read_jpegs(self, pool: FramePool, indices: Sequence[int] | np.ndarray) -> list[bytes] | None:
        """Return frames as JPEG files where the cache keeps that form; they are decoded and kept first if need be.

        Returns:
            None where there is no such cache, or it cannot be written.
        Raises:
            VideoError: the video cannot be decoded.
        """
        if self._cache is None or self._cache.form != "jpeg":
            return None
        jpegs = await self._in_cache_thread(partial(pool.read_jpegs, indices))
        if jpegs is None:
            await self.read(pool, indices)
            jpegs = await self._in_cache_thread(partial(pool.read_jpegs, indices))
        return jpegs

    def prefetch(self, path: str | Path, choose: Callable[[FramePool], Sequence[int]]) -> None:
        """Begin to open `path` and to cache the frames that `choose` names, and return at once.

        For the first turn of an episode, while earlier ones are still played. A video that fails is counted and left
        for the episode that reads it to report. Without a cache only the pool is opened.
        """

        async def fetch() -> None:
            try:
                pool = await self.pool(path)
                if self._cache is not None:
                    await self.read(pool, choose(pool))
            except VideoError:
                self._counts["prefetch_failures"] += 1

        task = asyncio.ensure_future(fetch())
        self._prefetches.add(task)
        task.add_done_callback(self._prefetches.discard)

    def metrics(self) -> dict[str, float]:
        """Counters since the service began: openings, hits, frames, failures by class, seconds decoding and waiting."""
        with self._seconds_lock:
            values = {**self._counts, **self._seconds, "open_pools": len(self._pools)}
        if self._cache is not None and self._cache.num_unsaved:
            values["cache_unsaved"] = self._cache.num_unsaved
        return {f"videomtr/frames/{name}": float(value) for name, value in sorted(values.items())}

    def close(self) -> None:
        """Let go of pools, threads and processes; a read in flight finishes."""
        for task in self._prefetches:
            task.cancel()
        self._decode_threads.shutdown(wait=False, cancel_futures=True)
        self._cache_threads.shutdown(wait=False, cancel_futures=True)
        self._workers.close()
        self._pools.clear()

    async def _read_cached(self, pool: FramePool, indices: Sequence[int] | np.ndarray) -> np.ndarray | None:
        if self._cache is None:
            return None
        return await self._in_cache_thread(partial(pool.read_cached, indices))

    async def _in_cache_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._cache_threads, work)

    async def _read_missing(self, pool: FramePool, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode; episodes of one video take turns, so that those who wait hold no place and mostly find it cached."""
        if self._cache is None:
            return await self._decode(partial(pool.read, indices))
        async with self._filling.setdefault(pool.path, asyncio.Lock()):
            frames = await self._read_cached(pool, indices)
            return await self._decode(partial(pool.read, indices)) if frames is None else frames

    async def _open(self, key: str) -> FramePool:
        pool = await self._decode(partial(open_pool, key, self._config, self._cache, workers=self._workers))
        self._pools[key] = pool
        while len(self._pools) > self._max_open_pools:
            self._pools.popitem(last=False)
            self._counts["pools_closed"] += 1
        return pool

    def _forget(self, key: str, task: asyncio.Task[FramePool]) -> None:
        self._openings.pop(key, None)
        if not task.cancelled():
            task.exception()  # Seen here too, so that an opening that nobody awaits any more does not warn.

    async def _decode(self, work: Callable[[], _Result]) -> _Result:
        queued = time.monotonic()

        def timed() -> _Result:
            began = time.monotonic()
            try:
                return work()
            finally:
                with self._seconds_lock:
                    self._seconds["decode_wait_seconds"] += began - queued
                    self._seconds["decode_seconds"] += time.monotonic() - began

        try:
            return await asyncio.get_running_loop().run_in_executor(self._decode_threads, timed)
        except VideoError as error:
            self._counts["failures"] += 1
            self._counts[f"failures_{type(error).__name__}"] += 1
            raise
