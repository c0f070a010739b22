# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Where a report's lines come from: folders and files -> runs, each with its trajectory files and its metrics.

A run is a folder that holds trajectory lines; its `val` folder belongs to it. Files of other lines are left out and
said so.
"""

from __future__ import annotations

import glob
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_videomtr.trajectory_files import PACKED_FILES, VAL_FOLDER, TrajectoryFileError, read_run

VALIDATION_FOLDERS = (VAL_FOLDER, "validation")
METRICS = "metrics"
"""Name, without its ending, of a metrics file that belongs to the folder of lines below it."""
MAX_DEPTH = 4
"""Folders below a given one that are searched."""


_ASIDE = re.compile(r"(.+)\.until_step_(\d+)(?:_(\d+))?")
"""Stem of what `checkpoints.set_aside` leaves of a metrics file."""


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
    metrics_files: list[Path] = field(default_factory=list)
    """The file of verl's `file` logger, behind what resumptions of the run have set aside of it."""
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
                "unpack packed ones, or give the folder that they were written to"
            )
        runs += [run for run in found if all(run.path != known.path for known in runs)]
    _make_names_unique(runs)
    return runs


def kind_of_lines(path: Path) -> str:
    """Tell "trajectories", "metrics" or "other" by the first line of a file that is JSON.

    Raises:
        OSError: the file cannot be read.
    """
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


def until_step(metrics_file: Path) -> int | None:
    """Tell the last step that counts in metrics which a resumed run has set aside; None for a run's own file."""
    match = _ASIDE.fullmatch(metrics_file.stem)
    return int(match[2]) if match else None


def _runs_in_folder(folder: Path) -> list[Run]:
    runs: dict[Path, Run] = {}
    metrics: dict[Path, list[Path]] = defaultdict(list)
    others: list[tuple[Path, str]] = []
    for path in sorted(_line_files(folder)):
        home = path.parent
        validation = home.name in VALIDATION_FOLDERS and home != folder
        if validation:
            home = home.parent
        try:
            kind = kind_of_lines(path)
        except OSError as error:
            others.append((home, f"{path} could not be read: {error.strerror or error}"))
            continue
        if kind == "metrics":
            metrics[home].append(path)
        elif kind == "trajectories":
            run = runs.setdefault(home, _new_run(home))
            run.files.append(LineFile(path=path, phase="validation" if validation else _phase(path)))
        else:
            others.append((home, ""))
    for home, run in runs.items():
        if packed := sum(
            len(list(place.glob(PACKED_FILES))) for place in (home, *map(home.joinpath, VALIDATION_FOLDERS))
        ):
            run.notes.append(f"{packed} packed files in {home} are left out ({PACKED_FILES}); gunzip them to read them")
        families = _families(metrics.pop(home, []))
        run.metrics_files = families.get(METRICS, []) or next(iter(families.values()), [])
        run.left_out += sum(map(len, families.values())) - len(run.metrics_files)
        if not run.metrics_files:
            run.metrics_files = _families(home.parent.glob(f"{METRICS}*.jsonl")).get(METRICS, [])
    used = {path for run in runs.values() for path in run.metrics_files}
    for home, paths in metrics.items():
        families = _families(path for path in paths if path not in used)
        for name, family in families.items():
            run = runs[home / name] = _new_run(home)
            run.metrics_files = family
            if len(families) > 1:
                run.name, run.path = name, family[-1]
    for home, problem in others:
        owner = runs.get(home) or next(iter(runs.values()), None)
        if owner is None:
            continue
        if problem:
            owner.notes.append(problem)
        else:
            owner.left_out += 1
    return list(runs.values())


def _families(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Collect each metrics file behind those that were set aside when its run was resumed, oldest first."""
    families: dict[str, list[tuple[float, int, Path]]] = defaultdict(list)
    for path in paths:
        match = _ASIDE.fullmatch(path.stem)
        place = (math.inf, 0) if match is None else (float(match[2]), int(match[3] or 1))
        families[match[1] if match else path.stem].append((*place, path))
    return {name: [path for _, _, path in sorted(family)] for name, family in sorted(families.items())}


def _run_of_file(path: Path) -> list[Run]:
    kind = kind_of_lines(path)
    if kind == "other":
        return []
    settings, notes = _read_settings(path.parent)
    run = Run(name=path.stem, path=path, settings=settings, notes=notes)
    if kind == "metrics":
        before = path.parent.glob(f"{glob.escape(path.stem)}.until_step_*.jsonl")
        [run.metrics_files] = _families([path, *before]).values()
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
