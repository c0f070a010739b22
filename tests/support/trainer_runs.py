# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""verl's own trainer on the CPU, in processes of its own, for tests and benchmarks: base models, data, one command."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
import torch

from verl_videomtr.gae import assign_credit
from verl_videomtr.sample import read_rows, write_rows
from verl_videomtr.trajectory_files import read_file, step_file

ROOT = Path(__file__).parents[2]
TRAINER = ROOT / "tests/support/trainer"
CACHE = ROOT / ".cache" / "tests"

_RECORDING = (
    "trainer.v1.trainer_mode=probe_sync",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls=videomtr_probe_vllm.ProbeWorkerExtension",
)
PROBES = {"videomtr_probe": _RECORDING, "uncollapsed_probe": _RECORDING, "stock_probe": ()}
"""Modules beside these sources that are loaded with the plugin and write down what passes, and what each needs set."""
GROUPS = ("+videomtr=paper", "+videomtr/device=cpu", "+videomtr/model=tiny")


def build_model(script: str = "make_habitual_model.py", *arguments: str) -> Path:
    """Teach a tiny model with `trainer/<script> TARGET [arguments]`, or take the one that the same sources made."""
    path = TRAINER / script
    package = ROOT / "verl_videomtr"
    sources = [path, ROOT / "recipes/learning_study/tiny_model.py", package / "episode.py", package / "prompts.py"]
    sources += [ROOT / "tests/support/family_models.py", package / "prompts/tiny.yaml"]
    sources += [*path.parent.glob("*.yaml"), *package.glob("conf/tools/*.yaml")]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    target = CACHE / "_".join([path.stem, *arguments, digest[:12]])
    if not target.exists():
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])}
        subprocess.run([sys.executable, str(path), str(target), *arguments], cwd=ROOT, env=environment, check=True)
    return target


def make_needles(folder: Path, *, num_train: int, num_val: int = 4, seed: int = 1) -> Path:
    """Make synthetic videos, `train.parquet` and `val.parquet` in a new folder inside the one given; return it."""
    target = folder / "needles"
    subprocess.run(
        [sys.executable, "-m", "data_prep.synthetic", "--out", str(target), "--seed", str(seed)]
        + ["--num-train", str(num_train), "--num-val", str(num_val), "--num-test", "4", "--pool-size", "64"]
        + ["--num-scenes", "4", "--num-distractors", "3"],
        cwd=ROOT,
        check=True,
    )
    return target


def make_data(folder: Path, *, num_train: int) -> Path:
    """Make needles whose answer is always A: the habitual model is right often."""
    target = make_needles(folder, num_train=num_train)
    for path in (target / "train.parquet", target / "val.parquet"):
        write_rows(path, [dataclasses.replace(row, answer="A") for row in read_rows(path)])
    return target


def environment_of(run: Path, probe: str | None = "videomtr_probe") -> dict[str, str]:
    """Return the variables of a run; VIDEOMTR_PROBE_DIR also tells its processes from others."""
    modules = ["verl_videomtr.verl_plugin.register", *([] if probe is None else [probe])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(TRAINER), os.environ.get("PYTHONPATH", "")]),
        "VERL_USE_EXTERNAL_MODULES": ",".join(modules),
        "VIDEOMTR_PROBE_DIR": str(run),
        "VERL_FILE_LOGGER_PATH": str(run / f"metrics_{len(list(run.glob('metrics_*')))}.jsonl"),
        "VERL_PLATFORM": "cpu",
        "HF_HUB_OFFLINE": "1",
        "HYDRA_FULL_ERROR": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "PYTHONDONTWRITEBYTECODE": "",
        "OMP_NUM_THREADS": "2",
    }


def command_of(
    run: Path,
    *overrides: str,
    data: Path,
    model: Path,
    probe: str | None = "videomtr_probe",
    groups: Sequence[str] = GROUPS,
) -> list[str]:
    """Return the trainer's command; `overrides` stand behind those that every run has."""
    return [
        sys.executable, "-m", "verl.trainer.main_ppo", *groups,
        f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'val.parquet'}", "data.shuffle=false",
        f"videomtr.video.root={data}", f"actor_rollout_ref.model.path={model}", f"critic.model.path={model}",
        # Small steps: the policy's habits must outlast them.
        "actor_rollout_ref.actor.optim.lr=1e-5",
        f"trainer.default_local_dir={run / 'checkpoints'}", f"videomtr.dump.dir={run / 'trajectories'}",
        "trainer.logger=[console,file]", "trainer.project_name=e2e", "trainer.experiment_name=e2e",
        "trainer.total_epochs=100", "trainer.save_freq=-1", "trainer.test_freq=-1", "trainer.val_before_train=false",
        "trainer.resume_mode=disable",
        *PROBES.get(probe or "", ()),
        *overrides,
    ]  # fmt: skip


def train(
    run: Path,
    *overrides: str,
    data: Path,
    model: Path,
    probe: str | None = "videomtr_probe",
    groups: Sequence[str] = GROUPS,
    kill_when: Callable[[], bool] | None = None,
    timeout: float = 900,
) -> str:
    """Run the trainer; return its log, which a failure prints the end of.

    Args:
        run: folder for logs, metrics, checkpoints, trajectory lines and what the probe writes.
        groups: the configuration that the overrides change.
        kill_when: end the run, with all its processes and SIGKILL, as soon as this is true.
    """
    run.mkdir(parents=True, exist_ok=True)
    log = run / f"train_{len(list(run.glob('train_*')))}.log"
    environment = environment_of(run, probe)
    command = command_of(run, *overrides, data=data, model=model, probe=probe, groups=groups)
    with open(log, "wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            killed = _wait(process, kill_when, timeout)
        finally:
            if process.poll() is None:
                kill_run(process, run)
    text = log.read_text(errors="replace")
    if process.returncode and not killed:
        pytest.fail(f"the trainer exited with {process.returncode}:\n" + "\n".join(text.splitlines()[-60:]))
    return text


def _wait(process: subprocess.Popen, kill_when: Callable[[], bool] | None, timeout: float) -> bool:
    """Wait until the run has ended or is to be killed; return whether it is to be killed."""
    deadline = time.monotonic() + timeout
    while process.poll() is None:
        if kill_when is not None and kill_when():
            return True
        if time.monotonic() > deadline:
            pytest.fail(f"the trainer ran for more than {timeout} s")
        time.sleep(0.05)
    return False


def kill_run(process: subprocess.Popen, run: Path) -> None:
    """SIGKILL the trainer and every process of its Ray, as a lost node would."""
    family = processes_of(run)
    os.kill(process.pid, signal.SIGKILL)
    for member in family:
        try:
            member.kill()
        except psutil.Error:
            continue
    process.wait()


def processes_of(run: Path) -> list[psutil.Process]:
    """The trainer and every process of its Ray."""
    found = []
    for other in psutil.process_iter():
        try:
            # Ray's daemons are no children of the driver, but carry its variables.
            if other.environ().get("VIDEOMTR_PROBE_DIR") == str(run):
                found.append(other)
        except psutil.Error:
            continue
    return found


def read_metrics(run: Path) -> dict[int, dict]:
    """Step -> the metrics that verl's file logger wrote for it; of a step trained twice, the later ones."""
    paths = sorted(run.glob("metrics_*.jsonl"), key=lambda path: path.stat().st_mtime)
    entries = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return {entry["step"]: entry["data"] for entry in entries if "timing_s/step" in entry["data"]}


def read_trajectories(run: Path, step: int) -> list[dict]:
    """The played trajectories that a step has written down."""
    return read_file(step_file(run / "trajectories", step)).played


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
