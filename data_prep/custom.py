# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Your own questions about your own videos (JSON, JSON lines, CSV or parquet) -> rows.

Columns: `video`, `question`, `answer`; and where you have them `options`, `segments`, `duration_seconds`, `id`,
`question_type`. Any other column is kept in the row's metadata, and those named with --group as groups as well.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_prep import command
from data_prep.annotations import AnnotationError, read_records, require_columns
from data_prep.choices import check_distinct, letter_of_either, list_of, read_options
from data_prep.drops import DropList, Dropped, collect, own_ids, plain_text, seconds_of, text_of
from data_prep.relevance import Segments, read_segments
from data_prep.videos import Probed, probe_videos
from verl_videomtr.answers import QUESTION_TYPES
from verl_videomtr.sample import Sample

REQUIRED = ("video", "question", "answer")
OPTIONAL = ("options", "segments", "duration_seconds", "id", "question_type")
_NUMBER = re.compile(r"[-+−]?[.,]?[0-9][0-9.,_]*(?:[eE][-+]?[0-9]+)?")


def convert(
    records: Sequence[Mapping[str, Any]],
    *,
    name: str,
    split: str,
    prefix: str = "",
    groups: Sequence[str] = (),
    probed: Mapping[str, Probed] | None = None,
) -> tuple[list[Sample], DropList]:
    """Turn records into samples.

    Args:
        name: data source, first part of every id.
        groups: columns to break results down by.
        probed: what opening the videos showed, by path below the root; fills in durations that are not given.
    """
    drops = DropList()
    numbered = zip(records, own_ids([record.get("id") for record in records]), strict=True)
    ids = {id(record): f"{name}/{own_id}" for record, own_id in numbered}

    def make(record: Mapping[str, Any]) -> Sample:
        video = command.video_path(prefix, plain_text(record["video"], what="video"))
        options = read_options(record.get("options"))
        segments = _segments(record.get("segments"))
        question_type, answer = _answer(record, options)
        metadata = {key: value for key, value in record.items() if key not in REQUIRED + OPTIONAL}
        return Sample(
            data_source=name,
            sample_id=ids[id(record)],
            index=0,
            split=split,
            video=video,
            duration_seconds=_duration(record, video=video, segments=segments, probed=probed),
            question=plain_text(record["question"], what="question"),
            options=options,
            answer=answer,
            question_type=question_type,  # type: ignore[arg-type]
            segments=segments,
            groups={column: _group(record.get(column)) for column in groups if record.get(column) is not None},
            metadata=json.loads(json.dumps(metadata, default=str), parse_constant=lambda _: None),
        )

    return collect(records, name=lambda record: ids[id(record)], make=make, drops=drops), drops


def require_known_spelling(records: Sequence[Mapping[str, Any]], *, path: Path) -> None:
    """Refuse a column like `Options` or `segment`: it would pass as metadata, and the question lose its options.

    Raises:
        AnnotationError: a record has such a column in place of the one that is read.
    """
    read = {name.rstrip("s"): name for name in REQUIRED + OPTIONAL}
    for record_idx, record in enumerate(records):
        for column in record:
            folded = str(column).strip().casefold().replace(" ", "_").replace("-", "_").rstrip("s")
            if read.get(folded, column) not in record:
                raise AnnotationError(
                    f"column {column!r} is not read; expected {read[folded]!r}; {path}, record {record_idx}; rename it"
                )


def _answer(record: Mapping[str, Any], options: tuple[str, ...]) -> tuple[str, str]:
    given = text_of(record.get("question_type"))
    if given and given not in QUESTION_TYPES:
        raise Dropped("unknown question_type", f"{given!r}; expected one of {QUESTION_TYPES}")
    if options:
        check_distinct(options)
        as_given = [text_of(option) for option in list_of(record.get("options"), what="options")]
        return given or "multiple_choice", letter_of_either(record["answer"], options, as_given=as_given)
    answer = plain_text(record["answer"], what="answer")
    if not answer:
        raise Dropped("no answer")
    # Whatever is made of digits, signs, points and commas is meant as a number, and an error where it is none ("1,5").
    return given or ("numeric" if _NUMBER.fullmatch(answer) else "free_text"), answer


def _duration(
    record: Mapping[str, Any], *, video: str, segments: Segments | None, probed: Mapping[str, Probed] | None
) -> float | None:
    text = text_of(record.get("duration_seconds"))
    if text:
        seconds = seconds_of(text)
        if seconds is None:
            raise Dropped("duration_seconds is not a number", f"{text}; expected seconds > 0")
        return seconds
    found = probed[video].duration_seconds if probed is not None and video in probed else None
    if segments is not None and found is None:
        raise Dropped("segments without a duration", "give duration_seconds, or --videos to read it from the file")
    return found


def _segments(value: Any) -> Segments | None:
    spans = list_of(value, what="segments")
    return read_segments(spans) if spans else None


def _group(value: Any) -> str | list[str]:
    return [text_of(item) for item in value] if isinstance(value, list) else plain_text(value, what="group")


def _run(arguments: argparse.Namespace) -> int:
    records = read_records(arguments.input)
    require_columns(records, REQUIRED, path=arguments.input)
    require_known_spelling(records, path=arguments.input)
    unknown = [column for column in arguments.group if all(column not in record for record in records)]
    if unknown:
        raise AnnotationError(
            f"--group {unknown} are not columns; expected some of {sorted(records[0])}; {arguments.input}"
        )
    probed = None
    if arguments.videos is not None:
        videos = []
        for record in records:
            with suppress(Dropped):
                videos.append(command.video_path(arguments.prefix, plain_text(record["video"], what="video")))
        probed = probe_videos(videos, root=arguments.videos)
    samples, drops = convert(
        records,
        name=arguments.name,
        split=arguments.split,
        prefix=arguments.prefix,
        groups=arguments.group,
        probed=probed,
    )
    print(f"records: {len(records):,}")
    kept = dict.fromkeys(str(column) for record in records for column in record if column not in REQUIRED + OPTIONAL)
    if kept:
        print(f"columns that are metadata only: {', '.join(map(command.shown, kept))}")
    written = command.finish(samples, drops=drops, out=arguments.out, videos=arguments.videos, probed=probed)
    types = Counter(sample.question_type for sample in written)
    shares = [*types.items(), ("with evidence", sum(sample.segments is not None for sample in written))]
    print("  ".join(f"{name} {count:,}" for name, count in shares))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = command.parser(
        "Turn your own questions about your own videos into rows.",
        example="python -m data_prep.custom --input mine.jsonl --videos /data/videos --out data/mine.parquet\n"
        '  a line: {"video": "a.mp4", "question": "What is poured?", "options": ["milk", "tea"], "answer": "tea", '
        '"segments": [[12, 15.5]]}',
    )
    arguments.add_argument("--input", type=Path, required=True, metavar="FILE", help=".jsonl, .json, .csv or .parquet")
    arguments.add_argument("--name", default="custom", help="data source, first part of every id (default: custom)")
    arguments.add_argument("--split", default="train", help="train, or any other name to evaluate on (default: train)")
    arguments.add_argument("--group", action="append", default=[], metavar="COLUMN", help="break results down by it")
    command.add_output_arguments(arguments, prefix="")
    return command.run(_run, arguments.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
