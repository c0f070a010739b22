# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The books of the sweep: a run's metrics, settings and held-out results, kept in the repository as it goes.

    results/<variant>_seed<S>.jsonl               {"step": n, "data": {...}}, a line per step, as the trainer logs it
    results/<variant>_seed<S>.jsonl.gz            the same, once the run has ended
    results/<variant>_seed<S>.json                settings, how often and how long it ran; examples once it has ended
    results/<variant>_seed<S>.held_out.jsonl.gz   a line per held-out episode of the last step

A run is complete when its last step was evaluated on the held-out rows. A stopped one goes on from its checkpoint where
that is still there, and from its beginning where it is not.
"""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
HELD_OUT_ACCURACY = "val-core/synthetic_needle/acc/mean@1"
KEPT_PREFIXES = ("videomtr/", "timing_s/", "val-core/", "val-aux/synthetic_needle/")
KEPT_KEYS = (
    "actor/entropy",
    "actor/grad_norm",
    "actor/ppo_kl",
    "critic/vf_explained_var",
    "critic/vf_loss",
    "perf/max_memory_allocated_gb",
    "training/rollout_probs_diff_max",
)
DIGITS = 5
WRONG = "wrong answers"
"""Name of the episodes whose answer was not right, beside the samples' groups."""


class RecordError(ValueError):
    """The books and the request do not fit together."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a run begins."""

    step: int
    """The last step that is done: 0 for a new run."""
    kept: tuple[dict[str, Any], ...]
    """The lines that stay."""
    complete: bool
    note: str
    """What is done about what was there, for a person."""


def plan_start(lines: Sequence[Mapping[str, Any]], *, steps: int, checkpoint_step: int) -> Start:
    """Decide where a run begins.

    Args:
        lines: what its JSONL holds.
        steps: how many steps a whole run has.
        checkpoint_step: the last step that a checkpoint holds; 0 where there is none.
    """
    rows = tuple(dict(line) for line in lines)
    last = max((row["step"] for row in rows), default=-1)
    if is_complete(rows, steps):
        return Start(step=steps, kept=rows, complete=True, note=f"complete, {steps} steps: kept as it is")
    known = {row["step"] for row in rows}
    if checkpoint_step and checkpoint_step < steps and set(range(1, checkpoint_step + 1)) <= known:
        kept = tuple(row for row in rows if row["step"] <= checkpoint_step)
        note = f"stopped at step {last}: goes on from the checkpoint of step {checkpoint_step}"
        return Start(step=checkpoint_step, kept=kept, complete=False, note=note)
    note = "new" if last < 0 else f"stopped at step {last} and has no checkpoint that fits: starts from the beginning"
    return Start(step=0, kept=(), complete=False, note=note)


def is_complete(lines: Sequence[Mapping[str, Any]], steps: int) -> bool:
    """Whether every step is there and the last one was evaluated."""
    known = {line["step"]: line["data"] for line in lines}
    return set(range(1, steps + 1)) <= set(known) and HELD_OUT_ACCURACY in known[steps]


def select_metrics(data: Mapping[str, Any]) -> dict[str, float]:
    """Keep what the study reads of a step's metrics, rounded."""
    return {
        key: float(f"{float(value):.{DIGITS}g}")
        for key, value in data.items()
        if (key.startswith(KEPT_PREFIXES) or key in KEPT_KEYS) and math.isfinite(float(value))
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL, compressed or not; a last line that was cut while it was written is left out.

    Raises:
        RecordError: another line is no JSON object with a step and its data.
    """
    if not path.exists():
        return []
    raw = path.read_bytes()
    raw_lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").split("\n")
    lines = []
    for number, text in enumerate(raw_lines, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            lines.append({"step": int(line["step"]), "data": dict(line["data"])})
        except (ValueError, KeyError, TypeError) as error:
            if number == len(raw_lines):
                continue
            raise RecordError(
                f"line {number} is {text[:60]!r}; expected a JSON object with `step` and `data`; {path}; "
                "remove the line, or the file to run it again"
            ) from error
    return lines


class RunRecord:
    """The files of one run: its lines, compressed once it has ended, its facts and its held-out results.

    Args:
        name: of the run; the files' names begin with it.
        folder: where they are.
    """

    def __init__(self, name: str, folder: Path = RESULTS) -> None:
        self.lines_path = folder / f"{name}.jsonl"
        self.packed_path = folder / f"{name}.jsonl.gz"
        self.facts_path = folder / f"{name}.json"
        self.held_out_path = folder / f"{name}.held_out.jsonl.gz"
        self.name = name

    def lines(self) -> list[dict[str, Any]]:
        return read_lines(self.packed_path if self.packed_path.exists() else self.lines_path)

    def facts(self) -> dict[str, Any]:
        """Settings, attempts and examples; {} for a run that never began."""
        return json.loads(self.facts_path.read_text(encoding="utf-8")) if self.facts_path.exists() else {}

    def held_out(self) -> list[dict[str, Any]]:
        """Results of the last step's held-out episodes; none of a run that has not ended."""
        if not self.held_out_path.exists():
            return []
        return [json.loads(line) for line in gzip.decompress(self.held_out_path.read_bytes()).splitlines()]

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise RecordError where the run was begun with other settings."""
        begun = self.facts().get("settings")
        wanted = json.loads(json.dumps(settings))
        if begun is None or begun == wanted:
            return
        changed = sorted(key for key in begun.keys() | wanted.keys() if begun.get(key) != wanted.get(key))
        raise RecordError(
            f"{self.name} was begun with other settings, {changed} differ; expected the same; {self.facts_path}; "
            "remove its files to make the run anew"
        )

    def begin(self, start: Start, settings: Mapping[str, Any], attempt: Mapping[str, Any]) -> None:
        """Cut the lines back to where the run begins, and enter the attempt."""
        self.lines_path.parent.mkdir(parents=True, exist_ok=True)
        _replace(self.lines_path, "".join(_dump(line) for line in start.kept).encode())
        self.packed_path.unlink(missing_ok=True)
        self.held_out_path.unlink(missing_ok=True)
        attempts = self.facts().get("attempts", [])
        self._write({"settings": settings, "attempts": [*attempts, dict(attempt)]})

    def append(self, step: int, data: Mapping[str, Any]) -> None:
        """Add a step's line; on disk when this returns."""
        with open(self.lines_path, "a", encoding="utf-8") as file:
            file.write(_dump({"step": step, "data": select_metrics(data)}))
            file.flush()
            os.fsync(file.fileno())

    def update_attempt(self, **facts: Any) -> None:
        """Change the last attempt's entry."""
        known = self.facts()
        known["attempts"][-1].update(facts)
        self._write(known)

    def add(self, **facts: Any) -> None:
        """Set facts beside settings and attempts."""
        self._write({**self.facts(), **facts})

    def keep_held_out(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Keep the results of the last step's held-out episodes."""
        _replace(self.held_out_path, _compressed("".join(_dump(result) for result in results).encode()))

    def pack(self) -> None:
        """Compress the lines of a run that has ended."""
        _replace(self.packed_path, _compressed(self.lines_path.read_bytes()))
        self.lines_path.unlink()

    def _write(self, facts: Mapping[str, Any]) -> None:
        _replace(self.facts_path, (json.dumps(facts, indent=1) + "\n").encode())


def _dump(line: Mapping[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"


def _compressed(content: bytes) -> bytes:
    """Compress so that the same content makes the same bytes."""
    return gzip.compress(content, mtime=0)


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_bytes(content)
    os.replace(beside, path)
