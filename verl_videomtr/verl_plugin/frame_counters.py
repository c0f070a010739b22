# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the workers' frame services did in a step: counts since each worker's start in, the step's own out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

LEVELS = ("open_pools",)
"""Last part of the names that are levels, not counts."""


class FrameCounters:
    """The latest report of every worker, and the sum at the step before."""

    def __init__(self) -> None:
        self._latest: dict[str, dict[str, float]] = {}
        self._before = Counter[str]()

    def since_last(self, reports: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """Take a step's reports and return what was done since the step before.

        Args:
            reports: of any order and number, each with `worker`, its name, and `counted`, its counters from its start.
        """
        for report in reports:
            latest = self._latest.setdefault(report["worker"], {})
            for name, count in report["counted"].items():
                latest[name] = count if _is_level(name) else max(count, latest.get(name, 0.0))
        now = Counter[str]()
        for counted in self._latest.values():
            now.update(counted)
        done = {name: count - (0.0 if _is_level(name) else self._before[name]) for name, count in now.items()}
        self._before = now
        return done


def _is_level(name: str) -> bool:
    return name.rpartition("/")[2] in LEVELS
