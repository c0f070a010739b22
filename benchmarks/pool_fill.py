# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Fill the frame cache from many videos, kill that run, take it up again: python -m benchmarks.pool_fill [--ray]

Small numbered videos, a few cut short, one missing, named by the rows of a parquet file. `videomtr pools` is killed
with SIGKILL once a part of the pools has been begun; the second run finishes, the third finds nothing to do. Then every
cached frame is read and its burnt-in number compared with its time.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from awkward_videos import read_number, write_video

from verl_videomtr.sample import Sample, write_rows
from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.plan import PoolConfig
from verl_videomtr.video.pool import open_pool

ROOT = Path(__file__).parents[1]
SIZE = (112, 168)
NUM_CUT = 6
FPS = 30


def make_videos(folder: Path, count: int) -> list[str]:
    """Write `count` good videos and `NUM_CUT` cut ones; return their names and that of one that is not there."""
    names = [f"{i}.mp4" for i in range(count)]
    for i, name in enumerate(names):
        write_video(folder / name, count=60 + i, size=(96, 128))  # Each another: equal files share a pool.
    for i in range(NUM_CUT):
        whole = (folder / names[i]).read_bytes()
        (folder / f"cut{i}.mp4").write_bytes(whole[: len(whole) * (i + 2) // (NUM_CUT + 2)])
    return [*names, *(f"cut{i}.mp4" for i in range(NUM_CUT)), "missing.mp4"]


def write_row_file(path: Path, videos: list[str]) -> None:
    """Write a row for every video."""
    rows = [
        Sample(
            data_source="made",
            sample_id=str(i),
            index=i,
            split="train",
            video=video,
            duration_seconds=2.0,
            question="What?",
            answer="1",
            question_type="numeric",
        )
        for i, video in enumerate(videos)
    ]
    write_rows(path, rows)


def begin(folder: Path, cache: Path, workers: int, ray: bool) -> subprocess.Popen[str]:
    """Start `videomtr pools`."""
    command = [sys.executable, "-m", "verl_videomtr.cli", "pools", "+videomtr=paper", f"videomtr.video.root={folder}"]
    command += [f"videomtr.video.cache.dir={cache}", f"videomtr.video.pool.size=[{SIZE[0]},{SIZE[1]}]"]
    command += ["--files", str(folder / "rows.parquet"), "--workers", str(workers)]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        command + ["--ray"] * ray,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def kill_when_begun(process: subprocess.Popen[str], cache: Path, count: int) -> int:
    """Kill the run once `count` pools have been begun; return how many there are when all it started has ended."""
    family: list[psutil.Process] = []
    while (begun := sum(1 for _ in cache.glob("pools/*/*.pool"))) < count and process.poll() is None:
        if begun < count // 2:
            family = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, timeout=60)  # They see that they are orphans and end; Ray's take some seconds.
    return sum(1 for _ in cache.glob("pools/*/*.pool"))


def count_right_frames(folder: Path, cache: Path, videos: list[str]) -> tuple[int, int]:
    """(frames in the cache, those of them whose number is that of their time)."""
    frames = right = 0
    config = PoolConfig(size=SIZE)
    for video in videos:
        pool = open_pool(folder / video, config, PoolCache(cache))
        cached = pool.read_cached(np.arange(pool.num_frames))
        assert cached is not None, f"{video} is not complete"
        numbers = np.rint(pool.times_seconds * FPS).astype(int).tolist()
        frames += len(cached)
        right += sum(read_number(frame) == number for frame, number in zip(cached, numbers, strict=True))
    return frames, right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=210, help="good videos")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes (default: %(default)s)")
    parser.add_argument("--ray", action="store_true", help="on a Ray that each run starts here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name) / "cache"
        videos = make_videos(folder, arguments.videos)
        write_row_file(folder / "rows.parquet", videos)
        began = time.monotonic()
        process = begin(folder, cache, arguments.workers, arguments.ray)
        begun = kill_when_begun(process, cache, len(videos) * 2 // 5)
        print(f"{len(videos)} rows; killed after {time.monotonic() - began:.0f} s with {begun} pools begun", flush=True)
        for _ in range(2):
            began = time.monotonic()
            output, _ = begin(folder, cache, arguments.workers, arguments.ray).communicate()
            line = next(line for line in output.splitlines() if line.startswith("filled"))
            print(f"again: {line}; {time.monotonic() - began:.0f} s", flush=True)
        frames, right = count_right_frames(folder, cache, videos[: arguments.videos])
        print(f"{frames:,} frames cached, {right:,} with the number of their time; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
