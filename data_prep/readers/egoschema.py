# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""EgoSchema: the 500 questions of five options whose answers are public, about three-minute first-person clips.

Read as a directory with the authors' `questions.json` and `subset_answers.json`, or as the Hugging Face parquet of the
subset. Answers are positions counted from 0. All other answers stay with the authors' server.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.annotations import AnnotationError, find_file, read_json, read_records, require_columns
from data_prep.choices import letter_of_index, read_options
from data_prep.command import video_path
from data_prep.drops import Dropped, plain_text, text_of
from data_prep.readers.reader import Reader, Record
from verl_videomtr.sample import Sample

DURATION_SECONDS = 180.0
"""Every clip is cut to three minutes."""
OPTION_COLUMNS = tuple(f"option {position}" for position in range(5))
COLUMNS = ("q_uid", "question", *OPTION_COLUMNS)
MIRROR_COLUMNS = ("video_idx", "question", "option", "answer")


def read(path: Path) -> list[Record]:
    mirrors = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not path.is_dir() or (mirrors and not (path / "questions.json").is_file()):
        return _read_mirror(mirrors[0])
    questions_path = find_file(path, "questions.json")
    questions = read_records(questions_path)
    require_columns(questions, COLUMNS, path=questions_path)
    answers_path = find_file(path, "subset_answers.json")
    answers = read_json(answers_path)
    if not isinstance(answers, dict) or not answers:
        raise AnnotationError(f"no answers in it; expected an object of q_uid: 0 to 4; {answers_path}")
    known = {text_of(question["q_uid"]): question for question in questions}
    if len(known) < len(questions):
        raise AnnotationError(
            f"{len(questions) - len(known)} of {len(questions)} q_uid occur twice; expected each once; {questions_path}"
        )
    return [{"q_uid": uid, **known.get(uid, {}), "answer": answer} for uid, answer in answers.items()]


def record_id(record: Record) -> str:
    return f"egoschema/{text_of(record['q_uid'])}"


def make(record: Record, prefix: str) -> Sample:
    if "question" not in record:
        raise Dropped("answer without a question", "questions.json is not the full file")
    options = read_options(record.get("option") or [record[column] for column in OPTION_COLUMNS])
    return Sample(
        data_source="egoschema",
        sample_id=record_id(record),
        index=0,
        split="test",
        video=video_path(prefix, f"{text_of(record['q_uid'])}.mp4"),
        duration_seconds=DURATION_SECONDS,
        question=plain_text(record["question"], what="question"),
        options=options,
        answer=letter_of_index(record["answer"], options),
        question_type="multiple_choice",
        metadata={"license": "videos: Ego4D licence", "source_video": text_of(record["q_uid"])},
    )


def _read_mirror(path: Path) -> list[Record]:
    records = read_records(path)
    require_columns(records, MIRROR_COLUMNS, path=path)
    return [{**record, "q_uid": record["video_idx"]} for record in records]


READER = Reader(name="egoschema", num_published=500, read=read, record_id=record_id, make=make)
