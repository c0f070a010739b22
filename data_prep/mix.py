# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of several sources -> one shuffled training file without what is evaluated on, and whole videos held out."""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep import command
from data_prep.drops import DropList, Dropped, text_of
from verl_videomtr.sample import Sample, SampleError, read_rows, write_row_files

TRAINED_SPLITS = ("train",)
"""Splits whose rows are trained on without a word."""


def source_video(sample: Sample) -> str:
    """Name the recording a sample is about: clips of one recording share it, and so do copies under other paths."""
    return text_of(sample.metadata.get("source_video")) or sample.video


def join(paths: Iterable[Path], *, splits: Collection[str] = TRAINED_SPLITS) -> tuple[list[Sample], int]:
    """Read files one after the other; return the samples, each once, and how many repeats were left out.

    Args:
        splits: those that rows may be of.
    Raises:
        SampleError: a file is not readable, has rows of another split, or one id stands for two different samples.
    """
    first: dict[str, Sample] = {}
    num_repeats = 0
    for path in paths:
        rows = read_rows(path)
        require_splits(rows, splits, path=path)
        for sample in rows:
            known = first.setdefault(sample.sample_id, sample)
            if known is sample:
                continue
            if replace(known, index=0) != replace(sample, index=0):
                raise SampleError(
                    f"sample_id={sample.sample_id!r} names two different samples; expected ids to be unique; {path}; "
                    "give one of the sources another name"
                )
            num_repeats += 1
    return list(first.values()), num_repeats


def require_splits(samples: Iterable[Sample], splits: Collection[str], *, path: Path) -> None:
    """Check that a file's rows may be trained on.

    Raises:
        SampleError: a row belongs to another split, as those of a benchmark do.
    """
    others = [sample for sample in samples if sample.split not in splits]
    if others:
        names = sorted({sample.split for sample in others})
        raise SampleError(
            f"{len(others):,} rows are of split {', '.join(map(repr, names))}, e.g. {others[0].sample_id!r}; expected "
            f"{' or '.join(map(repr, splits))}, as all rows become training rows; {path}; leave the file out, or name "
            "the split with --splits if it may be trained on"
        )


def leave_out(samples: Iterable[Sample], *, excluded: Iterable[Path], drops: DropList) -> list[Sample]:
    """Return the samples whose recording is in none of the excluded files; list the others.

    Raises:
        SampleError: an excluded file is not readable.
    """
    evaluated = {source_video(sample): path for path in excluded for sample in read_rows(path)}
    kept = []
    for sample in samples:
        path = evaluated.get(source_video(sample))
        if path is None:
            kept.append(sample)
        else:
            drops.add(sample.sample_id, Dropped("recording is in an excluded file", f"{source_video(sample)}: {path}"))
    return kept


def split_videos(samples: Sequence[Sample], *, num_holdout: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Shuffle, and hold out whole recordings, so that no validation video is seen in training.

    Args:
        num_holdout: samples to hold out; fewer are held out only where no recording is small enough for the rest.
        seed: the same seed and samples give the same files.
    Returns:
        (training samples, held-out samples), both shuffled; index and split are not set yet.
    Raises:
        SampleError: no training sample would be left.
    """
    if not 0 <= num_holdout < len(samples):
        raise SampleError(f"{num_holdout=} of {len(samples)} samples; expected 0 or more, and some left to train on")
    generator = random.Random(seed)
    shuffled = list(samples)
    generator.shuffle(shuffled)
    sizes = Counter(source_video(sample) for sample in shuffled)
    # Drawn by recording, not by row: otherwise sources with many questions per recording fill the held-out part.
    videos = sorted(sizes)
    generator.shuffle(videos)
    held_videos: set[str] = set()
    num_left = num_holdout
    for video in videos:
        if sizes[video] <= num_left:
            held_videos.add(video)
            num_left -= sizes[video]
    train = [sample for sample in shuffled if source_video(sample) not in held_videos]
    return train, [sample for sample in shuffled if source_video(sample) in held_videos]


def number(samples: Iterable[Sample], *, split: str) -> list[Sample]:
    """Give samples the index of their place in the file and the split that they now belong to."""
    return [replace(sample, index=index, split=split) for index, sample in enumerate(samples)]


def _run(arguments: argparse.Namespace) -> int:
    if bool(arguments.holdout) != bool(arguments.holdout_out):
        raise ValueError("--holdout and --holdout-out; expected both or neither; add the other one")
    outputs = {path.resolve() for path in (arguments.out, arguments.holdout_out) if path is not None}
    if outputs & {path.resolve() for path in (*arguments.files, *arguments.exclude)} or len(outputs) != 1 + bool(
        arguments.holdout_out
    ):
        raise ValueError("an output file is also an input or the other output; expected different files")
    joined, num_repeats = join(arguments.files, splits=arguments.splits)
    drops = DropList()
    samples = leave_out(joined, excluded=arguments.exclude, drops=drops)
    command.list_drops(drops, out=arguments.out)
    train, held = split_videos(samples, num_holdout=arguments.holdout, seed=arguments.seed)
    sources = sorted({sample.data_source for sample in samples})
    parts = (samples, train, held)
    rows: list[tuple[str | int, ...]] = [("source", "rows", "train", "held out")]
    for source in sources:
        rows.append((source, *(sum(sample.data_source == source for sample in part) for part in parts)))
    command.print_table([*rows, ("all", *map(len, parts))])
    print(f"repeats left out: {num_repeats:,}")
    if len(held) < arguments.holdout:
        print(f"held out {len(held):,} instead of {arguments.holdout:,}: no recording is small enough for the rest")
    files = {arguments.out: number(train, split="train")}
    if arguments.holdout_out:
        files[arguments.holdout_out] = number(held, split="val")
    write_row_files(files)
    for path, part in files.items():
        print(f"wrote {len(part):,} rows of {len({s.video for s in part}):,} videos: {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = command.parser(
        "Join files of rows into one shuffled training file; hold out whole videos for validation.",
        example="python -m data_prep.mix data/nextgqa_val.parquet data/qvhighlights.parquet --out data/train.parquet "
        "--holdout 100 --holdout-out data/val.parquet --exclude data/videomme.parquet",
    )
    arguments.add_argument("files", nargs="+", type=Path, metavar="FILE.parquet", help="files of rows to join")
    arguments.add_argument("--out", type=command.rows_file, required=True, metavar="FILE.parquet", help="training rows")
    arguments.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        default=[],
        type=Path,
        metavar="FILE.parquet",
        help="rows to evaluate on: no recording of theirs is trained on",
    )
    arguments.add_argument(
        "--splits",
        nargs="+",
        default=TRAINED_SPLITS,
        metavar="NAME",
        help="splits whose rows may be trained on; rows of any other stop the command (default: train)",
    )
    arguments.add_argument("--seed", type=int, default=0, help="of the shuffle (default: 0)")
    arguments.add_argument("--holdout", type=int, default=0, metavar="N", help="rows to hold out (default: none)")
    arguments.add_argument(
        "--holdout-out", type=command.rows_file, metavar="FILE.parquet", help="where the held-out rows go"
    )
    return command.run(_run, arguments.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
