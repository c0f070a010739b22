# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Time of one cached turn (8 random frames of 128) by storage form: python benchmarks/cache.py

`raw` and `jpeg` are this package's cache through its own public reader, which checks every byte each time. `array` is a
plain copy out of a NumPy array over a mapping of the same pixels, `memmap` the same through `np.memmap`, whose indexing
costs more: both check nothing. `float32` is the released code's way: one `torch.load` of the whole pool an episode,
then indexing; its load is charged once to the two retrievals of an episode, and said by itself.

All forms hold the frames of one video, and their files are in the page cache. The forms take turns within a round, and
each round begins with the next form, so that each stands as often behind each of the others.
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from videos import make_video

from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.plan import PoolConfig
from verl_videomtr.video.pool import open_pool

SIZE = (224, 392)
FRAMES_PER_TURN = 8
RETRIEVALS_PER_EPISODE = 2

Reader = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--videos",
        type=Path,
        default=Path(".cache/benchmark_videos"),
        help="folder that keeps the videos for the next time",
    )
    parser.add_argument("--video", type=Path, help="a video to use instead of the benchmark's own")
    parser.add_argument(
        "--rounds", type=int, default=200, help="rounds; the figures are medians (default: %(default)s)"
    )
    arguments = parser.parse_args()
    video = arguments.video or make_video(arguments.videos)
    config = PoolConfig(size=SIZE)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        raw, jpeg = (PoolCache(directory / form, form=form) for form in ("raw", "jpeg"))
        frames = open_pool(video, config, raw).read(range(128))
        lossy = open_pool(video, config, jpeg).read(range(128))
        frames.tofile(directory / "pool.u8")
        load = _float_tensor_file(directory / "pool.pt", frames)
        readers = {
            "array": _mapped_array(directory / "pool.u8", frames.shape),
            "memmap": np.memmap(directory / "pool.u8", dtype=np.uint8, mode="r", shape=frames.shape).__getitem__,
            "raw": open_pool(video, config, raw).read_cached,
            "jpeg": open_pool(video, config, jpeg).read_cached,
            "float32, loaded": load().__getitem__,
            "float32, the load": lambda rows: load(),
        }
        mib = {
            "array": frames.nbytes,
            "memmap": frames.nbytes,
            "raw": raw.size_bytes(),
            "jpeg": jpeg.size_bytes(),
            "float32, loaded": (directory / "pool.pt").stat().st_size,
        }
        seconds = _time(readers, arguments.rounds)
    loading = statistics.median(seconds.pop("float32, the load"))
    base = {name: statistics.median(seconds[name]) for name in ("array", "memmap")}
    error = np.mean((frames.astype(np.float64) - lossy) ** 2)
    print(
        f"{video.name}, {arguments.rounds} rounds, load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; "
        f"jpeg {10 * np.log10(255**2 / error):.1f} dB; one load of the float32 file {loading * 1e3:.0f} ms"
    )
    print("| form | MiB a pool | ms a turn, median (p99) | x array | x memmap |")
    print("|---|---|---|---|---|")
    for name, values in seconds.items():
        share = loading / RETRIEVALS_PER_EPISODE if name.startswith("float32") else 0.0
        middle, worst = statistics.median(values) + share, float(np.quantile(values, 0.99)) + share
        print(
            f"| {name} | {mib[name] / 2**20:.1f} | {middle * 1e3:.3f} ({worst * 1e3:.3f}) "
            f"| {middle / base['array']:.2f} | {middle / base['memmap']:.2f} |"
        )


def _mapped_array(path: Path, shape: tuple[int, ...]) -> Reader:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, np.uint8).reshape(shape).__getitem__


def _float_tensor_file(path: Path, frames: np.ndarray) -> Callable[[], np.ndarray]:
    import torch

    torch.save(torch.from_numpy(frames).permute(0, 3, 1, 2).float().contiguous(), path)
    return lambda: torch.load(path).numpy()


def _time(readers: dict[str, Reader], rounds: int) -> dict[str, list[float]]:
    noise, names = np.random.default_rng(1), list(readers)
    for read in readers.values():
        read(np.arange(128))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        rows = noise.choice(128, FRAMES_PER_TURN, replace=False)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            readers[name](rows)
            seconds[name].append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
