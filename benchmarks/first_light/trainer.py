# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Stage e: the demo's trainer for two steps, where verl, Ray and vLLM import; else it says what is missing.

What it writes of each step: how far vLLM's probabilities and the actor's lie apart, seconds by phase (the weights'
way into vLLM among them), and the memory that the training workers held while vLLM slept.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.first_light.record import Record

NEEDED = ("verl", "ray", "vllm")
COMMAND = (
    sys.executable, "-m", "recipes.demo.main", "--device", "gpu", "--steps", "2",
    # Compiling and capturing graphs takes vLLM a minute that says nothing here.
    "actor_rollout_ref.rollout.enforce_eager=true",
)  # fmt: skip
FIGURES = (
    "training/rollout_probs_diff",
    "training/rollout_actor_probs",
    "timing_s/",
    "/perf/max_memory",
    "perf/throughput",
)


def run(record: Record, *, rehearse: bool) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        record.write("not run", missing=", ".join(missing), what_to_do="carry them: benchmarks.first_light.wheels")
        return
    if rehearse:
        record.write("not run", why="a rehearsal starts no trainer; make demo DEVICE=cpu does")
        return
    ended = subprocess.run(COMMAND, check=False, env={**os.environ, "VERL_LOGGING_LEVEL": "INFO"}).returncode
    runs = sorted(Path("outputs/demo").glob("run_*"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise RuntimeError(f"the demo ended with exit status {ended} before it trained; its own message is above")
    folder = runs[-1]
    for number, figures in steps(folder / "metrics.jsonl"):
        record.write(f"the demo's step {number}", **figures)
    if ended:
        raise RuntimeError(f"the demo ended with exit status {ended}; its log is {folder}/train.log")


def steps(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The figures of each step in verl's metrics file; those of validation alone are left out."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    found = [
        (line["step"], {name: value for name, value in line["data"].items() if any(part in name for part in FIGURES)})
        for line in lines
    ]
    return [(number, figures) for number, figures in found if figures]
