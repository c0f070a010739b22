"""Frames for an agent loop: hundreds of episodes on one event loop, a few videos decoding beside it.

path -> open pool (kept in an LRU) -> frames, with nothing blocking the loop: probing, decoding and cache reads run in a
bounded number of threads, and episodes that want the same video wait for one opening of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.pool import FramePool, PoolConfig, open_pool

_Result = TypeVar("_Result")


class FrameService:
    """Opens pools once, reads frames off the event loop, and counts what that cost.

    One service serves one event loop; close it when the loop ends.
    """

    def __init__(
        self,
        *,
        config: PoolConfig | None = None,
        cache: object | None = None,
        max_concurrent: int = 2,
        max_open_pools: int = 256,
    ) -> None:
        self._config = config or PoolConfig()
        self._cache = cache
        self._max_open_pools = max_open_pools
        self._pools: OrderedDict[str, FramePool] = OrderedDict()
        self._opening: dict[str, asyncio.Task[FramePool]] = {}
        self._threads = ThreadPoolExecutor(max_concurrent, thread_name_prefix="videomtr-frames")
        self._counts: Counter[str] = Counter()

    async def pool(self, path: str | Path) -> FramePool:
        """Return the open pool of `path`, opening it at most once however many episodes ask.

        Raises:
            VideoError: the video cannot be used; it is tried again when asked for again.
        """
        key = str(path)
        if (pool := self._pools.get(key)) is not None:
            self._pools.move_to_end(key)
            self._counts["pool_hits"] += 1
            return pool
        if (task := self._opening.get(key)) is None:
            self._counts["pool_misses"] += 1
            task = asyncio.ensure_future(self._open(key))
            self._opening[key] = task
            task.add_done_callback(lambda _: self._opening.pop(key, None))
        return await asyncio.shield(task)

    async def read(self, path: str | Path, indices: Sequence[int]) -> np.ndarray:
        """Return the pool frames `indices` of `path` as (n, H, W, 3) uint8 RGB.

        Raises:
            IndexError: an index outside the pool.
            VideoError: the video cannot be opened or decoded.
        """
        pool = await self.pool(path)
        frames = await self._run(partial(pool.read, indices))
        self._counts["frames_read"] += len(frames)
        return frames

    def metrics(self) -> dict[str, float]:
        """Counters since the service began: openings, frames, failures by class, seconds waited and worked."""
        return {f"videomtr/frames/{name}": float(value) for name, value in sorted(self._counts.items())}

    def close(self) -> None:
        """Let go of the pools and threads; a read in flight finishes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pools.clear()

    async def _open(self, key: str) -> FramePool:
        pool = await self._run(partial(open_pool, key, self._config, self._cache))
        self._pools[key] = pool
        while len(self._pools) > self._max_open_pools:
            self._pools.popitem(last=False)
        return pool

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        queued = time.monotonic()

        def timed() -> _Result:
            began = time.monotonic()
            try:
                return work()
            finally:
                self._counts["wait_seconds"] += began - queued  # type: ignore[assignment]
                self._counts["work_seconds"] += time.monotonic() - began  # type: ignore[assignment]

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, timed)
        except VideoError as error:
            self._counts["failures"] += 1
            self._counts[f"failures_{type(error).__name__}"] += 1
            raise
