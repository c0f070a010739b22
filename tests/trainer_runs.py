# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""verl's own trainer in a process of its own, on the CPU, for the end-to-end tests that are slow."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from e2e_trainer import CACHE, ROOT, environment_of

from verl_videomtr.gae import assign_credit
from verl_videomtr.sample import Sample, read_rows, write_rows


def build_model(script: str) -> Path:
    """Teach a tiny model with `tests/e2e/<script>`, or take it from the cache while its sources are the same."""
    path = ROOT / "tests" / "e2e" / script
    package = ROOT / "verl_videomtr"
    sources = [path, ROOT / "recipes/learning_study/tiny_model.py", package / "episode.py", package / "prompts.py"]
    sources += [package / "prompts/tiny.yaml", *path.parent.glob("*.yaml"), *package.glob("conf/tools/*.yaml")]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    target = CACHE / f"{path.stem}_{digest[:12]}"
    if not target.exists():
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, str(path), str(target)], cwd=ROOT, env=environment, check=True)
    return target


def make_data(folder: Path, num_rows: int, *, answer: str = "A") -> Path:
    """Make synthetic videos and rows; the answer is the same everywhere, so that a habit is right often."""
    subprocess.run(
        [sys.executable, "-m", "data_prep.synthetic", "--out", str(folder), "--seed", "1", "--num-train", str(num_rows)]
        + ["--num-val", "4", "--num-test", "4", "--pool-size", "64", "--num-scenes", "4", "--num-distractors", "3"],
        cwd=ROOT,
        check=True,
    )
    for name in ("train", "val"):
        rows = read_rows(folder / f"{name}.parquet")
        fields = Sample.__dataclass_fields__
        values = [{**{field: getattr(row, field) for field in fields}, "answer": answer} for row in rows]
        write_rows(folder / f"{name}.parquet", [Sample(**value) for value in values])
    return folder


def train(run: Path, *overrides: str, data: Path, model: Path, probe: str, timeout: float = 900) -> str:
    """Run the trainer with a probe module loaded beside the plugin; return its log.

    Args:
        run: folder for logs, metrics and what the probe writes.
        overrides: behind those that every run has.
        probe: a module in tests/e2e.
    """
    run.mkdir(parents=True, exist_ok=True)
    number = len(list(run.glob("train_*.log")))
    environment = environment_of(run, probe)
    command = [
        sys.executable, "-m", "verl.trainer.main_ppo",
        f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'val.parquet'}", "data.shuffle=false",
        f"videomtr.video.root={data}", f"actor_rollout_ref.model.path={model}", f"critic.model.path={model}",
        "actor_rollout_ref.actor.optim.lr=1e-5",
        f"trainer.default_local_dir={run / 'checkpoints'}", "trainer.logger=[console,file]",
        "trainer.project_name=e2e", "trainer.experiment_name=e2e", "trainer.total_epochs=100",
        "trainer.save_freq=-1", "trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.resume_mode=disable",
        *overrides,
    ]  # fmt: skip
    log = run / f"train_{number}.log"
    with log.open("w") as output:
        result = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=timeout
        )
    text = log.read_text(errors="replace")
    if result.returncode:
        pytest.fail(f"the trainer exited with {result.returncode}:\n" + "\n".join(text.splitlines()[-60:]))
    return text


def read_metrics(run: Path) -> dict[int, dict]:
    """Return the metrics that verl's file logger wrote, by step."""
    entries = [json.loads(line) for path in run.glob("metrics_*.jsonl") for line in path.read_text().splitlines()]
    return {entry["step"]: entry["data"] for entry in entries}


def trajectory(row: dict) -> dict:
    """Return the trajectory's record of a row that stock_probe wrote down."""
    return row["extra_fields"]["videomtr"]


def pad(rows: list[dict], name: str) -> torch.Tensor:
    """Put a column of rows into one tensor, zeros behind the shorter ones."""
    width = max(len(row[name]) for row in rows)
    return torch.stack([torch.nn.functional.pad(row[name].float(), (0, width - len(row[name]))) for row in rows])


def core_advantages(rows: list[dict], *, bonus: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute advantages and returns of a step with the core's function, from what a run has recorded.

    Args:
        rows: of stock_probe, one per trajectory; rewards, values and turns are read, nothing that was computed of them.
    """
    rewards = pad(rows, "rm_scores")
    turn_ids = torch.full(rewards.shape, -1)
    for place, row in enumerate(rows):
        for turn, (start, end) in enumerate(trajectory(row)["turn_spans"]):
            turn_ids[place, start:end] = turn
            if trajectory(row)["episode"]["actions"][turn] == "retrieve":
                rewards[place, end - 1] += bonus
    return assign_credit("bi_level", rewards, pad(rows, "values"), pad(rows, "response_mask"), turn_ids)


def largest_probability_gap(row: dict) -> float:
    """Compare the actor's probabilities of a row's sampled tokens with vLLM's.

    Not their logarithms: of a token that was sampled against the odds, these differ by more than float32 holds.
    """
    mask = row["response_mask"].bool()
    return float((row["rollout_log_probs"][mask].exp() - row["old_log_probs"][mask].exp()).abs().max())
