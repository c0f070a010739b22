# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a run came to: verl's metrics file in, a page for a person and `summary.json` out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.demo.verdict import Verdict

PHASES = {
    "rollout": "timing_s/gen",
    "log-probs": "timing_s/old_log_prob",
    "reference": "timing_s/ref",
    "values": "timing_s/values",
    "advantages": "timing_s/adv",
    "critic update": "timing_s/update_critic",
    "actor update": "timing_s/update_actor",
    "weight sync": "timing_s/update_weights",
    "whole step": "timing_s/step",
}
SHOWN = {
    "accuracy": "videomtr/episode/accuracy",
    "turns": "videomtr/episode/turns",
    "retrieval rate (of turns)": "videomtr/retrieval/rate_of_turns",
    "retrievals that touch the evidence": "videomtr/retrieval/hit_rate",
    "best IoU": "videomtr/iou/best",
    "valid responses": "videomtr/episode/format_rate",
    "frame budget used": "videomtr/episode/frame_budget_used",
    "reward": "videomtr/reward/episode",
    "  accuracy": "videomtr/reward/acc",
    "  frames": "videomtr/reward/fms",
    "  format": "videomtr/reward/format",
    "gate open": "videomtr/reward/gate_open",
    "exploration bonus": "videomtr/bootstrap/bonus",
    "critic explained variance": "critic/vf_explained_var",
    "unreadable videos": "videomtr/video/unreadable",
}
WINDOW = 5
"""Steps that the first and the last column average."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepLine:
    """One line of progress."""

    step: int
    data: Mapping[str, Any]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> StepLine:
        return cls(step=int(entry["step"]), data=entry["data"])

    def __str__(self) -> str:
        text = f"step {self.step:3d}"
        if "videomtr/episode/accuracy" in self.data:
            text += "".join(
                f"  {name} {self.data[key]:.2f}"
                for name, key in (
                    ("accuracy", "videomtr/episode/accuracy"),
                    ("turns", "videomtr/episode/turns"),
                    ("retrieval rate", "videomtr/retrieval/rate_of_turns"),
                    ("reward", "videomtr/reward/episode"),
                    ("bonus", "videomtr/bootstrap/bonus"),
                    ("seconds", "timing_s/step"),
                )
                if key in self.data
            )
        if (accuracy := _held_out(self.data)) is not None:
            text += f"  held-out accuracy {accuracy:.2f}"
        return text


def read_metrics(path: Path) -> list[StepLine]:
    """Read the file of verl's `file` logger."""
    return [StepLine.of(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def summarize_run(
    run: Path, *, verdict: Verdict | None, seconds: Mapping[str, float], peak_memory_gib: float
) -> dict[str, Any]:
    """Collect a finished run's figures.

    Args:
        run: folder with metrics.jsonl, trajectories/ and checkpoints/.
        verdict: on the held-out episodes; None where the run had no validation.
        seconds: wall seconds of each stage.
        peak_memory_gib: rise of the machine's used memory during training.
    """
    lines = read_metrics(run / "metrics.jsonl")
    steps = [line.data for line in lines if "videomtr/episode/accuracy" in line.data]
    return {
        "steps": len(steps),
        "held_out": verdict.to_json() if verdict else None,
        "first_steps": {name: _mean(steps[:WINDOW], key) for name, key in SHOWN.items()},
        "last_steps": {name: _mean(steps[-WINDOW:], key) for name, key in SHOWN.items()},
        "seconds_per_step": {name: _mean(steps[1:] or steps, key) for name, key in PHASES.items()},
        "seconds": dict(seconds),
        "peak_memory_gib": peak_memory_gib,
        "trajectories": str(run / "trajectories"),
        "validation": str(run / "validation"),
        "checkpoints": str(run / "checkpoints"),
    }


def write_summary(summary: Mapping[str, Any], run: Path) -> str:
    """Write summary.json into the run's folder; return the page for a person."""
    (run / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    number = min(WINDOW, summary["steps"])
    page = ["", f"{summary['steps']} training steps; averages of the first and the last {number}:"]
    for name in SHOWN:
        first, last = summary["first_steps"][name], summary["last_steps"][name]
        if first is not None or last is not None:
            page.append(f"  {name:<36} {_show(first)} -> {_show(last)}")
    page.append("seconds per step:")
    page += [f"  {name:<36} {_show(value)}" for name, value in summary["seconds_per_step"].items() if value is not None]
    page.append("wall seconds:")
    page += [f"  {name:<36} {value:7.0f}" for name, value in summary["seconds"].items()]
    page.append(f"peak memory: {summary['peak_memory_gib']:.1f} GiB above the start")
    page.append(f"trajectories, turn by turn: {summary['trajectories']}/step_*.jsonl")
    page.append(f"validation generations:     {summary['validation']}/*.jsonl")
    page.append(f"checkpoint:                 {summary['checkpoints']}")
    page.append(f"the same as JSON:           {run / 'summary.json'}")
    held_out = summary["held_out"]
    page += ["", held_out["words"] if held_out else "No validation after training: nothing is said of held-out videos"]
    return "\n".join(page)


def _held_out(data: Mapping[str, Any]) -> float | None:
    values = [
        float(value) for key, value in data.items() if key.startswith("val-core/") and key.endswith("/acc/mean@1")
    ]
    return sum(values) / len(values) if values else None


def _mean(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [float(step[key]) for step in steps if key in step]
    return sum(values) / len(values) if values else None


def _show(value: float | None) -> str:
    return "      -" if value is None else f"{value:7.2f}"
