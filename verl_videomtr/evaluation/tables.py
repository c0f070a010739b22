# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Results -> the tables of their benchmarks: overall, by group, by how the episodes went. Nothing is printed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from verl_videomtr.evaluation.benchmarks import Benchmark, counting, paper_rows
from verl_videomtr.evaluation.results import Result
from verl_videomtr.evaluation.statistics import Estimate, mean_by_video, mean_of_groups, percentile


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """Accuracy by the values of one group."""

    group: str
    rows: tuple[tuple[str, Estimate], ...]
    macro: Estimate
    """The mean of the rows. A question that counts in several values counts in each."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that is said of one data source."""

    data_source: str
    title: str
    headline: str
    """"micro", or "macro over <group>": which of the numbers the benchmark's authors quote."""
    micro: Estimate
    """All questions, failures wrong."""
    answered: Estimate | None
    """Failures left out; None where there is none, or nothing else."""
    groups: tuple[GroupTable, ...]
    failures: tuple[tuple[str, str], ...]
    """(sample id, why) of each failed episode."""
    paper: tuple[tuple[str, float], ...]
    """(model, per cent) of the paper's rows at the same number of frames."""
    course: dict[str, float | None] = field(default_factory=dict)
    """How the episodes went: means per episode, shares, latencies."""

    @property
    def main(self) -> Estimate:
        """The number that the benchmark's authors quote."""
        if self.headline == "micro":
            return self.micro
        return next(table.macro for table in self.groups if f"macro over {table.group}" == self.headline)


def report(data_source: str, results: Sequence[Result], *, frame_budget: int | None = None) -> Report:
    """Make the tables of one data source.

    Args:
        results: at least one; one per question, or several where questions were played several times.
        frame_budget: B of the run; the paper's rows at the same B stand beside.
    """
    benchmark = counting(data_source)
    present = {name for result in results for name in result.groups}
    names = [name for name in benchmark.tables if name in present]
    if not benchmark.tables:
        names = sorted(present)
    micro = accuracy(results)
    tables = [_group_table(name, results, benchmark) for name in names]
    # A group whose values all questions share says what the total says.
    tables = [table for table in tables if any(estimate.num < micro.num for _, estimate in table.rows)]
    headline = "micro"
    if benchmark.headline in {table.group for table in tables}:
        headline = f"macro over {benchmark.headline}"
    played = [result for result in results if result.failure is None]
    return Report(
        data_source=data_source,
        title=benchmark.title,
        headline=headline,
        micro=micro,
        answered=accuracy(played) if 0 < len(played) < len(results) else None,
        groups=tuple(tables),
        failures=tuple((result.sample_id, result.failure) for result in results if result.failure is not None),
        paper=tuple(paper_rows(data_source, frame_budget)) if frame_budget is not None else (),
        course=_course(played),
    )


def reports(results: Sequence[Result], *, frame_budget: int | None = None) -> list[Report]:
    """Make the tables of every data source, in the order in which they come."""
    sources = dict.fromkeys(result.data_source for result in results)
    return [
        report(source, [result for result in results if result.data_source == source], frame_budget=frame_budget)
        for source in sources
    ]


def accuracy(results: Sequence[Result]) -> Estimate:
    """The share that is right, with its interval by video."""
    return mean_by_video([float(result.correct) for result in results], [result.video for result in results])


def _group_table(name: str, results: Sequence[Result], benchmark: Benchmark) -> GroupTable:
    counted = [(value, result) for result in results for value in result.group_values(name)]
    values = sorted({value for value, _ in counted}, key=lambda value: _place(value, benchmark))
    return GroupTable(
        group=name,
        rows=tuple((value, accuracy([result for other, result in counted if other == value])) for value in values),
        macro=mean_of_groups(
            [float(result.correct) for _, result in counted],
            [result.video for _, result in counted],
            [value for value, _ in counted],
        ),
    )


def _place(value: str, benchmark: Benchmark) -> tuple[int, str]:
    return (benchmark.order.index(value), "") if value in benchmark.order else (len(benchmark.order), value)


def _course(played: Sequence[Result]) -> dict[str, float | None]:
    """Means over episodes that were played; latencies over responses that were measured."""
    if not played:
        return {}
    num = len(played)
    turns = sum(result.num_turns for result in played)
    grounded = [result for result in played if result.best_iou is not None]
    looked = [iou for result in grounded for iou in result.retrieved_ious]
    seconds = [value for result in played for value in result.response_seconds]
    stops: Counter[Any] = Counter(result.stop_reason for result in played)
    return {
        "turns": turns / num,
        "retrievals": sum(result.num_retrievals for result in played) / num,
        "retrievals_per_turn": sum(result.num_retrievals for result in played) / turns if turns else None,
        "invalid_per_turn": sum(result.num_invalid for result in played) / turns if turns else None,
        "frames": sum(result.num_frames for result in played) / num,
        "no_answer": sum(result.answer is None for result in played) / num,
        "truncated": stops["length_limit"] / num,
        "with_ground_truth": len(grounded) / num,
        "overview_iou": _mean([result.overview_iou for result in grounded]),
        "best_iou": _mean([result.best_iou for result in grounded]),
        "retrieved_iou": _mean(looked),
        "hit_rate": _mean([float(iou > 0) for iou in looked]),
        "input_tokens": sum(result.input_tokens for result in played) / num,
        "output_tokens": sum(result.output_tokens for result in played) / num,
        "response_seconds_p50": percentile(seconds, 50),
        "response_seconds_p95": percentile(seconds, 95),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
