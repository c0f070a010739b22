# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The study's runs as tables and figures read them, from the books in the repository."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.learning_study import study
from recipes.learning_study.record import RESULTS, RunRecord, is_complete
from verl_videomtr.evaluation.statistics import mean_by_video

HELD_OUT = "val-aux/synthetic_needle/{}/mean@1"
WINDOW = 10
"""Steps that "at the end" averages, for what is measured in training."""


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """One run's files, read."""

    variant: str
    seed: int
    lines: tuple[dict[str, Any], ...]
    facts: dict[str, Any]
    held_out: tuple[dict[str, Any], ...] = ()
    """Results of the last step's held-out episodes; none of a run that has not ended, or that kept none."""

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """The steps that logged a metric, and its values."""
        found = [(line["step"], line["data"][key]) for line in self.lines if key in line["data"]]
        return [step for step, _ in found], [value for _, value in found]

    def mean(self, key: str, first: int, last: int) -> float | None:
        """Mean of a metric over the steps from `first` to `last`, of those that logged it."""
        steps, values = self.series(key)
        own = [value for step, value in zip(steps, values, strict=True) if first <= step <= last]
        return sum(own) / len(own) if own else None

    def end(self, key: str) -> float | None:
        """Mean of a training metric over the last WINDOW steps."""
        values = self.series(key)[1][-WINDOW:]
        return sum(values) / len(values) if values else None

    @property
    def last_step(self) -> int:
        return max((line["step"] for line in self.lines), default=0)

    @property
    def wall_seconds(self) -> float:
        return sum(attempt.get("wall_seconds", 0) for attempt in self.facts.get("attempts", []))

    @property
    def steps(self) -> int:
        """How many it has when it is whole."""
        return study.steps_of(self.variant)

    @property
    def complete(self) -> bool:
        return is_complete(self.lines, self.steps)

    def held_out_interval(self, share: float) -> tuple[float, float]:
        """The interval of the last held-out accuracy: over videos, or over questions where only the share was kept."""
        if self.held_out:
            estimate = mean_by_video([r["correct"] for r in self.held_out], [r["video"] for r in self.held_out])
            if estimate.low is not None and estimate.high is not None:
                return estimate.low, estimate.high
        return wilson(share, study.VARIANTS[self.variant].setting.data_rows["val"])

    def by_group(self, group: str, name: str, first: int, last: int) -> float | None:
        """Mean over the steps from `first` to `last` of what a group's training episodes came to."""
        values = self.facts.get("by_group", {}).get(group, {}).get(name, [])[first - 1 : last]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None


def read_runs(results: Path = RESULTS) -> list[StudyRun]:
    """Read every run of the study that has begun, in the study's order."""
    runs = []
    for variant, seed in study.ORDER:
        record = RunRecord(study.run_name(variant, seed), results)
        if lines := record.lines():
            facts, held_out = record.facts(), tuple(record.held_out())
            runs.append(StudyRun(variant=variant, seed=seed, lines=tuple(lines), facts=facts, held_out=held_out))
    return runs


def find_run(runs: Sequence[StudyRun], variant: str, seed: int) -> StudyRun:
    """Raise ValueError where there is no such run."""
    for run in runs:
        if (run.variant, run.seed) == (variant, seed):
            return run
    raise ValueError(f"no run {study.run_name(variant, seed)}; expected one of {[r.variant for r in runs]}")


def wilson(share: float, number: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson interval of a share of `number` independent rows; 95% at the default z."""
    if number < 1 or not 0 <= share <= 1:
        raise ValueError(f"share={share} of number={number}; expected a share of at least one row")
    centre = share + z * z / (2 * number)
    half = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    scale = 1 + z * z / number
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def show(value: float | None) -> str:
    """Write a figure for a table; a dash where nothing was measured."""
    return "-" if value is None else f"{value:.2f}"
