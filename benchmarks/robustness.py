# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What every decoder makes of every awkward file, as a table: python benchmarks/robustness.py

The files are those of the tests; a cell is `right` (16 uniform frames, each with the number that its time says), the
error that was raised, or `WRONG`; kinds that differ in codec or container only share a row. `x unchecked` columns are
decord and torchcodec used directly, as their documentation says, without this package's probe and checks: the frames
at the middles of 16 equal parts of what they count.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

import awkward_marks  # noqa: F401 - registers its kinds
from awkward_videos import GROUPS, KINDS, Truth, read_number, verdict

CHECKED = ("auto", "pyav", "torchcodec", "decord")
UNCHECKED_SECONDS = 20.0


def unchecked_decord(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Frames, their positions, and how many frames decord counts."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    chosen = ((np.arange(16) + 0.5) * len(reader) / 16).astype(int)
    return reader.get_batch(chosen.tolist()).asnumpy(), chosen, len(reader)


def unchecked_torchcodec(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Frames, their positions, and how many frames torchcodec counts in its exact mode."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC")
    chosen = ((np.arange(16) + 0.5) * len(decoder) / 16).astype(int)
    return decoder.get_frames_at(chosen.tolist()).data.numpy(), chosen, len(decoder)


UNCHECKED = {"decord unchecked": unchecked_decord, "torchcodec unchecked": unchecked_torchcodec}


def judge_unchecked(name: str, path: Path, truth: Truth, send) -> None:  # type: ignore[no-untyped-def]
    """Send `right`, `error` or `WRONG n/16` for one library and file; runs in a process of its own.

    A frame is right if its number is that of its position among the frames shown, give or take one.
    """
    try:
        frames, chosen, count = UNCHECKED[name](path)
    except Exception as error:
        send.send("error" if "libtorchcodec" not in str(error) else "not installed")
        return
    if not truth.numbers:
        send.send("frames")
        return
    shown = list(truth.numbers)
    positions = chosen * len(shown) // count
    wrong = sum(
        read_number(frame) not in shown[max(0, at - 1) : at + 2] for frame, at in zip(frames, positions, strict=True)
    )
    send.send(f"WRONG {wrong}/{len(frames)}" if wrong else "right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the table to a file")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    columns = [*CHECKED, *UNCHECKED]
    lines = [f"| file | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    sums: dict[str, Counter[str]] = {column: Counter() for column in columns}
    slowest = 0.0
    rows: dict[str, dict[str, Counter[str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, (file_name, make) in KINDS.items():
            path = Path(folder) / file_name
            truth = make(path)
            row = rows.setdefault(GROUPS.get(kind, kind).replace("_", " "), {column: Counter() for column in columns})
            for column in columns:
                began = time.monotonic()
                cell = _checked(path, truth, column) if column in CHECKED else _unchecked(path, truth, column)
                if column == "auto":
                    slowest = max(slowest, time.monotonic() - began)
                row[column][cell] += 1
                sums[column][cell.split()[0] if cell.startswith(("right", "WRONG", "frames")) else "error"] += 1
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(_cell(row[column]) for column in columns)} |")
        print(lines[-1], flush=True)
    total = [f"{c['right']} right, {c['error']} errors, {c['WRONG'] + c['frames']} wrong" for c in sums.values()]
    lines.append(f"| **{len(KINDS)} kinds** | {' | '.join(total)} |")
    print(lines[-1], f"\nslowest answer of auto: {slowest:.1f} s")
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


def _cell(counts: Counter[str]) -> str:
    """One kind's result, or how many of a group had which."""
    if counts.total() == 1:
        return next(iter(counts))
    short = Counter[str]()
    for result, count in counts.items():
        short[result.split()[0]] += count
    return ", ".join(f"{count} {result}" for result, count in short.most_common())


def _checked(path: Path, truth: Truth, decoder: str) -> str:
    result = verdict(path, truth, decoder=decoder)
    return "right" if result == "right frames" else result.split(":")[0].removesuffix("Error")


def _unchecked(path: Path, truth: Truth, name: str) -> str:
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=judge_unchecked, args=(name, path, truth, send))
    process.start()
    send.close()
    result = "error (hung)"
    if receive.poll(UNCHECKED_SECONDS):
        try:
            result = receive.recv()
        except EOFError:
            result = "error (crashed)"
    process.kill()
    process.join()
    return result


if __name__ == "__main__":
    if os.environ.get("VIDEOMTR_FFMPEG") is None:
        # torchcodec by itself needs FFmpeg on the loader's path, which is read when a process starts.
        from verl_videomtr.video.decode_workers import worker_environment

        os.execve(sys.executable, [sys.executable, *sys.argv], worker_environment(True) | {"VIDEOMTR_FFMPEG": "1"})
    import torchcodec.decoders  # noqa: F401 - before the forks, which then need not load it again

    main()
