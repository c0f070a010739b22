# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""LVBench: 1,549 four-option questions about 103 videos of half an hour to two hours.

Read as the authors' `video_info.meta.jsonl` (one video per line, its questions nested) or flat (parquet mirrors). The
options stand inside the question. A question may belong to several types and counts in each of them. The annotated
time reference is where the answer lies, and becomes the row's evidence wherever it is a whole interval.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.annotations import nested_records, read_records, require_columns
from data_prep.choices import letter_of_letter, list_of, read_options, split_inline_options
from data_prep.command import video_path
from data_prep.drops import Dropped, plain_text, seconds_of, text_of
from data_prep.readers.reader import Reader, Record, locate
from data_prep.relevance import Segments
from verl_videomtr.sample import Sample

COLUMNS = ("key", "uid", "question", "answer", "question_type")
SECONDS_PER_MINUTE = 60.0


def read(path: Path) -> list[Record]:
    file = locate(path, ("video_info.meta.jsonl",))
    records = nested_records(read_records(file), "qa", path=file)
    require_columns(records, COLUMNS, path=file)
    return records


def record_id(record: Record) -> str:
    return f"lvbench/{text_of(record['uid'])}"


def make(record: Record, prefix: str) -> Sample:
    question, options = split_inline_options(plain_text(record["question"], what="question"))
    options = options or read_options(record.get("options"))
    if not options:
        raise Dropped("no options", question[-80:])
    key, reference = text_of(record["key"]), text_of(record.get("time_reference"))
    duration_seconds = _duration(record)
    return Sample(
        data_source="lvbench",
        sample_id=record_id(record),
        index=0,
        split="test",
        video=video_path(prefix, PurePosixPath(text_of(record.get("video_path")) or f"{key}.mp4").name),
        duration_seconds=duration_seconds,
        question=question,
        options=options,
        answer=letter_of_letter(record["answer"], options),
        question_type="multiple_choice",
        segments=time_reference(reference, duration_seconds=duration_seconds),
        groups={
            "question_type": _types(record["question_type"]),
            "video_type": text_of(record.get("type")) or "unknown",
        },
        metadata={"license": "CC BY-NC-SA 4.0", "source_video": key, "time_reference": reference},
    )


def time_reference(text: str, *, duration_seconds: float | None) -> Segments | None:
    """Read "MM:SS-MM:SS" (or with hours).

    None where it is not an interval inside the video ("08:17-None", "05:00-05:00"). The annotations give durations in
    minutes, so an interval in the very last one may be lost here.
    """
    start, end = map(_seconds, text.split("-")) if text.count("-") == 1 else (None, None)
    if start is None or end is None or duration_seconds is None:
        return None
    return ((start, end),) if start < end <= duration_seconds else None


def _seconds(text: str) -> float | None:
    total = 0.0
    for part in text.strip().split(":"):
        if not part.isdecimal():
            return None
        total = total * 60.0 + float(part)
    return total


def _duration(record: Record) -> float | None:
    info: Any = record.get("video_info") or {}
    if isinstance(info, str):
        with suppress(ValueError, RecursionError):
            info = json.loads(info)
    minutes = seconds_of(info.get("duration_minutes")) if isinstance(info, dict) else None
    return None if minutes is None else minutes * SECONDS_PER_MINUTE


def _types(value: Any) -> list[str]:
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [value.strip()]
    return [text_of(item) for item in list_of(value, what="question types")]


READER = Reader(name="lvbench", num_published=1549, read=read, record_id=record_id, make=make)
