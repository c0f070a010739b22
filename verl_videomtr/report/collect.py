# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The first pass over all lines: facts, curves and heat maps of every episode, and what could not be read."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from verl_videomtr.report import curves
from verl_videomtr.report.episodes import Facts, card, detail, read_facts
from verl_videomtr.report.sources import LineFile, Run, until_step
from verl_videomtr.report.statistics import HeatMap
from verl_videomtr.report.thumbnails import wanted_of
from verl_videomtr.trajectory import Trajectory, summarize
from verl_videomtr.trajectory_files import read_lines


@dataclasses.dataclass(kw_only=True)
class Collection:
    """Everything that a report says of its runs, but for the episodes that it shows."""

    runs: Sequence[Run]
    facts: list[Facts]
    series: list[curves.Series]
    """One for each run."""
    heat: dict[tuple[int, str], HeatMap]
    """By (run, phase)."""
    unread: list[int]
    """Lines of each run that could not be read."""
    first_unread: list[str]
    """The first of them and why, "" where there is none."""


def collect(runs: Sequence[Run], progress: Callable[[Iterable[Any], int], Iterable[Any]]) -> Collection:
    """Read every line of `runs` once; notes on what could not be read go to the runs."""
    found = Collection(
        runs=runs,
        facts=[],
        series=[],
        heat=defaultdict(HeatMap),
        unread=[0] * len(runs),
        first_unread=[""] * len(runs),
    )
    files = [(number, place, file) for number, run in enumerate(runs) for place, file in enumerate(run.files)]
    from_lines: list[curves.Series] = [defaultdict(list) for _ in runs]
    for number, place, file in progress(files, len(files)):
        for step, metrics in _read_file(found, number, place, file).items():
            for name, value in metrics.items():
                from_lines[number][_series_name(name, file.phase)].append((step, value))
    for run, series, unread, first in zip(runs, from_lines, found.unread, found.first_unread, strict=True):
        if unread:
            run.notes.append(f"{unread:,} line{'s' if unread > 1 else ''} could not be read; the first: {first}")
        parts = [series]
        for path in run.metrics_files:
            from_file, num_unread = curves.read_metrics(path, last_step=until_step(path))
            parts.append(from_file)
            if num_unread:
                run.notes.append(f"{num_unread} lines of {path} could not be read")
        found.series.append(curves.merge(parts))
    return found


def _read_file(found: Collection, number: int, place: int, file: LineFile) -> dict[int, dict[str, float]]:
    """Read one file; return what `summarize` makes of each of its steps."""
    by_step: dict[int, list[Trajectory]] = defaultdict(list)
    for line in read_lines(file.path):
        try:
            if line.record is None:
                raise ValueError("the line is cut off" if line.cut else line.problem)
            fact = read_facts(line.record, run=number, phase=file.phase, file=place, line=line.number)
            # Whatever the page does with a record is tried here, so that a broken one is counted and stops nothing.
            card(line.record, facts=fact, name="")
            detail(line.record, facts=fact)
            if fact.right is not None:
                wanted_of(line.record, {})
                trajectory = Trajectory.from_dict(line.record)
                summarize([trajectory])
                found.heat[number, file.phase].add(fact.step, line.record["episode"])
                by_step[fact.step or 0].append(trajectory)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
            found.unread[number] += 1
            found.first_unread[number] = (
                found.first_unread[number] or f"{file.path}, line {line.number}: {' '.join(str(error).split())[:200]}"
            )
        else:
            found.facts.append(fact)
    return {step: summarize(trajectories) for step, trajectories in by_step.items()}


def _series_name(name: str, phase: str) -> str:
    """Name a metric of lines as verl names it: those of validation by what it calls held out."""
    if phase == "training":
        return name
    held_out = {"videomtr/episode/accuracy": "val-core/all/acc/mean@1"}
    return held_out.get(name, f"{phase}/{name}")
