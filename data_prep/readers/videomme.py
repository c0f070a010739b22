"""Video-MME: 2,700 four-option questions about 900 videos, in three classes of duration.

Read as a flat list (JSON, JSON lines, the Hugging Face parquet) or as the authors' template with the questions of a
video nested under it. Lengths in seconds are not part of the annotations. The terms forbid copying the data onwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.annotations import read_records, require_columns
from data_prep.choices import letter_of_letter, strip_letters
from data_prep.command import video_path
from data_prep.drops import text_of
from data_prep.readers.reader import Reader, Record, locate
from verl_videomtr.sample import Sample

COLUMNS = ("duration", "domain", "sub_category", "question_id", "task_type", "question", "options", "answer")
GROUPS = ("duration", "domain", "sub_category", "task_type")


def read(path: Path) -> list[Record]:
    file = locate(path, ("videomme.json",))
    records: list[Record] = []
    for record in read_records(file):
        shared = {key: value for key, value in record.items() if key != "questions"}
        questions: list[Any] = record.get("questions", [{}])
        records.extend({**shared, **question} for question in questions)
    require_columns(records, COLUMNS, path=file)
    return records


def record_id(record: Record) -> str:
    return f"videomme/{text_of(record['question_id'])}"


def make(record: Record, prefix: str) -> Sample:
    # The template names a video by its number only; the release and the parquet also by its YouTube id.
    file_name = text_of(record.get("videoID")) or text_of(record.get("video_id"))
    options = strip_letters(record["options"])
    return Sample(
        data_source="videomme",
        sample_id=record_id(record),
        index=0,
        split="test",
        video=video_path(prefix, f"{file_name}.mp4"),
        question=text_of(record["question"]),
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


READER = Reader(name="videomme", num_published=2700, read=read, record_id=record_id, make=make)
