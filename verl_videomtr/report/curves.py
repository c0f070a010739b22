# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A run's curves: verl's metrics file, or else the step's own trajectories -> series of (step, value) by chart."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_videomtr.report.episodes import plain

MAX_POINTS = 400
"""Points of one line on the page; a longer series is thinned evenly."""

Series = dict[str, list[tuple[int, float]]]
"""Metric name -> its (step, value) pairs, by step."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart of the Run view."""

    title: str
    area: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    """(label, regular expression that a metric's whole name matches)."""
    note: str = ""
    stacked: bool = False
    share: bool = False
    """Whether the values are shares, so that the axis is 0 to 1."""


def _phase(name: str) -> str:
    return rf"timing_s/{name}"


CHARTS = (
    Chart(
        title="Accuracy", area="Outcome", unit="share of episodes", share=True,
        lines=(("training", "videomtr/episode/accuracy"), ("held out", r"val-core/.*/acc/mean@\d+")),
    ),
    Chart(
        title="Reward", area="Outcome", unit="per episode, after the gate",
        lines=(("training", "videomtr/reward/episode"), ("held out", r"val-aux/.*/episode_reward/mean@\d+")),
    ),
    Chart(title="Reward for the answer", area="Outcome", unit="per episode", lines=(("acc", "videomtr/reward/acc"),)),
    Chart(title="Reward for the frames", area="Outcome", unit="per episode", lines=(("fms", "videomtr/reward/fms"),)),
    Chart(
        title="Reward for the format", area="Outcome", unit="per episode", lines=(("format", "videomtr/reward/format"),)
    ),
    Chart(
        title="Gate open", area="Outcome", unit="share of episodes", share=True,
        lines=(("gate", "videomtr/reward/gate_open"),),
    ),
    Chart(
        title="Retrieval rate", area="Looking", unit="share", share=True,
        lines=(
            ("of turns", "videomtr/retrieval/rate_of_turns"),
            ("of episodes", "videomtr/retrieval/rate_of_trajectories"),
        ),
    ),
    Chart(title="Turns", area="Looking", unit="per episode", lines=(("turns", "videomtr/episode/turns"),)),
    Chart(
        title="IoU with the evidence", area="Looking", unit="IoU over pool frames",
        lines=(
            ("overview", "videomtr/iou/overview"), ("turn 1", "videomtr/iou/turn_1"),
            ("turn 2", "videomtr/iou/turn_2"), ("turn 3", "videomtr/iou/turn_3"),
            ("turn 4", "videomtr/iou/turn_4"), ("best", "videomtr/iou/best"),
        ),
    ),
    Chart(
        title="Retrievals that touch the evidence", area="Looking", unit="share of retrievals", share=True,
        lines=(("hits", "videomtr/retrieval/hit_rate"),),
    ),
    Chart(
        title="Frame budget used", area="Looking", unit="share of the budget", share=True,
        lines=(("used", "videomtr/episode/frame_budget_used"),),
    ),
    Chart(
        title="Valid responses", area="Looking", unit="share of responses", share=True,
        lines=(("valid", "videomtr/episode/format_rate"), ("truncated episodes", "videomtr/episode/truncated")),
    ),
    Chart(
        title="Spread of the intervals asked for", area="Collapse monitor", unit="entropy, 1 = all differ", share=True,
        lines=(("entropy", "videomtr/collapse/interval_entropy"),),
        note="Low: the policy asks for the same stretch whatever the video.",
    ),
    Chart(
        title="Endpoints copied", area="Collapse monitor", unit="share of endpoints", share=True,
        lines=(("copied", "videomtr/collapse/endpoints_copied"),),
        note="High: ranges begin and end at frames already on show, so the policy repeats numbers that it was told.",
    ),
    Chart(
        title="Templated first words", area="Collapse monitor", unit="share of responses", share=True,
        lines=(("most common", "videomtr/collapse/same_first_words"),),
        note="High: thoughts begin with the same three words.",
    ),
    Chart(
        title="Exploration bonus", area="Training", unit="per retrieval",
        lines=(("bonus", "videomtr/bootstrap/bonus"),), note="The stages of bootstrapping; 0 once it has ended.",
    ),
    Chart(title="Bonus stage", area="Training", unit="stage (0 to 2)", lines=(("stage", "videomtr/bootstrap/stage"),)),
    Chart(
        title="KL", area="Training", unit="nats per token",
        lines=(("of the update", "actor/ppo_kl"), ("to the reference", "actor/(reward_kl_penalty|kl_loss)")),
    ),
    Chart(title="Entropy", area="Training", unit="nats per token", lines=(("policy", "actor/entropy"),)),
    Chart(title="Value loss", area="Training", unit="squared error", lines=(("critic", "critic/vf_loss"),)),
    Chart(
        title="Explained variance", area="Training", unit="share of the returns' variance",
        lines=(("critic", "critic/vf_explained_var"),),
    ),
    Chart(
        title="Gradient norm", area="Training", unit="L2 norm",
        lines=(("policy", "actor/grad_norm"), ("critic", "critic/grad_norm")),
    ),
    Chart(
        title="Lost episodes", area="Training", unit="per step",
        lines=(("unreadable videos", "videomtr/video/unreadable"), ("failed", "videomtr/episode/failed")),
    ),
    Chart(
        title="Time of a step", area="Time", unit="seconds", stacked=True,
        lines=(
            ("rollout", _phase("gen")), ("log-probs", _phase("old_log_prob")), ("reference", _phase("ref")),
            ("values", _phase("values")), ("advantages", _phase("adv")), ("critic update", _phase("update_critic")),
            ("actor update", _phase("update_actor")), ("weight sync", _phase("update_weights")),
        ),
    ),
    Chart(title="Whole step", area="Time", unit="seconds", lines=(("step", _phase("step")),)),
    Chart(
        title="Time of an episode", area="Time", unit="seconds, mean",
        lines=(("frames", "videomtr/seconds/frames"), ("generation", "videomtr/seconds/generate")),
    ),
)  # fmt: skip


