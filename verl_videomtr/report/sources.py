# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Where a report's lines come from: folders and files -> runs, each with its trajectory files and its metrics.

A run is a folder that holds trajectory lines; its `val` folder belongs to it. Files of other lines are left out and
said so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_videomtr.trajectory_files import VAL_FOLDER, TrajectoryFileError, read_run

VALIDATION_FOLDERS = (VAL_FOLDER, "validation")
METRICS_FILE = "metrics.jsonl"
MAX_DEPTH = 4
"""Folders below a given one that are searched."""


@dataclass(frozen=True, kw_only=True)
class LineFile:
    """One file of trajectory lines."""

    path: Path
    phase: str
    """"training", "validation" or "evaluation"."""


@dataclass(kw_only=True)
class Run:
    """What is compared with other runs: the trajectories and metrics of one training, evaluation or session."""

    name: str
    path: Path
    files: list[LineFile] = field(default_factory=list)
    metrics_file: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """`run.json`, or {} where there is none."""
    left_out: int = 0
    """Files of other lines beside these, such as verl's own generations."""
    notes: list[str] = field(default_factory=list)
    """What could not be read, in sentences."""


def find_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Find the runs under `paths`, in the order given and by name below.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a path holds neither trajectory lines nor metrics.
    """
    runs: list[Run] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; expected a folder or file of trajectory lines")
        found = _runs_in_folder(path) if path.is_dir() else _run_of_file(path)
        if not found:
            raise ValueError(
                f"{path} holds no trajectory lines and no metrics; expected step_*.jsonl or trajectories.jsonl as "
                "videomtr.dump.dir and `videomtr eval` write them, or the file of verl's `file` logger; "
                "give the folder that they were written to"
            )
        runs += [run for run in found if all(run.path != known.path for known in runs)]
    _make_names_unique(runs)
    return runs


def kind_of_lines(path: Path) -> str:
    """Tell "trajectories", "metrics" or "other" by the first line of a file that can be read."""
    with path.open("rb") as file:
        for raw in file:
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                continue
            # verl's own validation dumps name samples too, and hold their records as text.
            if isinstance(line, dict) and "sample_id" in line and ("episode" in line or line.get("status") == "lost"):
                return "trajectories"
            return "metrics" if isinstance(line, dict) and {"step", "data"} <= line.keys() else "other"
    return "other"


def _runs_in_folder(folder: Path) -> list[Run]:
    runs: dict[Path, Run] = {}
    others: dict[Path, int] = {}
    metrics: dict[Path, Path] = {}
    for path in sorted(_line_files(folder)):
        kind = kind_of_lines(path)
        home = path.parent
        validation = home.name in VALIDATION_FOLDERS and home != folder
        if validation:
            home = home.parent
        if kind == "metrics":
            metrics[home] = path
        elif kind == "trajectories":
            run = runs.setdefault(home, _new_run(home))
            run.files.append(LineFile(path=path, phase="validation" if validation else _phase(path)))
        else:
            others[home] = others.get(home, 0) + 1
    for home, run in runs.items():
        beside = home.parent / METRICS_FILE
        run.metrics_file = metrics.get(home) or (beside if beside.is_file() else None)
    used = {run.metrics_file for run in runs.values()}
    for home, path in metrics.items():
        if path not in used and home not in runs:
            runs[home] = _new_run(home)
            runs[home].metrics_file = path
    for home, number in others.items():
        owner = runs.get(home) or next(iter(runs.values()), None)
        if owner is not None:
            owner.left_out += number
    return list(runs.values())


def _run_of_file(path: Path) -> list[Run]:
    kind = kind_of_lines(path)
    if kind == "other":
        return []
    settings, notes = _read_settings(path.parent)
    run = Run(name=path.stem, path=path, settings=settings, notes=notes)
    if kind == "metrics":
        run.metrics_file = path
    else:
        run.files.append(LineFile(path=path, phase=_phase(path)))
    return [run]


def _new_run(folder: Path) -> Run:
    shown = folder.parent if folder.name == "trajectories" else folder
    settings, notes = _read_settings(folder)
    return Run(name=shown.resolve().name or str(shown), path=folder, settings=settings, notes=notes)


def _read_settings(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Read a folder's run.json; return it and what is wrong with it."""
    try:
        return read_run(folder) or {}, []
    except TrajectoryFileError as error:
        return {}, [str(error)]


def _line_files(folder: Path, depth: int = 0) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix == ".jsonl" and path.is_file():
            yield path
        elif depth < MAX_DEPTH and path.is_dir() and not path.is_symlink():
            yield from _line_files(path, depth + 1)


def _phase(path: Path) -> str:
    if path.parent.name in VALIDATION_FOLDERS:
        return "validation"
    return "training" if re.fullmatch(r"step_\d+", path.stem) else "evaluation"


def _make_names_unique(runs: Sequence[Run]) -> None:
    for name in {run.name for run in runs}:
        same = [run for run in runs if run.name == name]
        if len(same) > 1:
            for run in same:
                run.name = str(run.path)
