# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Is a file of rows fit to train or evaluate on? Prints every problem; exits with 1 if there is one.

A problem stops a run or makes its numbers wrong: broken rows, ids or indices that occur twice, evidence outside its
video or annotated on another cut of it, videos that do not open (and with --frames, whose frames cannot be read),
questions or recordings shared by training and evaluation. A note is worth knowing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep import command
from data_prep.mix import source_video
from data_prep.videos import UnjudgedVideosError, length_problem, probe_videos
from verl_videomtr.sample import Sample, SampleError, is_blank, load_rows

DURATION_TOLERANCE_SECONDS = 1.0
"""Annotated durations are often whole seconds, rounded either way."""
MAX_LISTED = 50
"""Problems and notes printed per kind; the rest is counted."""


@dataclass(kw_only=True)
class Findings:
    """What was found, by kind of problem or note."""

    problems: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def problem(self, kind: str, where: str) -> None:
        self.problems.setdefault(kind, []).append(where)

    def note(self, kind: str, where: str) -> None:
        self.notes.setdefault(kind, []).append(where)


def check_file(path: Path, findings: Findings) -> list[Sample]:
    """Check one file's rows; return those that are whole."""
    try:
        rows = load_rows(path)
    except SampleError as error:
        findings.problem("file is not usable", str(error))
        return []
    samples = []
    for row_idx, row in enumerate(rows):
        try:
            samples.append(Sample.from_row(row))
        except SampleError as error:
            findings.problem("row breaks the schema", f"{path}, row {row_idx}: {error}")
    for name in ("index", "sample_id"):
        _repeats(
            ((str(getattr(s, name)), s) for s in samples), kind=f"{name} occurs twice", path=path, add=findings.problem
        )
    _repeats(
        ((f"{s.video}: {s.question} {s.options}", s) for s in samples),
        kind="question occurs twice under two ids",
        path=path,
        add=findings.note,
    )
    for sample in samples:
        if len({text.casefold() for text in sample.options}) < len(sample.options):
            findings.note("options repeat a text", f"{path}: {sample.sample_id}")
        if any(map(is_blank, sample.options)):
            findings.note("an option is empty", f"{path}: {sample.sample_id}")
    return samples


def check_overlap(files: dict[Path, list[Sample]], findings: Findings) -> None:
    """Compare rows to train on (split `train`) with all others, over all files, and ids between any two files."""
    seen: dict[str, Path] = {}
    trained_on = {source_video(s): path for path, samples in files.items() for s in samples if s.split == "train"}
    reported: set[tuple[str, Path]] = set()
    for path, samples in files.items():
        for sample in samples:
            if seen.setdefault(sample.sample_id, path) != path:
                findings.problem(
                    "sample stands in two files", f"{sample.sample_id}: {seen[sample.sample_id]} and {path}"
                )
            video = source_video(sample)
            if sample.split != "train" and video in trained_on and (video, path) not in reported:
                reported.add((video, path))
                findings.problem(
                    "video is trained on and evaluated on",
                    f"{video}: {trained_on[video]} and {path}; mix with --exclude {path}",
                )


def check_videos(samples: Iterable[Sample], *, root: Path, findings: Findings, num_frames: int | None = None) -> None:
    """Open every video; compare its length with the rows about it.

    Args:
        num_frames: read the frames that a pool of this size reads, too; None does not see damage further on.
    """
    samples = list(samples)
    try:
        probed = probe_videos((sample.video for sample in samples), root=root, num_frames=num_frames)
    except UnjudgedVideosError as error:
        findings.problem("videos cannot be judged on this machine", str(error))
        return
    for result in probed.values():
        if result.problem is not None:
            findings.problem(result.problem.reason, result.problem.detail)
    noted: set[str] = set()
    for sample in samples:
        seconds = probed[sample.video].duration_seconds
        if seconds is None:
            continue
        for start, end in sample.segments or ():
            if start >= seconds or end > seconds + DURATION_TOLERANCE_SECONDS:
                findings.problem(
                    "interval outside its video", f"{sample.sample_id}: ({start:g}, {end:g}) in {seconds:.2f} s"
                )
        known, problem = sample.duration_seconds, length_problem(sample, seconds)
        if problem is not None:
            if sample.video not in noted:
                findings.problem(problem.reason, problem.detail)
            noted.add(sample.video)
        elif known is not None and abs(known - seconds) > DURATION_TOLERANCE_SECONDS and sample.video not in noted:
            noted.add(sample.video)
            findings.note("duration differs from the video's", f"{sample.video}: row {known:g} s, file {seconds:.2f} s")


def _repeats(keyed: Iterable[tuple[str, Sample]], *, kind: str, path: Path, add: Callable[[str, str], None]) -> None:
    first: dict[str, Sample] = {}
    for key, sample in keyed:
        known = first.setdefault(key, sample)
        if known is not sample:
            add(kind, f"{path}: {known.sample_id} and {sample.sample_id}")


def _print_files(files: dict[Path, list[Sample]]) -> None:
    rows: list[tuple[str | int, ...]] = [("file", "rows", "videos", "with evidence", "sources", "splits")]
    for path, samples in files.items():
        rows.append(
            (
                str(path),
                len(samples),
                len({s.video for s in samples}),
                sum(s.segments is not None for s in samples),
                "+".join(sorted({s.data_source for s in samples})) or "-",
                "+".join(sorted({s.split for s in samples})) or "-",
            )
        )
    command.print_table(rows)


def _print_findings(kinds: dict[str, list[str]], *, heading: str) -> None:
    for kind, places in kinds.items():
        print(f"{heading}: {kind} ({len(places):,})")
        for place in places[:MAX_LISTED]:
            print(f"  {place}")
        if len(places) > MAX_LISTED:
            print(f"  and {len(places) - MAX_LISTED:,} more")


def _run(arguments: argparse.Namespace) -> int:
    findings = Findings()
    if arguments.frames is not None and (arguments.frames < 1 or arguments.videos is None):
        raise ValueError(f"--frames {arguments.frames}; expected 1 or more, and --videos with it")
    if arguments.videos is not None and not arguments.videos.is_dir():
        raise ValueError(f"no such directory; expected the video root; {arguments.videos}; check --videos")
    files = {path: check_file(path, findings) for path in dict.fromkeys(arguments.files)}
    check_overlap(files, findings)
    if arguments.videos is not None:
        samples = [sample for samples in files.values() for sample in samples]
        check_videos(samples, root=arguments.videos, findings=findings, num_frames=arguments.frames)
    _print_files(files)
    _print_findings(findings.notes, heading="note")
    _print_findings(findings.problems, heading="PROBLEM")
    num_problems = sum(len(places) for places in findings.problems.values())
    if arguments.videos is None:
        opened = "videos not opened (give --videos)"
    elif arguments.frames is None:
        opened = "videos opened, their frames not read: damage further on is not seen (give --frames 128)"
    else:
        opened = f"videos opened, {arguments.frames} frames of each read"
    print(f"{num_problems:,} problems; {opened}")
    return 1 if num_problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = command.parser(
        "Check files of rows, together where several are given. Exit code 1 if there is a problem.",
        example="python -m data_prep.check data/train.parquet data/videomme.parquet --videos /data/videos",
    )
    arguments.add_argument("files", nargs="+", type=Path, metavar="FILE.parquet", help="files of rows")
    arguments.add_argument("--videos", type=Path, metavar="DIR", help="the video root; opens every video")
    arguments.add_argument(
        "--frames",
        type=int,
        metavar="M",
        help="with --videos: read the M frames of each video that a pool of training reads; slow, finds damage there",
    )
    return command.run(_run, arguments.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
