# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Two runs over the same questions: which answers changed, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from verl_videomtr.evaluation.benchmarks import counting
from verl_videomtr.evaluation.results import Result
from verl_videomtr.evaluation.statistics import Estimate, mcnemar, mean_by_video


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Run B against run A over some questions."""

    name: str
    """"all", or `group=value`."""
    first: float
    """Accuracy of run A."""
    second: float
    """Accuracy of run B."""
    change: Estimate
    """B - A by question, with its interval by video."""
    only_first: int
    """Questions that A alone has right."""
    only_second: int
    """Questions that B alone has right."""
    p_value: float
    """McNemar's exact test, two-sided, over questions: that they share videos is not in it, but in the interval."""


class NotComparable(ValueError):
    """Two runs have no question in common, or play questions several times."""


def compare(first: Sequence[Result], second: Sequence[Result]) -> dict[str, list[Difference]]:
    """Pair two runs by question.

    Returns:
        Data source -> differences: over all its questions, then by the values of its groups; groups whose values all
        questions share are left out.
    Raises:
        NotComparable: nothing to pair, or a question twice in one run.
    """
    by_id = [_by_id(results, name) for results, name in ((first, "first"), (second, "second"))]
    shared = [key for key in by_id[0] if key in by_id[1]]
    if not shared:
        raise NotComparable(
            f"the runs share no question ({len(first)} and {len(second)}); expected runs over the same file"
        )
    found: dict[str, list[Difference]] = {}
    for source in dict.fromkeys(key[0] for key in shared):
        pairs = [(by_id[0][key], by_id[1][key]) for key in shared if key[0] == source]
        found[source] = [_difference("all", pairs)]
        benchmark = counting(source)
        present = {name for a, _ in pairs for name in a.groups}
        for group in [name for name in benchmark.tables if name in present] or sorted(present):
            values = sorted({value for a, _ in pairs for value in a.group_values(group)})
            parts = [(value, [(a, b) for a, b in pairs if value in a.group_values(group)]) for value in values]
            if any(len(part) < len(pairs) for _, part in parts):
                found[source] += [_difference(f"{group}={value}", part) for value, part in parts]
    return found


def unpaired(first: Sequence[Result], second: Sequence[Result]) -> tuple[int, int]:
    """How many questions each run has that the other does not."""
    ids = [{(result.data_source, result.sample_id) for result in results} for results in (first, second)]
    return len(ids[0] - ids[1]), len(ids[1] - ids[0])


def _by_id(results: Sequence[Result], name: str) -> Mapping[tuple[str, str], Result]:
    found: dict[tuple[str, str], Result] = {}
    for result in results:
        key = (result.data_source, result.sample_id)
        if key in found:
            raise NotComparable(
                f"the {name} run has question {result.sample_id!r} more than once; expected one episode a question"
            )
        found[key] = result
    return found


def _difference(name: str, pairs: Sequence[tuple[Result, Result]]) -> Difference:
    only_first = sum(a.correct and not b.correct for a, b in pairs)
    only_second = sum(b.correct and not a.correct for a, b in pairs)
    return Difference(
        name=name,
        first=sum(a.correct for a, _ in pairs) / len(pairs),
        second=sum(b.correct for _, b in pairs) / len(pairs),
        change=mean_by_video([float(b.correct) - float(a.correct) for a, b in pairs], [a.video for a, _ in pairs]),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
    )
