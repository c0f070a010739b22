# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Answers in the form that each benchmark's authors score: one file a benchmark, nothing guessed, nothing left out.

A question without a valid answer gets the empty answer: LVBench's own scorer divides by the answers that it finds, so a
missing one would raise the score.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verl_videomtr.answers import LETTERS, option_letter
from verl_videomtr.sample import Sample
from verl_videomtr.trajectory_files import replace_file

Answers = Sequence[tuple[Sample, str]]
"""(question, option letter or "")."""
NO_OPTION = -1
"""Position of an answer that names no option, where the form has positions."""


def letter(sample: Sample, answer: str | None) -> str:
    """The option that an answer names; "" where it names none, or several."""
    return (option_letter(answer, sample.options) or "") if answer is not None else ""


def write_official(folder: Path, samples: Sequence[Sample], answers: Mapping[str, str | None]) -> list[Path]:
    """Write a file for every data source whose authors' form is known here; return their paths.

    Args:
        answers: sample id -> what was answered; a sample that is missing was not answered.
    """
    written = []
    for source in dict.fromkeys(sample.data_source for sample in samples):
        if source not in FORMS:
            continue
        chosen = [(s, letter(s, answers.get(s.sample_id))) for s in samples if s.data_source == source]
        path = folder / f"{source}.official.json"
        replace_file(path, (json.dumps(FORMS[source](chosen), indent=1) + "\n").encode())
        written.append(path)
    return written


def _number(sample: Sample) -> str:
    """The authors' own id: ours has the data source before it."""
    return sample.sample_id.partition("/")[2]


def _lvbench(answers: Answers) -> dict[str, str]:
    """uid -> letter, as its compute_accuracy.py reads it."""
    return {_number(sample): choice for sample, choice in answers}


def _mlvu(answers: Answers) -> list[dict[str, str]]:
    """As its test_res.json, which its server scores."""
    return [
        {
            "question_id": _number(sample),
            "question_type": str(sample.metadata.get("question_type") or sample.groups.get("task", "")),
            "option": choice,
        }
        for sample, choice in answers
    ]


def _videomme(answers: Answers) -> list[dict[str, Any]]:
    """Videos with their questions, as its eval_your_results.py reads them."""
    videos: dict[str, dict[str, Any]] = {}
    for sample, choice in answers:
        groups = sample.groups
        video = videos.setdefault(
            sample.video,
            {
                "video_id": sample.metadata.get("video_id") or sample.metadata.get("source_video"),
                "duration": groups.get("duration"),
                "domain": groups.get("domain"),
                "sub_category": groups.get("sub_category"),
                "questions": [],
            },
        )
        video["questions"].append(
            {
                "question_id": _number(sample),
                "task_type": groups.get("task_type"),
                "question": sample.question,
                "options": [f"{name}. {text}" for name, text in zip(LETTERS, sample.options, strict=False)],
                "answer": sample.answer,
                "response": choice,
            }
        )
    return list(videos.values())


def _positions(answers: Answers) -> dict[str, int]:
    """id -> position counted from 0, as EgoSchema's server and LongVideoBench's leaderboard take it."""
    return {_number(sample): LETTERS.index(choice) if choice else NO_OPTION for sample, choice in answers}


FORMS: dict[str, Callable[[Answers], Any]] = {
    "videomme": _videomme,
    "mlvu": _mlvu,
    "lvbench": _lvbench,
    "egoschema": _positions,
    "longvideobench": _positions,
}
"""Data source -> the content of its file."""
