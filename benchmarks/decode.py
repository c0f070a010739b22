# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of building a pool, by decoder, on numbered videos: python benchmarks/decode.py --seconds 240

Each measurement is a process of its own: it imports, decodes a short video to warm up, then decodes; CPU seconds are of
all its threads, memory is its highest resident size over that after the warm-up. `pyav` is this package's sparse
reader with its probe; `needed groups` decodes the same groups of pictures without dropping frames, `whole file` every
frame; `decord` and `torchcodec` are used as their documentation says, with one thread, resizing as they decode, and no
check of what comes back.

A round of a case runs its methods one after another; ratios are taken within a round. Rounds are appended to a file as
they end, so that a run may stop anywhere and the next one goes on; `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from videos import make_video, wrong_frames

from verl_videomtr.video.decode_workers import worker_environment
from verl_videomtr.video.plan import PoolConfig, make_plan

SIZE = (224, 392)
METHODS = ("decord", "torchcodec", "needed groups", "pyav")
WHOLE = "whole file"
"""Measured once a case: what it costs hardly varies, and its frames are what the others' are compared with."""
RESULTS = Path(__file__).parent / "results" / "decode.jsonl"
LIBRARIES = ("av", "decord", "torchcodec")
ASSUMED_SECONDS = 60.0
"""What a measurement is taken to last before one like it was timed."""


@dataclass(frozen=True)
class Workload:
    """One file and how many frames are read from it."""

    codec: str
    gop: int
    minutes: int
    frames: int

    @property
    def name(self) -> str:
        """Names the case in the table and in the results."""
        return f"{self.codec} GOP {self.gop} {self.minutes} min"

    @property
    def has_whole(self) -> bool:
        """Whether the file is also decoded in full: of the long ones, which take minutes, the target's alone."""
        return self.minutes <= 10 or (self.codec, self.gop) == ("h264", 48)


CASES = tuple(
    Workload(codec, gop, minutes, 128 if gop == 48 else 32)
    for minutes in (60, 1, 10)
    for codec in ("h264", "hevc", "av1")
    for gop in (48, 250)
)


def read_pyav(path: Path, count: int, decoder: str = "pyav") -> tuple[np.ndarray, np.ndarray]:
    from verl_videomtr.video.decoders import decode

    plan = make_plan(path, PoolConfig(num_frames=count, size=SIZE))
    return decode(plan, np.arange(plan.num_frames), decoder)[0], plan.times_seconds


def read_whole_file(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    return read_pyav(path, count, "pyav-full")


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
    WHOLE: read_whole_file,
    "decord": read_decord,
    "torchcodec": read_torchcodec,
}


def measure(method: str, path: Path, count: int, warm_up: Path) -> dict[str, Any]:
    """Decode once in this process and say what it took."""
    read = READERS[method]
    read(warm_up, 4)
    base = _memory_mib("VmRSS")
    cpu, wall = time.process_time(), time.perf_counter()
    frames, times = read(path, count)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "cpu": round(cpu, 3),
        "wall": round(wall, 3),
        "peak_mib": round(_memory_mib("VmHWM") - base, 1),
        "wrong": wrong_frames(frames, times),
        "digest": hashlib.blake2b(np.ascontiguousarray(frames), digest_size=8).hexdigest(),
    }


def _memory_mib(name: str) -> float:
    # Not getrusage: its peak is inherited from the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _measure_apart(method: str, path: Path, count: int, warm_up: Path) -> dict[str, Any]:
    environment = worker_environment(method == "torchcodec")
    command = [sys.executable, __file__, "--one", method, str(path), str(count), str(warm_up)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or ["failed"])[-1][:120]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_methods(case: Workload, methods: Sequence[str], directory: Path) -> dict[str, Any]:
    """Measure each method once, one after another."""
    path = make_video(directory, codec=case.codec, gop=case.gop, minutes=case.minutes)
    warm_up = make_video(directory)
    began, load = time.monotonic(), os.getloadavg()[0]
    measured = {method: _measure_apart(method, path, case.frames, warm_up) for method in methods}
    return {
        "case": case.name,
        "frames": case.frames,
        "versions": _versions(),
        "load": round(load, 1),
        "seconds": round(time.monotonic() - began, 1),
        "methods": measured,
    }


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES}


def run(cases: Sequence[Workload], arguments: argparse.Namespace) -> None:
    """Measure what is still missing until the time is spent."""
    ends = time.monotonic() + (arguments.seconds or math.inf)
    while fitting := [
        (case, methods)
        for case, methods, expected in _missing(cases, read_results(arguments.results), arguments.rounds)
        if time.monotonic() + expected < ends
    ]:
        case, methods = fitting[0]
        result = run_methods(case, methods, arguments.videos)
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        with arguments.results.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{case.name}: {', '.join(methods)}: {result['seconds']} s", flush=True)


def _missing(
    cases: Sequence[Workload], done: dict[str, list[dict[str, Any]]], rounds: int
) -> list[tuple[Workload, Sequence[str], float]]:
    """What is to be measured, with the seconds it may take: first rounds, then whole files, then further rounds."""
    work: list[tuple[float, Workload, Sequence[str], float]] = []
    for case in cases:
        results = done.get(case.name, [])
        known = [result["seconds"] for result in results if "pyav" in result["methods"]]
        if len(known) < rounds:
            work.append((len(known), case, METHODS, min(known, default=ASSUMED_SECONDS)))
        if case.has_whole and not any(WHOLE in result["methods"] for result in results):
            work.append((0.5, case, (WHOLE,), ASSUMED_SECONDS))
    return [item[1:] for item in sorted(work, key=lambda item: (item[0], item[3]))]


def read_results(path: Path) -> dict[str, list[dict[str, Any]]]:
    """What is on file of the libraries installed now, by case."""
    rounds: dict[str, list[dict[str, Any]]] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            result = json.loads(line)
            if result["versions"] == _versions():
                rounds.setdefault(result["case"], []).append(result)
    return rounds


def print_table(cases: Sequence[Workload], results: dict[str, list[dict[str, Any]]]) -> None:
    """One line a case: medians over the rounds; ratios are medians of the rounds' own, with the least and most."""
    print(
        "| video | frames | rounds | decord s | torchcodec s | groups s | pyav s | pyav / decord | pyav / groups "
        "| peak MiB d, t, p | wrong d, t, p | pyav's frames equal |"
    )
    print("|---" * 12 + "|")
    for case in sorted(cases, key=lambda case: (case.codec != "h264", case.codec == "av1", case.gop, case.minutes)):
        measured = [result["methods"] for result in results.get(case.name, ())]
        if rounds := [methods for methods in measured if "pyav" in methods]:
            whole = next((methods[WHOLE]["digest"] for methods in measured if WHOLE in methods), None)
            seconds = [_typical(method, "cpu", rounds, "{:.1f}") for method in METHODS]
            ratios = [_ratio("pyav", base, rounds) for base in ("decord", "needed groups")]
            others = ("decord", "torchcodec", "pyav")
            peaks = ", ".join(_typical(method, "peak_mib", rounds, "{:.0f}") for method in others)
            wrong = ", ".join(_typical(method, "wrong", rounds, "{:.0f}") for method in others)
            cells = [case.name, str(case.frames), str(len(rounds)), *seconds, *ratios, peaks, wrong]
            print(f"| {' | '.join([*cells, _same(rounds, whole)])} |")


def _typical(method: str, key: str, rounds: list[dict[str, Any]], form: str) -> str:
    values = [methods[method][key] for methods in rounds if key in methods[method]]
    if not values:
        return "fails"
    return form.format(statistics.median(values) if key == "cpu" else max(values))


def _ratio(method: str, base: str, rounds: list[dict[str, Any]]) -> str:
    ratios = [
        methods[method]["cpu"] / methods[base]["cpu"]
        for methods in rounds
        if "cpu" in methods[method] and "cpu" in methods[base]
    ]
    if not ratios:
        return ""
    spread = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.2f}{spread}"


def _same(rounds: list[dict[str, Any]], whole: str | None) -> str:
    """What the sparse reader's frames equal byte for byte: the whole file decoded, or the needed groups in full."""
    ours = {methods["pyav"].get("digest") for methods in rounds}
    if whole is not None:
        return "whole file" if ours == {whole} else "NO"
    return "groups" if ours == {methods["needed groups"].get("digest") for methods in rounds} else "NO"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--videos",
        type=Path,
        default=Path(".cache/benchmark_videos"),
        help="folder that keeps the videos for the next time",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="file that rounds are appended to (default: the repository's)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each case in all")
    parser.add_argument("--cases", type=int, nargs="*", help="positions in CASES (default: all)")
    parser.add_argument("--seconds", type=float, help="begin no round that would end later than this")
    parser.add_argument("--make", action="store_true", help="only make the videos")
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--one", nargs=4, metavar=("METHOD", "FILE", "N", "WARM_UP"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        method, path, count, warm_up = arguments.one
        print(json.dumps(measure(method, Path(path), int(count), Path(warm_up))))
        return
    cases = [CASES[i] for i in arguments.cases] if arguments.cases else CASES
    if arguments.make:
        for case in cases:
            make_video(arguments.videos, codec=case.codec, gop=case.gop, minutes=case.minutes)
        return
    if not arguments.table:
        run(cases, arguments)
    print(f"frames {SIZE[0]}x{SIZE[1]}, {os.cpu_count()} cores, {_versions()}")
    print_table(cases, read_results(arguments.results))


if __name__ == "__main__":
    main()
