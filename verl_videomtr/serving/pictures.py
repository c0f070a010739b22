# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Frames as a server gets them: pool indices in, encoded data URLs out, each encoded once and off the event loop.

    Picture (a frame's name) -> read from the pool -> encode -> JSON text of a data URL in the spool, shared by all who
    send it

An episode sends its pictures again with every turn, and the questions of a video begin with the same overview.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from verl_videomtr.serving.spool import Spool, Stored
from verl_videomtr.video.cache_entry import JPEG_QUALITY
from verl_videomtr.video.pool import FramePool
from verl_videomtr.video.service import FrameService

FORMATS: dict[str, dict[str, Any]] = {
    # Lossless, and twice as fast as PNG at its fastest.
    "webp": {"format": "WEBP", "lossless": True, "method": 0, "quality": 0},
    "png": {"format": "PNG", "compress_level": 1},
    # The frame cache's own form: a third of the bytes; changes pixels.
    "jpeg": {"format": "JPEG", "quality": JPEG_QUALITY, "subsampling": 0},
}
ENCODE_THREADS = 2
MAX_READING = 16
"""Reads of frames at once: each holds its frames, megabytes, until they are encoded."""


@dataclass(frozen=True)
class Picture:
    """A frame by name: nothing is read before it is sent."""

    pool: FramePool
    """Of the video as the episode began with it."""
    index: int


class PictureService:
    """Stands where an episode's frames come from, and hands out names; encodes what is to be sent.

    Args:
        image_format: one of FORMATS.
        max_bytes: encoded pictures that are kept for later episodes, least recently used ones dropped first. An
            episode keeps its own.
        spool: where they lie; None makes one in the folder for temporary files.
    """

    def __init__(
        self,
        frames: FrameService,
        *,
        image_format: str = "webp",
        max_bytes: int = 512 * 2**20,
        spool: Spool | None = None,
    ) -> None:
        if image_format not in FORMATS:
            raise ValueError(f"{image_format=}; expected one of {', '.join(FORMATS)}; correct --image-format")
        self.frames = frames
        self.image_format = image_format
        self.max_bytes = max_bytes
        self.num_encoded = 0
        self.num_bytes = 0
        """Of what is kept."""
        self._spool = spool or Spool()
        self._kept: OrderedDict[Picture, Stored] = OrderedDict()
        self._coming: dict[Picture, asyncio.Future[Stored]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Semaphore(MAX_READING)
        self._threads = ThreadPoolExecutor(ENCODE_THREADS, thread_name_prefix="videomtr-encode")

    async def pool(self, path: str) -> FramePool:
        """Return the open pool of a video, as FrameService does."""
        return await self.frames.pool(path)

    async def read(self, pool: FramePool, indices: Sequence[int]) -> list[Picture]:
        """Name frames; they are read when they are sent."""
        return [Picture(pool, int(index)) for index in indices]

    async def encoded(self, pictures: Sequence[Picture]) -> list[Stored]:
        """Return each picture as the JSON text of its data URL; whoever else waits for the same one shares it.

        Raises:
            VideoError: a frame cannot be decoded.
            SpoolError: there is no room for them.
        """
        missing = [p for p in dict.fromkeys(pictures) if p not in self._kept and p not in self._coming]
        for pool in dict.fromkeys(picture.pool for picture in missing):
            self._begin([picture for picture in missing if picture.pool is pool])
        waiting = {picture: self._coming[picture] for picture in pictures if picture in self._coming}
        found = {picture: self._kept[picture] for picture in pictures if picture not in waiting}
        for picture in found:
            self._kept.move_to_end(picture)
        for picture, future in waiting.items():
            found[picture] = await asyncio.shield(future)
        return [found[picture] for picture in pictures]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, pictures: list[Picture]) -> None:
        loop = asyncio.get_running_loop()
        futures = {picture: loop.create_future() for picture in pictures}
        self._coming.update(futures)
        task = loop.create_task(self._encode(pictures, futures))
        # The loop itself holds tasks weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _encode(self, pictures: list[Picture], futures: dict[Picture, asyncio.Future[Stored]]) -> None:
        """Read and encode frames of one video; failures go to whoever waits."""
        try:
            async with self._reading:
                urls = await self._urls(pictures[0].pool, [picture.index for picture in pictures])
        except BaseException as error:
            for picture, future in futures.items():
                self._coming.pop(picture, None)
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # a waiter that was cancelled leaves nobody to look at it
            if not isinstance(error, Exception):
                raise
            return
        for picture, url in zip(pictures, urls, strict=True):
            self._kept[picture] = url
            self.num_bytes += len(url)
            self._coming.pop(picture, None)
            futures[picture].set_result(url)
        while self.num_bytes > self.max_bytes and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self.num_bytes -= len(dropped)

    async def _urls(self, pool: FramePool, indices: list[int]) -> list[Stored]:
        loop = asyncio.get_running_loop()
        if self.image_format == "jpeg":
            # A cache in this form already holds the very files; encoding what they decode to would lose more.
            jpegs = await self.frames.read_jpegs(pool, indices)
            if jpegs is not None:
                return await loop.run_in_executor(self._threads, self._store, jpegs)
        frames = await self.frames.read(pool, indices)
        self.num_encoded += len(indices)
        return await loop.run_in_executor(self._threads, self._encode_and_store, frames)

    def _encode_and_store(self, frames: np.ndarray) -> list[Stored]:
        return self._store([encode(frame, self.image_format) for frame in frames])

    def _store(self, files: Sequence[bytes]) -> list[Stored]:
        return self._spool.write([data_url(data, self.image_format) for data in files])


def encode(frame: np.ndarray, image_format: str) -> bytes:
    """Encode one (H, W, 3) uint8 RGB frame."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, **FORMATS[image_format])
    return buffer.getvalue()


def data_url(data: bytes, image_format: str) -> bytes:
    """Write an encoded picture as JSON text; base64 needs no escapes."""
    return b'"data:image/' + image_format.encode() + b";base64," + base64.b64encode(data) + b'"'
