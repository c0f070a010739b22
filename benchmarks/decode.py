"""Time and memory of building a pool, by decoder, on numbered videos: python benchmarks/decode.py

Each measurement is a process of its own: it imports, decodes a short video to warm up, then decodes; CPU seconds are of
all its threads, memory is its highest resident size over that after the warm-up. `pyav` is this package's sparse reader
with its probe; `needed groups` decodes the same groups of pictures without dropping frames; `decord` and `torchcodec`
are used as their documentation says, with one thread, resizing as they decode, and no check of what comes back.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from videos import make_video, wrong_frames

from verl_videomtr.video.decode_workers import worker_environment
from verl_videomtr.video.plan import PoolConfig, make_plan

SIZE = (224, 392)
METHODS = ("decord", "torchcodec", "needed groups", "pyav")
CASES = (
    ("h264", 48, 1, 128),
    ("h264", 250, 1, 128),
    ("h264", 48, 10, 128),
    ("h264", 250, 10, 32),
    ("h264", 48, 60, 128),
    ("h264", 250, 60, 16),
    ("hevc", 250, 1, 16),
    ("av1", 48, 1, 32),
)


def _no_tick() -> None:
    pass


def read_pyav(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    from verl_videomtr.video.decoders import decode

    plan = make_plan(path, PoolConfig(num_frames=count, size=SIZE))
    return decode(plan, np.arange(plan.num_frames), "pyav")[0], plan.times_seconds


def read_needed_groups(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    from verl_videomtr.video import decode_pyav

    decode_pyav._SKIPPING_CODECS = frozenset()
    return read_pyav(path, count)


def read_decord(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    import decord

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), width=SIZE[1], height=SIZE[0], num_threads=1)
    chosen = _middles(len(reader), count)
    return reader.get_batch(chosen.tolist()).asnumpy(), chosen / 30


def read_torchcodec(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    decoder = VideoDecoder(
        str(path), seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC", transforms=[Resize(SIZE)]
    )
    chosen = _middles(len(decoder), count)
    return decoder.get_frames_at(chosen.tolist()).data.numpy(), chosen / 30


def _middles(num_frames: int, count: int) -> np.ndarray:
    return ((np.arange(count) + 0.5) * num_frames / count).astype(int)


READERS: dict[str, Callable[[Path, int], tuple[np.ndarray, np.ndarray]]] = {
    "pyav": read_pyav,
    "needed groups": read_needed_groups,
    "decord": read_decord,
    "torchcodec": read_torchcodec,
}


def measure(method: str, path: Path, count: int, warm_up: Path) -> dict[str, float]:
    """Decode once in this process and say what it took."""
    read = READERS[method]
    read(warm_up, 4)
    base = _memory_mib("VmRSS")
    cpu, wall = time.process_time(), time.perf_counter()
    frames, times = read(path, count)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = _memory_mib("VmHWM") - base
    return {"cpu": cpu, "wall": wall, "peak_mib": peak, "wrong": wrong_frames(frames, times)}


def _memory_mib(name: str) -> float:
    # Not getrusage: its peak is inherited from the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _measure_apart(method: str, path: Path, count: int, warm_up: Path) -> dict[str, float] | str:
    environment = worker_environment(method == "torchcodec")
    command = [sys.executable, __file__, "--one", method, str(path), str(count), str(warm_up)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1][:80]
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, default=Path(".cache/benchmark_videos"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, nargs="*", help="positions in CASES (default: all)")
    parser.add_argument("--make", action="store_true", help="only make the videos")
    parser.add_argument("--one", nargs=4, metavar=("METHOD", "FILE", "N", "WARM_UP"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        method, path, count, warm_up = arguments.one
        print(json.dumps(measure(method, Path(path), int(count), Path(warm_up))))
        return
    cases = [CASES[i] for i in arguments.cases] if arguments.cases else CASES
    made = {case: make_video(arguments.videos, codec=case[0], gop=case[1], minutes=case[2]) for case in cases}
    if arguments.make:
        return
    warm_up = make_video(arguments.videos)
    print(
        f"frames {SIZE[0]}x{SIZE[1]}, {arguments.rounds} rounds, load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores"
    )
    print("| video | frames | method | CPU s (least - most) | x decord | wall s | peak MiB | wrong |")
    print("|---|---|---|---|---|---|---|---|")
    for case, path in made.items():
        _print_case(case, path, warm_up, arguments.rounds)


def _print_case(case: tuple[str, int, int, int], path: Path, warm_up: Path, rounds: int) -> None:
    codec, gop, minutes, count = case
    results: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    failures = {}
    for _ in range(rounds):
        for method in METHODS:
            result = _measure_apart(method, path, count, warm_up)
            if isinstance(result, str):
                failures[method] = result
            else:
                results[method].append(result)
    base = statistics.median(r["cpu"] for r in results["decord"]) if results["decord"] else None
    for method in METHODS:
        name = f"| {codec} GOP {gop} {minutes} min | {count} | {method} "
        if method in failures:
            print(f"{name}| {failures[method]} | | | | |", flush=True)
            continue
        cpu = [r["cpu"] for r in results[method]]
        middle = {
            key: statistics.median(r[key] for r in results[method]) for key in ("cpu", "wall", "peak_mib", "wrong")
        }
        ratio = f"{middle['cpu'] / base:.2f}" if base else "-"
        print(
            f"{name}| {middle['cpu']:.2f} ({min(cpu):.2f} - {max(cpu):.2f}) | {ratio} | {middle['wall']:.2f} "
            f"| {middle['peak_mib']:.0f} | {middle['wrong']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
