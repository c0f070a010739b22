# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`make demo`: needles in video -> a tiny taught model -> verl's PPO trainer with this plugin -> a summary and a page.

    python -m recipes.demo.main [--device cpu|gpu] [--steps N] [--seed S] [hydra overrides ...]

Videos, their decoded frames and the base model are made once for each seed and kept in `.cache/demo`; each training run
has a folder of its own in `outputs/demo`. Further arguments are Hydra overrides for the training run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import synthetic
from recipes.demo.run_watch import RunWatch
from recipes.demo.summary import StepLine, summarize_run, write_summary
from recipes.demo.verdict import judge
from recipes.learning_study import study
from verl_videomtr.cli import main as videomtr

CACHE = Path(".cache/demo")
OUTPUTS = Path("outputs/demo")
STEPS = 30
DATA_ROWS = {"train": 768, "val": 192, "test": 0}
"""Questions, four of a video; the splits share none."""
TASK = (
    "--pool-size", "64", "--num-scenes", "8", "--num-distractors", "7", "--needle-frames", "1", "--no-random-order",
)  # fmt: skip
"""Eight scenes in one order, each with a sign that stands for one of 64 frames."""
FRAME_BUDGET = 22
"""B: an overview of 8, then 7 a look. Blind looks and one uniform look come to .438, one look over the scene that the
question names to .906: `python -m recipes.learning_study.blind_bound --frame-budget 22` with TASK."""
SETTINGS = (
    "videomtr.episode.max_turns=3",
    f"videomtr.episode.frame_budget={FRAME_BUDGET}",
    "videomtr.episode.initial_frames=8",
    *study.OPTIMISATION,
)
"""Overrides of the training run beside paths, seeds and steps."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    # As Ctrl-C does: what was started is ended on the way out.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return demo(arguments)
    except KeyboardInterrupt as error:
        print("demo: interrupted; run it again: finished videos and base model are kept", file=sys.stderr)
        return 128 + (error.args[0] if error.args else signal.SIGINT)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.demo.main", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="where the trainer and the engine run (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of videos, base model and training (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for the training run")
    return parser.parse_args(argv)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def demo(arguments: argparse.Namespace) -> int:
    """Make what is missing, train, and sum up; return the exit code."""
    began = time.monotonic()
    seconds: dict[str, float] = {}
    data, base = data_folder(arguments.seed), base_folder(arguments.seed)
    threads = ["--threads", str(os.cpu_count() or 1)]
    for name, command in (
        ("videos", [*data_command(arguments.seed), "--out", str(data)]),
        ("frames", pools_command(data)),
        ("base model", [*teach_command(arguments.seed), "--out", str(base), *threads]),
    ):
        started = time.monotonic()
        print(f"{name}: {' '.join(command[1:])}", flush=True)
        if subprocess.run(command, check=False).returncode:
            print(f"demo: making the {name} failed; its own message is above", file=sys.stderr)
            return 1
        seconds[name] = time.monotonic() - started

    run = new_run_folder()
    started = time.monotonic()
    code, peak_gib = train(run, data, base, arguments)
    seconds["training run"] = time.monotonic() - started
    if code:
        print_failure(run, code)
        return 1
    verdict = judge(run / "trajectories", task_config())
    seconds["all"] = time.monotonic() - began
    summary = summarize_run(run, verdict=verdict, seconds=seconds, peak_memory_gib=peak_gib)
    print(write_summary(summary, run))
    return write_page(run, data)


def task_config() -> synthetic.NeedleConfig:
    """The task's settings, as the maker of the videos reads them."""
    parser = argparse.ArgumentParser()
    synthetic.add_config_arguments(parser)
    return synthetic.config_from_arguments(parser.parse_args(TASK))


def write_page(run: Path, data: Path) -> int:
    """Write the page that shows the run's episodes; its path is the last line that the demo prints."""
    return videomtr(["report", str(run), "--out", str(run / "report.html"), "--video-root", str(data)])


def data_command(seed: int) -> list[str]:
    """The command that makes videos and rows, but for the folder."""
    rows = [part for split, number in DATA_ROWS.items() for part in (f"--num-{split}", str(number))]
    return [sys.executable, "-m", "data_prep.synthetic", "--seed", str(seed), *TASK, *rows]


def pools_command(data: Path) -> list[str]:
    """The command that decodes every frame once: runs that fetch them a few at a time wait for them at every turn."""
    files = [str(data / f"{split}.parquet") for split, number in DATA_ROWS.items() if number]
    overrides = ["+videomtr=paper", "+videomtr/model=tiny", *SETTINGS, *video_overrides(data)]
    command = [sys.executable, "-m", "verl_videomtr.cli", "pools", *overrides, "--files", *files]
    return [*command, "--workers", str(os.cpu_count() or 1)]


def video_overrides(data: Path) -> list[str]:
    """Where the videos and their decoded frames are."""
    return [f"videomtr.video.root={data.resolve()}", f"videomtr.video.cache.dir={(data / 'pools').resolve()}"]


def teach_command(seed: int) -> list[str]:
    """The command that teaches the base model, but for the folder and what changes its speed alone."""
    command = [sys.executable, "-m", "recipes.learning_study.teach", "--base", "demo", "--seed", str(seed)]
    return [*command, "--frame-budget", str(FRAME_BUDGET), *TASK]


def data_folder(seed: int) -> Path:
    """Where the videos are; the maker refuses a folder that holds something else, so each setting has its own."""
    return CACHE / f"data_{_short_hash(data_command(seed))}"


