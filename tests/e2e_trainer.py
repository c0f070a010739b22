# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of verl's own trainer for the end-to-end tests: data, base models and one command, in real processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from verl_videomtr.sample import Sample, read_rows, write_rows
from verl_videomtr.trajectory_files import read_file, step_file

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "tests"


def make_base_model(*, max_turns: int = 3) -> Path:
    """A tiny model that keeps the format, retrieves, and is right by chance; kept while its script is the same."""
    script = ROOT / "tests" / "e2e" / "make_habitual_model.py"
    sources = [script, *(ROOT / "recipes/learning_study").glob("tiny_model.py"), ROOT / "verl_videomtr/episode.py"]
    sources += [ROOT / "verl_videomtr/prompts.py", ROOT / "verl_videomtr/prompts/tiny.yaml"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    target = CACHE / f"habitual_{max_turns}_{digest[:12]}"
    if not target.exists():
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(script), str(target), str(max_turns)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return target


def make_needles(folder: Path, *, num_train: int, num_val: int = 4) -> list[Sample]:
    """Make synthetic videos in `folder`; return their training rows with every answer set to A."""
    subprocess.run(
        [sys.executable, "-m", "data_prep.synthetic", "--out", str(folder), "--seed", "1"]
        + ["--num-train", str(num_train), "--num-val", str(num_val), "--num-test", "4", "--pool-size", "64"]
        + ["--num-scenes", "4", "--num-distractors", "3"],
        cwd=ROOT,
        check=True,
    )
    return [replace_fields(row, answer="A") for row in read_rows(folder / "train.parquet")]


def make_data(folder: Path, *, num_train: int) -> Path:
    """Fill a folder with `train.parquet`, and with videos and `val.parquet` in `needles/`."""
    write_rows(folder / "train.parquet", make_needles(folder / "needles", num_train=num_train))
    return folder


def replace_fields(sample: Sample, **changes) -> Sample:
    values = {name: getattr(sample, name) for name in Sample.__dataclass_fields__}
    return Sample(**{**values, **changes})


def environment_of(run: Path, probe: str = "videomtr_probe") -> dict[str, str]:
    """The variables of a run; `probe`, a module in tests/e2e, is loaded beside the plugin and records what passes."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "e2e"), os.environ.get("PYTHONPATH", "")]),
        "VERL_USE_EXTERNAL_MODULES": f"verl_videomtr.verl_plugin.register,{probe}",
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


def command_of(run: Path, base: Path, data: Path, *overrides: str) -> list[str]:
    return [
        sys.executable, "-m", "verl.trainer.main_ppo",
        "+videomtr=paper", "+videomtr/device=cpu", "+videomtr/model=tiny",
        "trainer.v1.trainer_mode=probe_sync",
        "actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls=videomtr_probe_vllm.ProbeWorkerExtension",
        f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'needles' / 'val.parquet'}",
        f"videomtr.video.root={data / 'needles'}", "data.shuffle=false",
        f"actor_rollout_ref.model.path={base}", f"critic.model.path={base}",
        # Small steps: the policy's habits must outlast them.
        "actor_rollout_ref.actor.optim.lr=1e-5",
        f"trainer.default_local_dir={run / 'checkpoints'}", f"videomtr.dump.dir={run / 'trajectories'}",
        "trainer.logger=[console,file]", "trainer.project_name=e2e", "trainer.experiment_name=e2e",
        "trainer.total_epochs=100", "trainer.save_freq=-1", "trainer.val_before_train=false",
        *overrides,
    ]  # fmt: skip


def train(
    run: Path,
    base: Path,
    data: Path,
    *overrides: str,
    kill_when: Callable[[], bool] | None = None,
    timeout: float = 900,
) -> str:
    """Run the trainer; return its log, which a failure prints the end of.

    Args:
        kill_when: end the run, with all its processes and SIGKILL, as soon as this is true.
    """
    run.mkdir(exist_ok=True)
    log = run / f"train_{len(list(run.glob('train_*')))}.log"
    environment, command = environment_of(run), command_of(run, base, data, *overrides)
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
    """Wait until the run has ended or is to be killed; return which of the two."""
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
    family = []
    for other in psutil.process_iter():
        try:
            # Ray's daemons are no children of the driver, but carry its variables.
            if other.environ().get("VIDEOMTR_PROBE_DIR") == str(run):
                family.append(other)
        except psutil.Error:
            continue
    os.kill(process.pid, signal.SIGKILL)
    for member in family:
        try:
            member.kill()
        except psutil.Error:
            continue
    process.wait()


def read_metrics(run: Path) -> dict[int, dict]:
    """Step -> the metrics that verl's file logger wrote for it; of a step trained twice, the later ones."""
    paths = sorted(run.glob("metrics_*.jsonl"), key=lambda path: path.stat().st_mtime)
    entries = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return {entry["step"]: entry["data"] for entry in entries if "videomtr/episode/turns" in entry["data"]}


def read_trajectories(run: Path, step: int) -> list[dict]:
    """The played trajectories that a step has written down."""
    return read_file(step_file(run / "trajectories", step)).played
