# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Thumbnails for a page: the frames that its episodes were shown, small, within a budget of bytes.

(video, pool size) -> frames from the run's frame cache, or from the video -> WebP as data. A frame that cannot be had
is left out: the page draws a grey one with its time.
"""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.decode_workers import DecodeWorkers
from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.pool import FramePool, PoolConfig, open_pool

logger = logging.getLogger(__name__)

LEVELS = ((160, 55), (128, 45), (96, 35))
"""(longer side in pixels, WebP quality), best first: the first that fits the budget is taken."""
PROBE_FRAMES = 48
"""Frames that are encoded to learn how large one is."""
THREADS = 2
BASE64 = 4 / 3

VideoKey = tuple[str, int]
"""A video's path as its record has it, and the number of frames in its pool."""


@dataclass(kw_only=True)
class Wanted:
    """The frames that a page would show of one pool, most wanted first."""

    path: Path
    """Where the video should be."""
    settings: Mapping[str, Any]
    """`videomtr.*` of the run that played it, {} where unknown."""
    times_seconds: list[float] | None = None
    """Time of each pool frame as the record has it; old records have none."""
    duration_seconds: float | None = None
    indices: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class Film:
    """What the page holds of one pool."""

    times_seconds: list[float] | None = None
    duration_seconds: float | None = None
    frames: dict[int, str] = field(default_factory=dict)
    """Pool index -> base64 of a WebP image."""
    problem: str = ""


def wanted_of(record: Mapping[str, Any], run: Mapping[str, Any], *, video_root: Path | None = None) -> Wanted:
    """Say where a played record's video should be; its frames are yet to be named.

    Args:
        run: what the run's run.json says, {} where there is none.
        video_root: where relative paths are looked for; None takes the run's own root.
    """
    settings = run.get("videomtr") or {}
    root = video_root or (settings.get("video") or {}).get("root")
    times = _finite(record["episode"].get("times_seconds"))
    duration = _finite([record["episode"].get("duration_seconds") or 0.0])
    return Wanted(
        path=Path(root or "") / str(record.get("video") or ""),
        settings=settings,
        times_seconds=times,
        duration_seconds=duration[0] if duration and duration[0] > 0 else None,
    )


def _finite(values: Sequence[Any] | None) -> list[float] | None:
    """Read numbers; None where one of them is NaN or infinite, so that a place on the timeline is always one."""
    numbers = [float(value) for value in values or ()]
    return numbers if numbers and all(map(math.isfinite, numbers)) else None


def make_thumbnails(
    wanted: Mapping[VideoKey, Wanted], *, budget_bytes: int, progress: Callable[[Iterable[Any], int], Iterable[Any]]
) -> tuple[dict[VideoKey, Film], int]:
    """Read and encode the wanted frames; return them and how many were left out for want of room.

    Args:
        budget_bytes: room for all of them in the page, base64 included.
        progress: wraps the iteration over videos: (iterable, its length) -> iterable.
    """
    keys = list(wanted)
    total = sum(len(item.indices) for item in wanted.values())
    films: dict[VideoKey, Film] = {}
    used = left_out = 0
    level, share = LEVELS[0], 1.0
    with ThreadPoolExecutor(THREADS) as threads:
        read = threads.map(lambda key: read_film(wanted[key], num_frames=key[1]), keys)
        pending: list[tuple[VideoKey, Film, dict[int, np.ndarray]]] = []
        probed = 0
        for key, (film, pixels) in zip(keys, progress(read, len(keys)), strict=True):
            films[key] = film
            pending.append((key, film, pixels))
            probed += len(pixels)
            if probed < PROBE_FRAMES and len(films) < len(keys):
                continue
            if used == 0:
                level, share = _fit([image for _, _, part in pending for image in part.values()], total, budget_bytes)
            for waiting, target, images in pending:
                room = max(1, round(share * len(wanted[waiting].indices)))
                for index in wanted[waiting].indices:
                    if index not in images:
                        continue
                    encoded = encode(images[index], *level)
                    if len(target.frames) >= room or used + len(encoded) > budget_bytes:
                        left_out += 1
                        continue
                    target.frames[index] = encoded
                    used += len(encoded)
            pending = []
    return films, left_out


def encode(pixels: np.ndarray, side_px: int, quality: int) -> str:
    """Shrink (H, W, 3) uint8 to `side_px` on the longer side; return base64 of its WebP."""
    image = Image.fromarray(pixels)
    image.thumbnail((side_px, side_px), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=2)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _fit(images: Sequence[np.ndarray], total: int, budget_bytes: int) -> tuple[tuple[int, int], float]:
    """Choose the best level that fits, and the share of frames that does."""
    share = 1.0
    for level in LEVELS:
        sample = images[:PROBE_FRAMES]
        mean = sum(len(encode(image, *level)) for image in sample) / len(sample) if sample else 0.0
        share = min(1.0, budget_bytes / (mean * total)) if mean * total else 1.0
        if share == 1.0:
            break
    return level, share


def read_film(
    wanted: Wanted, *, num_frames: int, workers: DecodeWorkers | None = None
) -> tuple[Film, dict[int, np.ndarray]]:
    """Read a pool's wanted frames at a size not far above a thumbnail's; the film itself holds no pictures yet.

    Args:
        num_frames: of the pool.
        workers: the processes that decode; None shares those of this process.
    Returns:
        The film, which says why there are no frames where there are none; pool index -> (H, W, 3) uint8.
    """
    film = Film(times_seconds=wanted.times_seconds, duration_seconds=wanted.duration_seconds)
    try:
        pool = _open(wanted, num_frames, workers)
        indices = [index for index in wanted.indices if index < pool.num_frames]
        frames = pool.read(indices)
    except (VideoError, OSError, ValueError) as error:
        film.problem = " ".join(str(error).split())[:300]
        return film, {}
    if film.times_seconds is None:
        film.times_seconds = [float(time) for time in pool.times_seconds]
        film.duration_seconds = pool.duration_seconds
    return film, dict(zip(indices, frames, strict=True))


def _open(wanted: Wanted, num_frames: int, workers: DecodeWorkers | None = None) -> FramePool:
    cached = _open_cached(wanted, num_frames, workers)
    if cached is not None and cached.read_cached(wanted.indices) is not None:
        return cached
    pool = (wanted.settings.get("video") or {}).get("pool") or {}
    small = PoolConfig(
        num_frames=num_frames,
        mode=pool.get("mode", "uniform"),
        fps=pool.get("fps"),
        patch_px=1,
        merge=2,
        min_tokens=LEVELS[0][0] ** 2 // 16,
        max_tokens=LEVELS[0][0] ** 2 // 4,
    )
    return open_pool(wanted.path, small, workers=workers)


def _open_cached(wanted: Wanted, num_frames: int, workers: DecodeWorkers | None) -> FramePool | None:
    """Open the pool as the run cached it; None where the run's settings name no such entry."""
    video = wanted.settings.get("video") or {}
    directory = (video.get("cache") or {}).get("dir")
    if not directory or not Path(directory).is_dir():
        return None
    pool: dict[str, Any] = {
        name: tuple(value) if name == "size" and value else value for name, value in video["pool"].items()
    }
    pool["num_frames"] = (wanted.settings.get("episode") or {}).get("pool_size", num_frames)
    try:
        config = PoolConfig(**pool)
    except TypeError:  # settings of another version
        return None
    cache = PoolCache(directory, form=video["cache"].get("form", "raw"))
    if cache.find(cache.key(wanted.path, config)) is None:
        return None
    return open_pool(wanted.path, config, cache, workers=workers)
