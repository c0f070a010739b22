# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Hundreds of live episodes for as long as you like: python benchmarks/soak.py [--minutes 30]

Every episode is played as in training, by a policy that thinks for some seconds, retrieves twice at random and answers,
on one event loop and one `FrameService`; when it ends the next begins. Their videos are cached. Beside them the same
service reads videos that nobody has seen, each once, in as many processes as it may use, so that pools are opened,
filled, closed and evicted all the time. Printed side by side, for the first and the last tenth of the time: the number
of cached retrievals, their p50 and p99, how late the event loop runs a timer, memory, descriptors, threads, children.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from verl_videomtr.episode import EpisodeConfig
from verl_videomtr.prompts import Prompts
from verl_videomtr.rollout import Message, Reply, open_episode, play
from verl_videomtr.sample import Sample
from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.decode_workers import WorkerConfig
from verl_videomtr.video.plan import PoolConfig
from verl_videomtr.video.pool import FramePool
from verl_videomtr.video.service import FrameService

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from awkward_videos import write_video

POOL = PoolConfig(size=(224, 392))
EPISODE = EpisodeConfig()
TICK_SECONDS = 0.05
SAMPLE_SECONDS = 2.0


@dataclass
class Measured:
    """What a run gathers, each value with the time at which it was measured."""

    turns: list[tuple[float, float]] = field(default_factory=list)
    """Seconds of a retrieval's frames."""
    lags: list[tuple[float, float]] = field(default_factory=list)
    """Seconds by which a timer was late."""
    levels: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Memory, descriptors, threads and children."""
    episodes: int = 0


class TimedFrames:
    """A frame service whose retrievals are timed as their episode sees them."""

    def __init__(self, service: FrameService, out: Measured) -> None:
        self._service = service
        self._out = out

    async def pool(self, path: str) -> FramePool:
        return await self._service.pool(path)

    async def read(self, pool: FramePool, indices: Sequence[int]) -> np.ndarray:
        began = time.monotonic()
        frames = await self._service.read(pool, indices)
        if len(indices) == EPISODE.frames_per_retrieval:
            self._out.turns.append((began, time.monotonic() - began))
        return frames


class Thinker:
    """A policy: some seconds, then a random retrieval while there is one, then the answer."""

    def __init__(self, noise: np.random.Generator, think: float) -> None:
        self._noise = noise
        self._think = think
        self._num_shown = 0

    async def show(self, message: Message, *, context_start: int) -> bool:
        self._num_shown += 1
        return True

    async def respond(self) -> Reply:
        await asyncio.sleep(self._think * self._noise.uniform(0.5, 1.5))
        if self._num_shown == EPISODE.max_turns:
            return Reply(text="<think>It is clear.</think><answer>A</answer>")
        start = int(self._noise.integers(0, EPISODE.pool_size - 40))
        return Reply(text=f"<think>Closer.</think><retrieve>{start},{start + 39}</retrieve>")


async def live(
    videos: list[Path], frames: TimedFrames, seed: int, *, think: float, until: float, out: Measured
) -> None:
    """Play one episode after another."""
    noise, prompts = np.random.default_rng(seed), Prompts.load("default")
    await asyncio.sleep(noise.uniform(0, think))
    while time.monotonic() < until:
        sample = Sample(
            data_source="soak",
            sample_id=f"soak/{seed}",
            index=seed,
            split="train",
            video=str(videos[noise.integers(len(videos))]),
            question="What is to be seen?",
            options=("a number", "nothing"),
            answer="A",
            question_type="multiple_choice",
        )
        rollout = await open_episode(sample, config=EPISODE, prompts=prompts, frames=frames, root=None)
        await play(rollout, Thinker(noise, think))
        out.episodes += 1


async def churn(service: FrameService, data: bytes, folder: Path, numbers: Iterator[int], *, until: float) -> None:
    """Read videos that are new, one after another."""
    while time.monotonic() < until:
        path = folder / f"new{next(numbers)}.mp4"
        path.write_bytes(data + path.name.encode())  # Other bytes, the same pictures.
        await service.read(path, range(0, POOL.num_frames, 8))
        path.unlink()


async def watch(out: Measured, *, until: float) -> None:
    """Note how late timers come, and now and then what the process and its children hold."""
    process, next_look = psutil.Process(), 0.0
    while (now := time.monotonic()) < until:
        if now >= next_look:
            for name, value in levels(process).items():
                out.levels.setdefault(name, []).append((now, value))
            next_look = now + SAMPLE_SECONDS
        began = time.monotonic()
        await asyncio.sleep(TICK_SECONDS)
        out.lags.append((began, time.monotonic() - began - TICK_SECONDS))


def levels(process: psutil.Process) -> dict[str, float]:
    """What the process and its children hold now."""
    children = process.children(recursive=True)
    descriptors, rss = process.num_fds(), 0
    for child in children:
        try:
            rss += child.memory_info().rss
            descriptors += child.num_fds()
        except psutil.NoSuchProcess:
            continue
    return {
        "RSS, MiB": process.memory_info().rss / 2**20,
        "RSS of the children, MiB": rss / 2**20,
        "descriptors, children's too": descriptors,
        "threads": process.num_threads(),
        "children": len(children),
    }


async def soak(arguments: argparse.Namespace, videos: list[Path], folder: Path) -> tuple[Measured, dict[str, float]]:
    """Play, and return what was measured and the service's own counts."""
    filled = PoolCache(folder / "cache", form=arguments.form)
    service = FrameService(config=POOL, cache=filled, workers=WorkerConfig(num_processes=arguments.decoders))
    for video in videos:
        await service.read(video, range(POOL.num_frames))
    service.close()
    # Room for a quarter more than what the episodes use: what is new pushes out what was new before.
    bounded = PoolCache(folder / "cache", form=arguments.form, max_bytes=int(1.25 * filled.size_bytes()))
    service = FrameService(
        config=POOL,
        cache=bounded,
        workers=WorkerConfig(num_processes=arguments.decoders),
        max_open_pools=arguments.distinct + 32,
    )
    out, numbers = Measured(), itertools.count()
    until = time.monotonic() + 60 * arguments.minutes
    frames, data = TimedFrames(service, out), videos[0].read_bytes()
    think = arguments.think
    tasks = [live(videos, frames, i, think=think, until=until, out=out) for i in range(arguments.episodes)]
    tasks += [churn(service, data, folder, numbers, until=until) for _ in range(arguments.decoders)]
    await asyncio.gather(watch(out, until=until), *tasks)
    counts = service.metrics() | {"videos read beside": next(numbers), "MiB in the cache": bounded.size_bytes() / 2**20}
    service.close()
    return out, counts