def read_metrics(path: Path, *, last_step: int | None = None) -> tuple[Series, int]:
    """Read the file of verl's `file` logger; return its series and how many lines could not be read.

    A step that was trained again after a resumption counts with its last line.

    Args:
        last_step: later ones are left out: the run was resumed from this one, and trained them again.
    """
    values: dict[str, dict[int, float]] = defaultdict(dict)
    unread = 0
    with path.open("rb") as file:
        for raw in file:
            if not raw.strip():
                continue
            try:
                line = json.loads(raw)
                step, data = int(line["step"]), line["data"].items()
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                unread += 1
                continue
            for name, value in () if last_step is not None and step > last_step else data:
                if isinstance(value, (int, float)):
                    values[name][step] = float(value)
    return {name: sorted(by_step.items()) for name, by_step in values.items()}, unread


def merge(parts: Iterable[Series]) -> Series:
    """Join series; where several have a metric's value at a step, the last one's counts."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for part in parts:
        for name, points in part.items():
            values[name].update(points)
    return {name: sorted(by_step.items()) for name, by_step in values.items()}


def make_charts(runs: Iterable[Series]) -> list[dict[str, Any]]:
    """Fill `CHARTS`; charts that no run has values for are left out."""
    runs = list(runs)
    charts = []
    for chart in CHARTS:
        lines = [
            {"run": number, "label": label, "name": name, "points": thin(points)}
            for number, series in enumerate(runs)
            for label, pattern in chart.lines
            for name, points in _matching(series, pattern)
        ]
        # Areas of several runs cannot lie in one chart.
        parts = [[line for line in lines if line["run"] == number] for number in range(len(runs))]
        for part in parts if chart.stacked and len(runs) > 1 else [lines]:
            if not part:
                continue
            charts.append(
                {
                    "title": chart.title,
                    "run": part[0]["run"] if chart.stacked else None,
                    "area": chart.area,
                    "unit": chart.unit,
                    "note": chart.note,
                    "stacked": chart.stacked,
                    "share": chart.share,
                    "labels": [label for label, _ in chart.lines if any(line["label"] == label for line in part)],
                    "lines": part,
                }
            )
    return charts


def thin(points: list[tuple[int, float]]) -> list[list[Any]]:
    """Keep at most `MAX_POINTS` points, evenly, the last one always."""
    stride = -(-len(points) // MAX_POINTS)
    kept = points[:: max(1, stride)]
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return [[step, plain(value)] for step, value in kept]


def _matching(series: Mapping[str, list[tuple[int, float]]], pattern: str) -> list[tuple[str, list[tuple[int, float]]]]:
    if pattern in series:
        return [(pattern, series[pattern])]
    return [(name, points) for name, points in series.items() if re.fullmatch(pattern, name)]
