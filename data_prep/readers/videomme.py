# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Video-MME: 2,700 four-option questions about 900 videos, in three classes of duration.

Read as a flat list (JSON, JSON lines, the Hugging Face parquet) or as the authors' template with the questions of a
video nested under it. Lengths in seconds are not part of the annotations. The terms forbid copying the data onwards.
"""

from __future__ import annotations

import re
from pathlib import Path

from data_prep.annotations import AnnotationError, nested_records, read_records, require_columns
from data_prep.choices import letter_of_letter, read_options
from data_prep.command import video_path
from data_prep.drops import Dropped, plain_text, text_of
from data_prep.readers.reader import Reader, Record, locate
from verl_videomtr.sample import Sample

COLUMNS = ("duration", "domain", "sub_category", "question_id", "task_type", "question", "options", "answer")
_ADDRESS = re.compile(r"(?:[?&]v=|youtu\.be/|/shorts/|/embed/)([A-Za-z0-9_-]{11})")
GROUPS = ("duration", "domain", "sub_category", "task_type")


def read(path: Path) -> list[Record]:
    file = locate(path, ("videomme.json",))
    records = nested_records(read_records(file), "questions", path=file)
    require_columns(records, COLUMNS, path=file)
    if not any(_youtube_id(record) for record in records):
        raise AnnotationError(
            "no record has videoID or a YouTube url; expected one of them, as the videos are named by YouTube id; "
            f"{file}; this is the template that names videos by number: use the parquet or the authors' full file"
        )
    return records


def record_id(record: Record) -> str:
    return f"videomme/{text_of(record['question_id'])}"


def make(record: Record, prefix: str) -> Sample:
    file_name = _youtube_id(record)
    if not file_name:
        raise Dropped("no YouTube id", f"videoID={record.get('videoID')!r}, url={record.get('url')!r}")
    options = read_options(record["options"])
    return Sample(
        data_source="videomme",
        sample_id=record_id(record),
        index=0,
        split="test",
        video=video_path(prefix, f"{file_name}.mp4"),
        question=plain_text(record["question"], what="question"),
        options=options,
        answer=letter_of_letter(record["answer"], options),
        question_type="multiple_choice",
        groups={name: text_of(record[name]) for name in GROUPS},
        metadata={
            "license": "Video-MME terms: academic research only, no redistribution",
            "video_id": text_of(record.get("video_id")),
            "url": text_of(record.get("url")),
            "subtitles": f"{file_name}.srt",
            "source_video": file_name,
        },
    )


def _youtube_id(record: Record) -> str:
    """Return the name of the published video: `videoID`, or the id in the address. `video_id` is a running number."""
    match = _ADDRESS.search(text_of(record.get("url")))
    return text_of(record.get("videoID")) or (match.group(1) if match else "")


READER = Reader(name="videomme", num_published=2700, read=read, record_id=record_id, make=make)