def report(out: Measured, counts: dict[str, float], arguments: argparse.Namespace) -> None:
    """Print the first and the last tenth of the time side by side."""
    # The episodes begin spread over one time of thinking; before that there is less of everything.
    began = out.lags[0][0] + 2 * arguments.think
    tenth = (out.lags[-1][0] - began) / 10
    parts = [(began, began + tenth), (began + 9 * tenth, began + 10 * tenth)]

    def within(values: list[tuple[float, float]], part: tuple[float, float]) -> list[float]:
        return [value for at, value in values if part[0] <= at <= part[1]]

    def row(name: str, figures: list[float], form: str) -> str:
        return f"| {name} | " + " | ".join(format(figure, form) for figure in figures) + " |"

    print(
        f"{arguments.episodes} live episodes, {arguments.minutes:g} min, {arguments.form}, {out.episodes} episodes and "
        f"{len(out.turns)} retrievals played, {counts.pop('videos read beside'):.0f} new videos read beside, load "
        f"{os.getloadavg()[0]:.1f}, {os.cpu_count()} cores"
    )
    print("| | first tenth | last tenth |\n|---|---|---|")
    print(row("retrievals of 8 frames", [len(within(out.turns, part)) for part in parts], ".0f"))
    for name, values in (("retrieval", out.turns), ("timer late", out.lags)):
        for share in (0.5, 0.99):
            figures = [1e3 * float(np.quantile(within(values, part), share)) for part in parts]
            print(row(f"{name}, p{100 * share:.0f} ms", figures, ".2f"))
    for name, values in out.levels.items():
        print(row(f"{name}, median", [statistics.median(within(values, part)) for part in parts], ".0f"))
    print("counted in all: " + ", ".join(f"{name.rpartition('/')[2]} {value:,.0f}" for name, value in counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=512, help="episodes at the same time (default: %(default)s)")
    parser.add_argument("--distinct", type=int, default=64, help="cached videos that the episodes are about")
    parser.add_argument("--think", type=float, default=5.0, help="mean seconds of a response")
    parser.add_argument("--decoders", type=int, default=1, help="processes that read new videos beside")
    parser.add_argument(
        "--form", choices=("raw", "jpeg"), default="raw", help="of the cache's files (default: %(default)s)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = [folder / f"{i}.mp4" for i in range(arguments.distinct)]
        for i, video in enumerate(videos):
            write_video(video, count=130 + i)
        report(*asyncio.run(soak(arguments, videos, folder)), arguments)


if __name__ == "__main__":
    main()
