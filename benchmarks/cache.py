"""Time of one cached turn (8 random frames of 128) by storage form: python benchmarks/cache.py

`raw` and `jpeg` are this package's cache through its own public reader; `bare memmap` is the same pixels in a NumPy
memory map, indexed; `float32 .pt` is the released code's way: one `torch.load` of the whole pool, then indexing.
All forms hold the frames of one video; their files are in the page cache; forms take turns within every round.
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, default=Path(".cache/benchmark_videos"))
    parser.add_argument("--video", type=Path, help="a video to use instead of the benchmark's own")
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    video = arguments.video or make_video(arguments.videos)
    config = PoolConfig(size=SIZE)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        raw, jpeg = (PoolCache(directory / form, form=form) for form in ("raw", "jpeg"))
        frames = open_pool(video, config, raw).read(range(128))
        lossy = open_pool(video, config, jpeg).read(range(128))
        readers = {
            "bare memmap": _bare_memmap(directory / "bare.u8", frames),
            "raw": open_pool(video, config, raw).read_cached,
            "jpeg": open_pool(video, config, jpeg).read_cached,
            "float32 .pt": _float_tensor_file(directory / "pool.pt", frames),
        }
        sizes = {
            "bare memmap": (directory / "bare.u8").stat().st_size,
            "raw": raw.size_bytes(),
            "jpeg": jpeg.size_bytes(),
            "float32 .pt": (directory / "pool.pt").stat().st_size,
        }
        seconds = _time(readers, arguments.rounds)
        first = _time_first_reads(video, config, {"raw": raw, "jpeg": jpeg})
    error = np.mean((frames.astype(np.float64) - lossy) ** 2)
    base = statistics.median(seconds["bare memmap"])
    print(f"{video.name}, {arguments.rounds} rounds, load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    print("| form | MiB a pool | ms a turn, median (p99) | x bare memmap | first turn, checked: ms | fidelity |")
    print("|---|---|---|---|---|---|")
    for name, values in seconds.items():
        middle = statistics.median(values)
        fidelity = f"{10 * np.log10(255**2 / error):.1f} dB" if name == "jpeg" else "exact"
        print(
            f"| {name} | {sizes[name] / 2**20:.1f} | {middle * 1e3:.3f} ({np.quantile(values, 0.99) * 1e3:.3f}) "
            f"| {middle / base:.2f} | {first.get(name, float('nan')) * 1e3:.2f} | {fidelity} |"
        )


def _bare_memmap(path: Path, frames: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    frames.tofile(path)
    mapped = np.memmap(path, dtype=np.uint8, mode="r", shape=frames.shape)
    return lambda rows: np.asarray(mapped[rows])


def _float_tensor_file(path: Path, frames: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    torch.save(torch.from_numpy(frames).permute(0, 3, 1, 2).float().contiguous(), path)
    return lambda rows: torch.load(path)[rows].numpy()


def _time(readers: dict[str, Callable[[np.ndarray], np.ndarray]], rounds: int) -> dict[str, list[float]]:
    noise = np.random.default_rng(1)
    for read in readers.values():
        read(np.arange(128))
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        rows = noise.choice(128, FRAMES_PER_TURN, replace=False)
        for name, read in readers.items():
            began = time.perf_counter()
            read(rows)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def _time_first_reads(video: Path, config: PoolConfig, caches: dict[str, PoolCache]) -> dict[str, float]:
    """Seconds of the first turn that a process reads of a pool: opened before, every frame checked against its CRC."""
    noise = np.random.default_rng(2)
    seconds = {}
    for name, cache in caches.items():
        times = []
        for _ in range(20):
            pool = open_pool(video, config, cache)
            rows = noise.choice(128, FRAMES_PER_TURN, replace=False)
            began = time.perf_counter()
            pool.read_cached(rows)
            times.append(time.perf_counter() - began)
        seconds[name] = statistics.median(times)
    return seconds


if __name__ == "__main__":
    main()
