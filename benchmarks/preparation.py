# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Time the data commands per 10,000 rows; no video is opened.

    python -m benchmarks.preparation [--rows 10000] [--rounds 5] [--json PATH]

What runs, on made-up annotations in NExT-GQA's format, of which every question passes the filter:
- `convert`: read the three annotation files, filter, make and check every sample;
- `write`: samples to parquet; `read`: parquet to checked samples;
- `mix`: read, shuffle, hold out 100 by whole videos, write both files;
- `check`: everything that `data_prep.check` looks at in the two files of `mix`.
One warm-up run each, then the median of `--rounds`; starting Python and importing is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from data_prep import check, mix, nextgqa
from data_prep.relevance import RelevanceFilter
from verl_videomtr.sample import read_rows, write_rows

QUESTIONS_PER_VIDEO = 6


def write_annotations(directory: Path, num_rows: int) -> None:
    """Write a validation split of that many questions, six to a video, with one or two spans each."""
    options = ["by the door", "on the table", "under the chair", "behind the dog", "in the garden"]
    videos = range(-(-num_rows // QUESTIONS_PER_VIDEO))
    grounding = {
        str(video): {
            "duration": 60,
            "location": {str(qid): [[1.5, 4.0], [20.0, 26.5]][: 1 + qid % 2] for qid in range(QUESTIONS_PER_VIDEO)},
            "fps": 29.97,
        }
        for video in videos
    }
    with open(directory / "val.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["video_id", "frame_count", "width", "height", "question", "answer", "qid", "type", *nextgqa.OPTION_COLUMNS]
        )
        for row in range(num_rows):
            video, qid = divmod(row, QUESTIONS_PER_VIDEO)
            question = f"where does the child in row {row} put the red ball after the dog has left"
            writer.writerow([video, 1800, 640, 480, question, options[row % 5], qid, "TN", *options])
    (directory / "gsub_val.json").write_text(json.dumps(grounding))
    (directory / "map_vid_vidorID.json").write_text(json.dumps({video: f"{video}/{video}" for video in grounding}))


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Median wall time of a call; what it prints is swallowed."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure(num_rows: int, rounds: int) -> dict[str, float]:
    """Return seconds per step for that many rows."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_annotations(directory, num_rows)
        rows, train, held = (directory / f"{stem}.parquet" for stem in ("rows", "train", "held"))
        samples, drops, _ = nextgqa.convert(directory, split="val", relevance=RelevanceFilter())
        if len(samples) != num_rows or drops:
            raise SystemExit(f"{len(samples)} samples of {num_rows}; the made-up annotations are wrong")
        mixed = [str(rows), "--out", str(train), "--holdout", "100", "--holdout-out", str(held)]
        return {
            "convert": seconds(lambda: nextgqa.convert(directory, split="val", relevance=RelevanceFilter()), rounds),
            "write": seconds(lambda: write_rows(rows, samples), rounds),
            "read": seconds(lambda: read_rows(rows), rounds),
            "mix": seconds(lambda: mix.main(mixed), rounds),
            "check": seconds(lambda: check.main([str(train), str(held)]), rounds),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="rows to make (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the figures are medians (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    result = measure(arguments.rows, arguments.rounds)
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(f"{arguments.rows:,} rows, median of {arguments.rounds}, {machine}")
    for step, value in result.items():
        print(f"{step:<8} {value:7.3f} s   {value / arguments.rows * 1e6:7.1f} us per row")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": arguments.rows, "seconds": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
