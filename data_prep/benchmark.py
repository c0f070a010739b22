# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's five benchmarks (and MLVU's dev set) -> rows to evaluate on, with the groups of their official tables."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep import command
from data_prep.drops import DropList, collect
from data_prep.readers import egoschema, longvideobench, lvbench, mlvu, videomme
from data_prep.readers.reader import Reader, Record
from data_prep.videos import probe_videos, require_root
from verl_videomtr.sample import Sample

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        videomme.READER,
        mlvu.TEST_READER,
        mlvu.DEV_READER,
        longvideobench.READER,
        lvbench.READER,
        egoschema.READER,
    )
}
MAX_GROUP_VALUES = 16
"""Groups with more values (Video-MME's sub-categories) are printed as a count."""


def convert(name: str, path: Path, *, prefix: str | None = None) -> tuple[list[Sample], DropList, int]:
    """Read a benchmark; return its samples, its drops, and the number of records in its files.

    Args:
        name: one of READERS.
        path: annotation file, or the directory that holds it.
        prefix: directory below the video root; None = the benchmark's name.
    Raises:
        AnnotationError: a file or a column is not there.
    """
    reader = READERS[name]
    records = reader.read(path)
    drops = DropList()

    def make(record: Record) -> Sample:
        return reader.make(record, reader.name if prefix is None else prefix)

    return collect(records, name=reader.record_id, make=make, drops=drops), drops, len(records)


def print_groups(samples: Iterable[Sample]) -> None:
    """Print how many samples each group value has; a sample with several values counts in each."""
    counts: dict[str, Counter[str]] = {}
    for sample in samples:
        for name, value in sample.groups.items():
            counts.setdefault(name, Counter()).update([value] if isinstance(value, str) else value)
    for name, values in sorted(counts.items()):
        if len(values) > MAX_GROUP_VALUES:
            print(f"{name}: {len(values)} values")
        else:
            print(
                f"{name}: {'  '.join(f'{command.shown(value)} {count:,}' for value, count in sorted(values.items()))}"
            )


def _run(arguments: argparse.Namespace) -> int:
    reader = READERS[arguments.name]
    samples, drops, num_records = convert(arguments.name, arguments.annotations, prefix=arguments.prefix)
    probed = None
    if arguments.videos is not None and samples:
        require_root((sample.video for sample in samples), root=arguments.videos)
        probed = probe_videos((sample.video for sample in samples), root=arguments.videos)
        samples = [
            replace(sample, duration_seconds=probed[sample.video].duration_seconds)
            if sample.duration_seconds is None
            else sample
            for sample in samples
        ]
    command.print_table(
        [
            ("benchmark", "published", "records", "kept", "with evidence"),
            (
                arguments.name,
                reader.num_published,
                num_records,
                len(samples),
                sum(sample.segments is not None for sample in samples),
            ),
        ]
    )
    written = command.finish(samples, drops=drops, out=arguments.out, videos=arguments.videos, probed=probed)
    print_groups(written)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = command.parser(
        "Turn a benchmark's annotations into rows to evaluate on.",
        example="python -m data_prep.benchmark videomme --annotations videomme.parquet --out data/videomme.parquet",
    )
    arguments.add_argument("name", choices=sorted(READERS), help="which benchmark")
    arguments.add_argument(
        "--annotations", type=Path, required=True, metavar="PATH", help="its file, or the directory that holds it"
    )
    command.add_output_arguments(arguments, prefix=None)
    return command.run(_run, arguments.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
