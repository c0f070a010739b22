# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A run's numbers from its records: tables with intervals, flips between two sets, where the policy looks.

Everything here covers all records, also those that a page of bounded size does not show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from verl_videomtr.evaluation.statistics import Estimate, mcnemar, mean_by_video, mean_of_groups
from verl_videomtr.report.episodes import Facts, plain

POSITION_BINS = 24
"""Parts of a video's length in the heat maps."""
STEP_BINS = 40
"""Most rows of a heat map; neighbouring steps share one."""
FLIPS_SHOWN = 200

T = TypeVar("T")


def make_table(facts: Sequence[Facts]) -> list[dict[str, Any]]:
    """Average a set of episodes: all of it, each data source, and each group.

    A lost episode counts as wrong, as it does in `videomtr eval`; intervals are that command's, over videos.
    """
    rows = [_row("all", "", facts)]
    sources = sorted({fact.source for fact in facts})
    if len(sources) > 1:
        rows += [_row(name, "data source", [f for f in facts if f.source == name]) for name in sources]
    by_name = group_by(
        sorted({group for fact in facts for group in fact.groups}), lambda group: group.partition(": ")[0]
    )
    for name, groups in by_name.items():
        parts = [[fact for fact in facts if group in fact.groups] for group in groups]
        if len(groups) > 1:
            pairs = [(fact, group) for group, part in zip(groups, parts, strict=True) for fact in part]
            mean = mean_of_groups([_right(f) for f, _ in pairs], [f.video for f, _ in pairs], [g for _, g in pairs])
            rows.append({"name": f"mean of {len(groups)}", "kind": name, "macro": True, "accuracy": _told(mean)})
        rows += [_row(group.partition(": ")[2], name, part) for group, part in zip(groups, parts, strict=True)]
    return rows


def _row(name: str, kind: str, facts: Sequence[Facts]) -> dict[str, Any]:
    played = [fact for fact in facts if fact.right is not None]
    ious = [fact.iou for fact in played if fact.iou is not None]
    return {
        "name": name[:100],
        "kind": kind[:100],
        "episodes": len(facts),
        "samples": len({fact.sample_id for fact in facts}),
        "lost": len(facts) - len(played),
        "accuracy": _told(mean_by_video([_right(fact) for fact in facts], [fact.video for fact in facts])),
        "reward": plain(_mean([fact.reward for fact in played])),
        "turns": plain(_mean([fact.turns for fact in played])),
        "frames": plain(_mean([fact.frames for fact in played])),
        "iou": plain(_mean(ious)),
    }


def compare_sets(first: Sequence[Facts], second: Sequence[Facts]) -> dict[str, Any] | None:
    """Compare two sets over the samples that both hold: what flipped, and whether chance explains it.

    A sample that was played several times is right where most of its episodes are.
    """
    left, right = _by_sample(first), _by_sample(second)
    common = sorted(left.keys() & right.keys())
    if not common:
        return None
    gained = [sample for sample in common if left[sample] <= 0.5 < right[sample]]
    dropped = [sample for sample in common if right[sample] <= 0.5 < left[sample]]
    videos = {fact.sample_id: fact.video for fact in first}
    change = mean_by_video([right[s] - left[s] for s in common], [videos[s] for s in common])
    return {
        "samples": len(common),
        "both_right": sum(left[s] > 0.5 and right[s] > 0.5 for s in common),
        "both_wrong": sum(left[s] <= 0.5 and right[s] <= 0.5 for s in common),
        "num_gained": len(gained),
        "num_dropped": len(dropped),
        "gained": gained[:FLIPS_SHOWN],
        "dropped": dropped[:FLIPS_SHOWN],
        "difference": _told(change),
        "p": plain(mcnemar(len(dropped), len(gained))),
    }


def _told(estimate: Estimate) -> list[Any]:
    """[value, low, high], or [value] where there is no interval."""
    ends = () if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)
    return [plain(number) for number in (estimate.value, *ends)]


def _right(fact: Facts) -> float:
    return float(bool(fact.right))


def _by_sample(facts: Iterable[Facts]) -> dict[str, float]:
    results: dict[str, list[float]] = defaultdict(list)
    for fact in facts:
        results[fact.sample_id].append(_right(fact))
    return {sample: sum(values) / len(values) for sample, values in results.items()}


class HeatMap:
    """Counts, by step, which part of the video retrievals show and which part holds the evidence."""

    def __init__(self) -> None:
        self._looks: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(POSITION_BINS))
        self._evidence: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(POSITION_BINS))

    def add(self, step: int | None, episode: Mapping[str, Any]) -> None:
        """Count one played episode: every retrieved frame, and every frame of its evidence."""
        size = int(episode["pool_size"])
        step = 0 if step is None else step
        for frames in episode["frames"][1:]:
            self._count(self._looks[step], frames, size)
        self._count(self._evidence[step], episode.get("truth") or (), size)

    @staticmethod
    def _count(row: np.ndarray, frames: Iterable[int], size: int) -> None:
        for index in frames:
            row[min(POSITION_BINS - 1, max(0, int((index + 0.5) / size * POSITION_BINS)))] += 1

    def rows(self) -> list[dict[str, Any]]:
        """List the rows by step, each a share of its own frames; neighbouring steps merged to `STEP_BINS` rows."""
        steps = sorted(self._looks.keys() | self._evidence.keys())
        merged = [list(part) for part in np.array_split(np.array(steps), min(len(steps), STEP_BINS))] if steps else []
        return [
            {
                "steps": [int(part[0]), int(part[-1])],
                "looks": self._shares(self._looks, part),
                "evidence": self._shares(self._evidence, part),
            }
            for part in merged
        ]

    @staticmethod
    def _shares(counts: Mapping[int, np.ndarray], steps: Sequence[int]) -> list[Any] | None:
        total = sum((counts[int(step)] for step in steps if int(step) in counts), np.zeros(POSITION_BINS))
        return [plain(value) for value in total / total.sum()] if total.sum() else None


def group_by(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """Collect items under their key, in order of appearance."""
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
