# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""NExT-GQA's annotations -> training rows (spec: the paper's first source; Table 7).

NExT-GQA (MIT licence) adds time spans to NExT-QA's val and test splits only, so those two are what a policy is
trained on, and NExT-QA and NExT-GQA cannot be used to evaluate it afterwards.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep import command
from data_prep.annotations import AnnotationError, find_file, read_json, read_records, require_columns
from data_prep.choices import check_distinct, letter_of_text
from data_prep.drops import DropList, Dropped, collect, plain_text, seconds_of, text_of
from data_prep.relevance import RelevanceFilter, Segments, clip_segments, read_segments
from verl_videomtr.sample import Sample

SOURCE = "nextgqa"
LICENSE = "MIT"
OPTION_COLUMNS = ("a0", "a1", "a2", "a3", "a4")
COLUMNS = ("video_id", "question", "answer", "qid", "type", *OPTION_COLUMNS)


@dataclass(kw_only=True)
class Counts:
    """The paper's Table 7 line, counted while the rows are read."""

    groundings: int = 0
    """Annotated spans of the questions in the file."""
    questions: int = 0
    passed: int = 0
    """Questions that pass the relevance filter, whatever else is wrong with them."""
    clipped: int = 0
    """Spans that reached outside their video, or did not end after their start."""


def convert(
    annotations: Path, *, split: str, relevance: RelevanceFilter, prefix: str = SOURCE
) -> tuple[list[Sample], DropList, Counts]:
    """Read one split and return its samples, its drops and its counts.

    Args:
        annotations: directory with {split}.csv, gsub_{split}.json and map_vid_vidorID.json.
        split: val or test.
    Raises:
        AnnotationError: a file or a column is not there.
    """
    csv_path = find_file(annotations, f"{split}.csv")
    records = read_records(csv_path)
    require_columns(records, COLUMNS, path=csv_path)
    grounding = _read_object(find_file(annotations, f"gsub_{split}.json"))
    folders = _read_object(find_file(annotations, "map_vid_vidorID.json"))
    counts, drops = Counts(), DropList()

    def make(record: Mapping[str, Any]) -> Sample:
        video_id, qid = text_of(record["video_id"]), text_of(record["qid"])
        counts.questions += 1
        duration_seconds, spans = _spans(grounding, video_id=video_id, qid=qid)
        counts.groundings += len(spans)
        segments, num_clipped = clip_segments(spans, duration_seconds=duration_seconds)
        counts.clipped += num_clipped
        if not segments:
            raise Dropped("no span inside the video", f"{spans} in {duration_seconds:g} s")
        relevance.check(segments, duration_seconds=duration_seconds)
        counts.passed += 1
        folder = plain_text(folders.get(video_id), what="folder of the video")
        if not folder:
            raise Dropped("video is not in map_vid_vidorID.json", video_id)
        options = tuple(text_of(record[column]) for column in OPTION_COLUMNS)
        check_distinct(options)
        return Sample(
            data_source=SOURCE,
            sample_id=_sample_id(record, split=split),
            index=0,
            split="train",
            video=command.video_path(prefix, f"{folder}.mp4"),
            duration_seconds=duration_seconds,
            question=text_of(record["question"]),
            options=options,
            answer=letter_of_text(record["answer"], options),
            question_type="multiple_choice",
            segments=segments,
            groups={"type": text_of(record["type"])},
            metadata={"license": LICENSE, "annotation_split": split, "qid": qid, "source_video": video_id},
        )

    samples = collect(records, name=lambda record: _sample_id(record, split=split), make=make, drops=drops)
    return samples, drops, counts


def print_counts(counts: Counts, *, split: str, kept: int) -> None:
    """Print the line to hold against the paper: 10.5K groundings, 8.9K QA, 4.9K kept on val and test together."""
    command.print_table(
        [
            ("source", "groundings", "QA", "pass filter", "kept"),
            (f"{SOURCE} {split}", counts.groundings, counts.questions, counts.passed, kept),
        ]
    )
    print(f"spans outside their video or reversed, clipped or lost: {counts.clipped:,}")


def _spans(grounding: Mapping[str, Any], *, video_id: str, qid: str) -> tuple[float, Segments]:
    video = grounding.get(video_id)
    if video is None:
        raise Dropped("no grounding", f"video {video_id} is not in the file")
    try:
        spans, duration_seconds = video["location"].get(qid), seconds_of(video["duration"])
    except (AttributeError, KeyError, TypeError):
        spans, duration_seconds = None, None
    if duration_seconds is None:
        raise Dropped("malformed grounding", f"video {video_id}: {str(video)[:100]}")
    if not spans:
        raise Dropped("no grounding", f"video {video_id}, question {qid}")
    return duration_seconds, read_segments(spans)


def _sample_id(record: Mapping[str, Any], *, split: str) -> str:
    return f"{SOURCE}/{split}/{text_of(record['video_id'])}/{text_of(record['qid'])}"


def _read_object(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict):
        raise AnnotationError(f"{type(document).__name__} at the top; expected an object keyed by video id; {path}")
    return document


def add_filter_arguments(arguments: argparse.ArgumentParser) -> None:
    """Add --max-ratio and --min-duration, shared with QVHighlights."""
    default = RelevanceFilter()
    arguments.add_argument(
        "--max-ratio", type=float, default=default.max_ratio, help="keep relevant ratio below this (default: 0.5)"
    )
    arguments.add_argument(
        "--min-duration",
        type=float,
        default=default.min_duration_seconds,
        metavar="SECONDS",
        help="keep videos at least this long (default: 30)",
    )


def _run(arguments: argparse.Namespace) -> int:
    relevance = RelevanceFilter(max_ratio=arguments.max_ratio, min_duration_seconds=arguments.min_duration)
    samples, drops, counts = convert(
        arguments.annotations, split=arguments.split, relevance=relevance, prefix=arguments.prefix
    )
    print_counts(counts, split=arguments.split, kept=len(samples))
    command.finish(samples, drops=drops, out=arguments.out, videos=arguments.videos)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = command.parser(
        "Turn NExT-GQA's annotations into training rows.",
        example="python -m data_prep.nextgqa --annotations nextgqa --split val --out data/nextgqa_val.parquet",
    )
    arguments.add_argument(
        "--annotations",
        type=Path,
        required=True,
        metavar="DIR",
        help="directory with {split}.csv, gsub_{split}.json and map_vid_vidorID.json",
    )
    arguments.add_argument("--split", required=True, choices=("val", "test"), help="the two grounded splits")
    add_filter_arguments(arguments)
    command.add_output_arguments(arguments, prefix=SOURCE)
    return command.run(_run, arguments.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
