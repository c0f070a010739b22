# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Results of what was played before: an evaluation's folder, or a validation that verl's trainer has dumped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_videomtr.evaluation.results import Result, result_of
from verl_videomtr.sample import Sample, SampleError, read_rows
from verl_videomtr.trajectory_files import EVAL_FILE, VAL_FOLDER, TrajectoryFileError, broken_line, read_file, read_run


@dataclass(frozen=True, kw_only=True)
class Played:
    """The lines of one file."""

    path: Path
    results: tuple[Result, ...]
    run: dict[str, Any]
    """Its run.json; empty where there is none."""
    num_cut: int
    """Lines that a killed writer left cut, which are in no result."""

    @property
    def frame_budget(self) -> int | None:
        """B of the run, where its description says it."""
        budget = ((self.run.get("videomtr") or {}).get("episode") or {}).get("frame_budget")
        return budget if isinstance(budget, int) else None


def read_played(path: Path) -> Played:
    """Read a file of trajectory lines, or a folder's newest one.

    Args:
        path: a .jsonl file, an evaluation's folder, or a training's dump folder (then its last validation).
    Raises:
        TrajectoryFileError: there is no such file, or a line is of no known form.
    """
    file = _choose(path)
    found = read_file(file)
    run = read_run(file.parent) or {}
    if not found.records:
        raise TrajectoryFileError(f"no trajectories in it; expected at least one; {file}; give a run that played some")
    samples = _samples(run) if found.lost else {}
    return Played(
        path=file,
        results=tuple(_result(record, samples.get(record["sample_id"]), file) for record in found.records),
        run=run,
        num_cut=found.num_cut,
    )


def _result(record: dict[str, Any], sample: Sample | None, file: Path) -> Result:
    try:
        return result_of(record, sample)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise broken_line(error, where=f"{file}, sample {record['sample_id']!r}") from error


def _choose(path: Path) -> Path:
    if path.is_file():
        return path
    validations = sorted((path / VAL_FOLDER).glob("step_*.jsonl"))
    steps = sorted(path.glob("step_*.jsonl")) if path.name == VAL_FOLDER else []
    for candidates in ([path / EVAL_FILE], validations[-1:], steps[-1:]):
        if candidates and candidates[0].is_file():
            return candidates[0]
    raise TrajectoryFileError(
        f"no evaluation and no validation in it; expected {EVAL_FILE} or {VAL_FOLDER}/step_*.jsonl; {path}; give the "
        "folder of `videomtr eval --out` or of videomtr.dump.dir, or a .jsonl file"
    )


def _samples(run: dict[str, Any]) -> dict[str, Sample]:
    """The rows that were played, where their files are still there: a lost line does not repeat its groups."""
    samples: dict[str, Sample] = {}
    for file in run.get("data", ()):
        try:
            rows = read_rows(file["path"])
        except (SampleError, OSError, KeyError):
            continue
        samples.update((row.sample_id, row) for row in rows)
    return samples
