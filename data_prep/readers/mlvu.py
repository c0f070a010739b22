# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""MLVU: nine test tasks with six options each, and the seven multiple-choice tasks of the dev set.

Test is read as the authors' file (text answers), as the evaluation file of the Video-MTR repository (lettered options,
`<answer>F</answer>`), or as a parquet mirror. Dev is read as the authors' directory of one JSON file per task, or as a
mirror with letters. The leaderboard's score is the mean over tasks, not over questions, so `task` must be kept.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from data_prep.annotations import AnnotationError, read_records, require_columns
from data_prep.choices import letter_of_letter, letter_of_text, read_options, split_inline_options
from data_prep.command import video_path
from data_prep.drops import Dropped, own_ids, plain_text, seconds_of, text_of
from data_prep.readers.reader import Reader, Record, locate
from verl_videomtr.sample import Sample

LICENSE = "CC BY-NC-SA 4.0"
CATEGORIES = {
    **dict.fromkeys(("TR", "AR"), "holistic"),
    **dict.fromkeys(("NQA", "ER", "PQA", "SQA"), "single_detail"),
    **dict.fromkeys(("AO", "AC", "TQA"), "multi_detail"),
}
TASKS = {
    "topic_reasoning": "TR",
    "anomaly_reco": "AR",
    "needle": "NQA",
    "findneedle": "NQA",
    "needleqa": "NQA",
    "ego": "ER",
    "plotqa": "PQA",
    "sportsqa": "SQA",
    "order": "AO",
    "count": "AC",
    "tutorialqa": "TQA",
}
"""The task names found in `question_type`, `task_type` and file names, lower case."""
OPEN_TASKS = ("subplot", "sub_scene", "subscene", "summary", "ssc", "vs")
_SOLUTION = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)
_FILE = "_file"
_ID = "_id"
_ROW = "_row"


def read_test(path: Path) -> list[Record]:
    file = locate(path, ("eval_mlvu_test.json", "test_mcq_gt.json", "mlvu_test.json"))
    records = read_records(file)
    ids = own_ids([text_of(record.get("question_id")) or record.get("problem_id") for record in records])
    records = [{**record, _ID: own_id} for record, own_id in zip(records, ids, strict=True)]
    if not any(text_of(record.get(name)) for record in records for name in ("answer", "solution")):
        raise AnnotationError(
            f"no record has an answer; expected the file with the ground truth; {file}; "
            "the question file alone cannot be scored here"
        )
    return records


def read_dev(path: Path) -> list[Record]:
    files = [path] if path.is_file() else sorted(path.glob("*.json")) or [locate(path, ())]
    records: list[Record] = []
    for file in files:
        found = read_records(file)
        require_columns(found, ("question", "answer"), path=file)
        # The authors keep the videos of 1_plotQA.json in the directory 1_plotQA.
        folder = file.stem if path.is_dir() and file.suffix == ".json" else ""
        records.extend({**record, _FILE: folder, _ROW: row} for row, record in enumerate(found))
    return records


def test_id(record: Record) -> str:
    return f"mlvu/{record[_ID]}"


def dev_id(record: Record) -> str:
    return f"mlvu_dev/{record[_FILE] or _raw_task(record) or 'row'}/{record[_ROW]}"


def make_test(record: Record, prefix: str) -> Sample:
    number = test_id(record).removeprefix("mlvu/")
    task = number.split("_")[0] if number.split("_")[0] in CATEGORIES else _task(record)
    name = plain_text(record.get("video") or record.get("video_name") or record.get("path"), what="video")
    video = video_path(prefix, PurePosixPath(name).name)
    return _sample(record, source="mlvu", sample_id=test_id(record), task=task, video=video)


def make_dev(record: Record, prefix: str) -> Sample:
    name = plain_text(record.get("video") or record.get("video_name"), what="video")
    video = video_path(str(PurePosixPath(prefix) / record[_FILE]), name)
    return _sample(record, source="mlvu_dev", sample_id=dev_id(record), task=_task(record), video=video)


def _sample(record: Record, *, source: str, sample_id: str, task: str, video: str) -> Sample:
    question, options = _question(record)
    return Sample(
        data_source=source,
        sample_id=sample_id,
        index=0,
        split="test",
        video=video,
        duration_seconds=seconds_of(record.get("duration")),
        question=question,
        options=options,
        answer=_answer(record, options),
        question_type="multiple_choice",
        groups={"task": task, "category": CATEGORIES[task]},
        metadata={"license": LICENSE, "question_type": _raw_task(record)},
    )


def _question(record: Record) -> tuple[str, tuple[str, ...]]:
    """Return the question without its options; mirrors repeat these inside the question, or have them only there."""
    question, inline = split_inline_options(
        plain_text(record.get("question") or record.get("problem"), what="question")
    )
    options = read_options(record.get("candidates")) or read_options(record.get("options")) or inline
    if not options:
        raise Dropped("no options")
    return question, options


def _answer(record: Record, options: tuple[str, ...]) -> str:
    """Read a text where the authors give one, else a letter: a needle may well be called "A"."""
    if "solution" in record:
        match = _SOLUTION.search(text_of(record["solution"]))
        return letter_of_letter(match.group(1) if match else record["solution"], options)
    if text_of(record.get("answer")) in options:
        return letter_of_text(record["answer"], options)
    try:
        return letter_of_letter(record.get("answer"), options)
    except Dropped:
        return letter_of_text(record.get("answer"), options)


def _raw_task(record: Record) -> str:
    return text_of(record.get("question_type") or record.get("task_type"))


def _task(record: Record) -> str:
    raw = _raw_task(record) or record.get(_FILE, "")
    name = re.sub(r"^\d+_", "", raw).lower()
    if name in OPEN_TASKS:
        raise Dropped("open-ended task, scored by a language model", raw)
    if name.upper() in CATEGORIES:
        return name.upper()
    if name not in TASKS:
        raise Dropped("unknown task", f"{raw!r}; expected one of {sorted(TASKS)} or {sorted(CATEGORIES)}")
    return TASKS[name]


TEST_READER = Reader(name="mlvu", num_published=502, read=read_test, record_id=test_id, make=make_test)
DEV_READER = Reader(name="mlvu_dev", num_published=2175, read=read_dev, record_id=dev_id, make=make_dev)
