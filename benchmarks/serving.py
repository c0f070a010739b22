# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Live episodes on one event loop, cached, while other videos decode: python benchmarks/serving.py

Every episode reads 16 frames, thinks, reads 8, thinks, reads 8, and begins again with another video. Meanwhile the same
service decodes videos that are not in the cache, one after another, in as many processes as it may use. Reported: the
time of a cached turn as its episode sees it, how late the event loop runs a timer, and the memory of one episode.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from videos import make_video

from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.decode_workers import WorkerConfig
from verl_videomtr.video.plan import PoolConfig
from verl_videomtr.video.service import FrameService

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from awkward_videos import write_video

CONFIG = PoolConfig(size=(224, 392))
TICK_SECONDS = 0.005


@dataclass
class Measured:
    """What a run gathers."""

    turns: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    decoded: int = 0


async def play(service: FrameService, videos: list[Path], seed: int, think: float, until: float, out: Measured) -> None:
    """One live episode after another."""
    noise = np.random.default_rng(seed)
    await asyncio.sleep(noise.uniform(0, think))
    while time.monotonic() < until:
        video = videos[noise.integers(len(videos))]
        for count in (16, 8, 8):
            rows = np.sort(noise.choice(128, count, replace=False))
            began = time.perf_counter()
            frames = await service.read(video, rows)
            if count == 8:
                out.turns.append(time.perf_counter() - began)
            del frames
            await asyncio.sleep(think * noise.uniform(0.5, 1.5))


async def keep_decoding(service: FrameService, video: Path, config_turn: int, until: float, out: Measured) -> None:
    """Read frames that no cache has, without a pause."""
    noise = np.random.default_rng(config_turn)
    while time.monotonic() < until:
        await service.read(video, np.sort(noise.choice(128, 8, replace=False)))
        out.decoded += 8


async def watch_the_loop(until: float, out: Measured) -> None:
    """Ask for a timer again and again and note how late it comes."""
    while time.monotonic() < until:
        began = time.perf_counter()
        await asyncio.sleep(TICK_SECONDS)
        out.lags.append(time.perf_counter() - began - TICK_SECONDS)


async def run(arguments: argparse.Namespace, videos: list[Path], busy: Path, folder: Path) -> None:
    cache = PoolCache(folder / "cache", form=arguments.form)
    workers = WorkerConfig(num_processes=arguments.decoders)
    service = FrameService(config=CONFIG, cache=cache, workers=workers)
    uncached = FrameService(config=CONFIG, workers=workers)
    for video in videos:
        await service.read(video, range(128))
    await uncached.pool(busy)
    out, process = Measured(), psutil.Process()
    before = process.memory_full_info().uss
    until = time.monotonic() + arguments.seconds
    tasks = [play(service, videos, i, arguments.think, until, out) for i in range(arguments.episodes)]
    if not arguments.idle:
        tasks += [keep_decoding(uncached, busy, i, until, out) for i in range(arguments.decoders)]
    late = asyncio.ensure_future(_late_memory(process, until))
    await asyncio.gather(watch_the_loop(until, out), *tasks)
    turns, lags = np.array(out.turns) * 1e3, np.array(out.lags) * 1e3
    private = (await late - before) / arguments.episodes / 2**20
    print(
        f"{arguments.episodes} episodes, {arguments.form}, {out.decoded} frames decoded beside, "
        f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores"
    )
    print("| turns | p50 ms | p99 ms | loop lag p50 ms | p99 ms | private MiB an episode |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {len(turns)} | {np.median(turns):.2f} | {np.quantile(turns, 0.99):.2f} | {np.median(lags):.2f} "
        f"| {np.quantile(lags, 0.99):.2f} | {private:.3f} |"
    )
    service.close()
    uncached.close()


async def _late_memory(process: psutil.Process, until: float) -> int:
    # Once, and late: adding up a mapping of gigabytes stops every thread of the process for tens of milliseconds.
    await asyncio.sleep(max(0.0, until - time.monotonic() - 1.0))
    return process.memory_full_info().uss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--videos",
        type=Path,
        default=Path(".cache/benchmark_videos"),
        help="folder that keeps the videos for the next time",
    )
    parser.add_argument("--episodes", type=int, default=512, help="episodes at the same time (default: %(default)s)")
    parser.add_argument("--distinct", type=int, default=64, help="cached videos that the episodes are about")
    parser.add_argument("--think", type=float, default=5.0, help="mean seconds between two turns of an episode")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="how long each measurement lasts (default: %(default)s)"
    )
    parser.add_argument("--decoders", type=int, default=2, help="decoding processes (default: %(default)s)")
    parser.add_argument(
        "--form", choices=("raw", "jpeg"), default="raw", help="of the cache's files (default: %(default)s)"
    )
    parser.add_argument("--idle", action="store_true", help="decode nothing beside")
    arguments = parser.parse_args()
    busy = make_video(arguments.videos, minutes=10)
    with tempfile.TemporaryDirectory() as folder:
        videos = [Path(folder) / f"{i}.mp4" for i in range(arguments.distinct)]
        for i, video in enumerate(videos):
            write_video(video, count=130 + i)
        asyncio.run(run(arguments, videos, busy, Path(folder)))


if __name__ == "__main__":
    main()
