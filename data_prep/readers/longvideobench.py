# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""LongVideoBench validation: 1,337 questions about 753 videos, in four classes of duration.

Read as the authors' `lvb_val.json` or as the Hugging Face parquet, which pads its five option columns with "N/A". The
right option is a position counted from 0. Subtitle fields are kept; their times start at an offset of their own.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.annotations import read_records, require_columns
from data_prep.choices import letter_of_index, list_of
from data_prep.command import video_path
from data_prep.drops import Dropped, plain_text, seconds_of, text_of
from data_prep.readers.reader import Reader, Record, locate
from verl_videomtr.sample import Sample

COLUMNS = ("id", "video_id", "question", "correct_choice", "duration", "duration_group", "question_category", "level")
GROUPS = ("duration_group", "question_category", "level", "topic_category")
KEPT = (
    "question_wo_referring_query",
    "position",
    "subtitle_path",
    "starting_timestamp_for_subtitles",
)
OPTION_COLUMNS = tuple(f"option{position}" for position in range(5))
PADDING = "N/A"


def read(path: Path) -> list[Record]:
    file = locate(path, ("lvb_val.json",))
    records = read_records(file)
    # The test split has no correct_choice: it stops here, as it can only be scored by its authors.
    require_columns(records, COLUMNS, path=file)
    return records


def record_id(record: Record) -> str:
    return f"longvideobench/{text_of(record['id'])}"


def make(record: Record, prefix: str) -> Sample:
    options = _options(record)
    duration_seconds = seconds_of(record["duration"])
    if duration_seconds is None:
        raise Dropped("duration is not a number", f"{record['duration']!r:.100}; expected seconds > 0")
    return Sample(
        data_source="longvideobench",
        sample_id=record_id(record),
        index=0,
        split="test",
        video=video_path(prefix, text_of(record.get("video_path")) or f"{text_of(record['video_id'])}.mp4"),
        duration_seconds=duration_seconds,
        question=plain_text(record["question"], what="question"),
        options=options,
        answer=letter_of_index(record["correct_choice"], options),
        question_type="multiple_choice",
        groups={name: text_of(record[name]) for name in GROUPS if record.get(name) is not None},
        metadata={
            "license": "CC BY-NC-SA 4.0",
            "source_video": text_of(record["video_id"]),
            **{name: record[name] for name in KEPT if text_of(record.get(name))},
        },
    )


def _options(record: Record) -> tuple[str, ...]:
    given = record.get("candidates")
    if given is None:
        given = [record.get(column) for column in OPTION_COLUMNS]
    options = [text_of(option) for option in list_of(given, what="options")]
    while options and options[-1] in (PADDING, ""):
        options.pop()
    if not options:
        raise Dropped("no options")
    return tuple(options)


READER = Reader(name="longvideobench", num_published=1337, read=read, record_id=record_id, make=make)