def base_folder(seed: int) -> Path:
    """Where the base model is."""
    return CACHE / f"base_{_short_hash(teach_command(seed))}"


def _short_hash(command: Sequence[str]) -> str:
    """Hash a command's settings, and the task's source for what the command leaves to its defaults."""
    digest = hashlib.sha256("\0".join(command[1:]).encode())
    digest.update(Path(synthetic.__file__).read_bytes())
    return digest.hexdigest()[:10]


def new_run_folder() -> Path:
    """Make the next free `outputs/demo/run_N`: a run never overwrites another's logs."""
    for number in range(1, 100_000):
        folder = OUTPUTS / f"run_{number:03d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise RuntimeError(f"{OUTPUTS} has no free run number; remove old runs")


def train_command(run: Path, data: Path, base: Path, arguments: argparse.Namespace) -> list[str]:
    """The trainer's command."""
    return [
        sys.executable, "-m", "verl.trainer.main_ppo",
        "+videomtr=paper", f"+videomtr/device={arguments.device}", "+videomtr/model=tiny",
        *SETTINGS, *study.seed_overrides(arguments.seed),
        f"data.train_files={(data / 'train.parquet').resolve()}",
        f"data.val_files={(data / 'val.parquet').resolve()}",
        *video_overrides(data),
        f"actor_rollout_ref.model.path={base.resolve()}",
        f"critic.model.path={base.resolve()}",
        f"videomtr.dump.dir={(run / 'trajectories').resolve()}",
        f"trainer.validation_data_dir={(run / 'validation').resolve()}",
        f"trainer.default_local_dir={(run / 'checkpoints').resolve()}",
        f"trainer.total_training_steps={arguments.steps}", "trainer.total_epochs=1000",
        f"trainer.save_freq={arguments.steps}", f"trainer.test_freq={arguments.steps}",
        "trainer.n_gpus_per_node=1", "trainer.nnodes=1", "trainer.resume_mode=disable",
        "trainer.project_name=videomtr_demo", f"trainer.experiment_name={run.name}",
        "trainer.logger=[console,file,tensorboard]",
        *arguments.overrides,
    ]  # fmt: skip


def train(run: Path, data: Path, base: Path, arguments: argparse.Namespace) -> tuple[int, float]:
    """Run verl's trainer; print a line per step; return its exit code and the peak of memory in GiB."""
    command = train_command(run, data, base, arguments)
    variables = trainer_environment(run, arguments.device)
    (run / "command.txt").write_text(shell_command(command, variables), encoding="utf-8")
    print(f"training: {run / 'command.txt'}, log in {run / 'train.log'}", flush=True)
    watch = RunWatch()
    with open(run / "train.log", "wb") as log, watch:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **variables})
        try:
            for line in follow_steps(run / "metrics.jsonl", process):
                print(line, flush=True)
            code = process.wait()
        finally:
            stop(process)
    return code, watch.peak_gib


def shell_command(command: Sequence[str], variables: Mapping[str, str]) -> str:
    """Write a command with its environment variables as a shell reads it, a word per line."""
    words = ["env", *(f"{name}={value}" for name, value in variables.items()), *command]
    return " \\\n  ".join(shlex.quote(word) for word in words) + "\n"


def stop(process: subprocess.Popen, wait_seconds: float = 60) -> None:
    """End a process: politely, and after `wait_seconds`, or if interrupted once more, by force."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(wait_seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()


def trainer_environment(run: Path, device: str) -> dict[str, str]:
    """The variables of a run; the plugin's module is named so that a failing registration raises."""
    environment = {
        "VERL_USE_EXTERNAL_MODULES": "verl_videomtr.verl_plugin.register",
        "VERL_FILE_LOGGER_PATH": str((run / "metrics.jsonl").resolve()),
        "TENSORBOARD_DIR": str((run / "tensorboard").resolve()),
        "HF_HUB_OFFLINE": "1",
        "HYDRA_FULL_ERROR": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        # Compiled modules are kept: a dozen processes import verl, torch and vLLM.
        "PYTHONDONTWRITEBYTECODE": "",
    }
    if device == "cpu":
        environment |= {
            "VERL_PLATFORM": "cpu",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(os.cpu_count() or 1),
            # Ray lowers its workers' priority by 15; on a shared machine everything else then goes first.
            "RAY_worker_niceness": "0",
        }
    return environment


def follow_steps(metrics: Path, process: subprocess.Popen) -> Iterator[str]:
    """Yield a readable line for each line that verl's file logger has written, until the process ends."""
    return (str(StepLine.of(entry)) for entry in follow_entries(metrics, process))


def follow_entries(metrics: Path, process: subprocess.Popen) -> Iterator[dict[str, Any]]:
    """Yield each whole line that verl's file logger has written, decoded, until the process ends."""
    position = 0
    while True:
        ended = process.poll() is not None
        if metrics.exists():
            with open(metrics, "rb") as file:
                file.seek(position)
                for raw in file:
                    if not raw.endswith(b"\n"):
                        break
                    position += len(raw)
                    yield json.loads(raw)
        if ended:
            return
        time.sleep(1)


def print_failure(run: Path, code: int) -> None:
    lines = (run / "train.log").read_text(encoding="utf-8", errors="replace").splitlines()
    print("\n".join(lines[-30:]), file=sys.stderr)
    print(
        f"demo: the trainer stopped with exit code {code}; the end of its log is above, the whole of it is "
        f"{run / 'train.log'}; `sh {run / 'command.txt'}` runs it again",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
