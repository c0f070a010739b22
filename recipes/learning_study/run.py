# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One run of the study: videos and base model if they are missing, verl's trainer, and its metrics into the repository.

    python -m recipes.learning_study.run full --seed 0

A complete run is left alone; a stopped one goes on. `--print-command` shows the trainer's command and runs nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from data_prep import synthetic
from recipes.demo.main import (
    follow_entries,
    shell_command,
    stop,
    trainer_environment,
)
from recipes.demo.run_watch import RunWatch
from recipes.demo.summary import StepLine
from recipes.learning_study import study, teach
from recipes.learning_study.record import RESULTS, WRONG, RecordError, RunRecord, Start, plan_start
from verl_videomtr.trajectory_files import VAL_FOLDER, read_file, step_file

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "learning_study"
OUTPUTS = ROOT / "outputs" / "learning_study"
NUM_EXAMPLES = 4


def make_run(variant: str, seed: int, *, steps: int, results: Path = RESULTS, outputs: Path) -> int:
    """Make or finish one run; return its exit code."""
    setting = study.VARIANTS[variant].setting
    name = study.run_name(variant, seed)
    record = RunRecord(name, results)
    folder = outputs / name
    overrides = study.overrides_of(variant, seed, steps=steps)
    start = plan_start(record.lines(), steps=steps, checkpoint_step=last_checkpoint(folder))
    print(f"{name}: {start.note}", flush=True)
    if start.complete:
        return 0
    data, base = prepare(study.VARIANTS[variant])
    settings = {
        "variant": variant,
        "seed": seed,
        "steps": steps,
        "overrides": overrides,
        "task": json.loads((data / "settings.json").read_text(encoding="utf-8")),
        "base": json.loads((base / "settings.json").read_text(encoding="utf-8")),
    }
    if start.step:
        record.check_settings(settings)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    attempt = {
        "from_step": start.step,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "plugin": plugin_digest(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "nice": os.nice(0),
    }
    record.begin(start, settings, attempt)
    command = study.run_command(overrides, folder=folder, data=data, base=base, resume=bool(start.step), steps=steps)
    code = train(command, folder, record, start)
    if code:
        print_failure(folder, code)
        return 1
    finish(record, folder, steps, group_by=setting.group_by)
    return 0


def prepare(variant: study.Variant = study.VARIANTS["full"]) -> tuple[Path, Path]:
    """Make videos, decoded frames and base model where they are missing; return the videos' folder and the model's."""
    setting = variant.setting
    digest = hashlib.sha256(Path(synthetic.__file__).read_bytes())
    digest.update(" ".join(study.data_command(Path(), setting)[1:]).encode())
    data = CACHE / f"data_{digest.hexdigest()[:10]}"
    suffix = "".join(f"_{option.strip('-')}" for option in variant.base_options)
    base = CACHE / f"{setting.base}_base_{teach.sources_digest()[:10]}{suffix}"
    commands = (
        study.data_command(data, setting),
        study.pools_command(data, setting),
        study.base_command(base, variant),
    )
    for command in commands:
        subprocess.run(command, check=True, cwd=ROOT)
    return data, base


def train(command: Sequence[str], folder: Path, record: RunRecord, start: Start) -> int:
    """Run verl's trainer and copy its steps into the record as they come; return its exit code."""
    variables = trainer_environment(folder, "cpu")
    (folder / "command.txt").write_text(shell_command(command, variables), encoding="utf-8")
    began = time.monotonic()
    with open(folder / "train.log", "ab") as log, RunWatch():
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **variables}
        )
        try:
            for entry in follow(folder / "metrics.jsonl", process):
                if entry["step"] > start.step or not start.step:
                    record.append(entry["step"], entry["data"])
                    record.update_attempt(wall_seconds=round(time.monotonic() - began), to_step=entry["step"])
                    print(StepLine.of(entry), flush=True)
            code = process.wait()
        finally:
            stop(process)
    record.update_attempt(wall_seconds=round(time.monotonic() - began), exit_code=code)
    return code


def follow(metrics: Path, process: subprocess.Popen) -> Iterator[dict[str, Any]]:
    """Yield what verl's file logger writes from now on, until the process ends."""
    # The logger empties the file of an earlier attempt when it starts, minutes from now.
    metrics.unlink(missing_ok=True)
    yield from follow_entries(metrics, process)


def finish(record: RunRecord, folder: Path, steps: int, *, group_by: Sequence[str] = ()) -> None:
    """Keep what the trajectories tell; compress the lines, remove checkpoints.

    Kept are examples of the first and the last step, every held-out episode's result, and training by group.
    """
    trajectories = folder / "trajectories"
    examples = {}
    for place, step in (("first_step", 1), ("last_step", steps)):
        examples[place] = [example_of(line) for line in played(trajectories, step)[:NUM_EXAMPLES]]
    record.add(examples=examples)
    record.keep_held_out(results_of(played(trajectories / VAL_FOLDER, steps), group_by))
    if group_by:
        by_step = [results_of(played(trajectories, step), group_by) for step in range(1, steps + 1)]
        record.add(by_group=means_by_group(by_step))
    record.pack()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def played(folder: Path, step: int) -> list[dict[str, Any]]:
    """Read the played episodes of a step; none where it was not written."""
    path = step_file(folder, step)
    return read_file(path).played if path.exists() else []


def results_of(episodes: Sequence[dict[str, Any]], group_by: Sequence[str]) -> list[dict[str, Any]]:
    """Shorten episodes to what tables need: one entry per episode, in the order of the samples."""
    return [
        {
            "sample": episode["sample_id"],
            "video": episode["video"],
            "group": " ".join(episode["groups"][key] for key in group_by),
            "correct": int(episode["correct"]),
            "turns": len(episode["turn_rewards"]),
            "reward": round(sum(episode["turn_rewards"]), 4),
        }
        for episode in sorted(episodes, key=lambda episode: episode["sample_id"])
    ]


def means_by_group(by_step: Sequence[Sequence[dict[str, Any]]]) -> dict[str, dict[str, list[float | None]]]:
    """Average each step's episodes by group, and those with a wrong answer: group -> name -> a value a step."""
    groups = sorted({entry["group"] for step in by_step for entry in step})
    means: dict[str, dict[str, list[float | None]]] = {}
    for group in (*groups, WRONG):
        means[group] = {name: [] for name in ("turns", "reward", "correct")}
        for step in by_step:
            own = [entry for entry in step if (not entry["correct"] if group == WRONG else entry["group"] == group)]
            for name, values in means[group].items():
                values.append(round(sum(entry[name] for entry in own) / len(own), 4) if own else None)
    return means


def example_of(trajectory: dict[str, Any]) -> dict[str, Any]:
    """Shorten a dumped trajectory to what a reader wants of it."""
    episode = trajectory["episode"]
    names = ("frames", "responses", "retrieval_ious", "stop_reason")
    shown = {name: trajectory[name] for name in ("question", "ground_truth", "turn_rewards")}
    return shown | {name: episode[name] for name in names}


def last_checkpoint(folder: Path) -> int:
    """The step of the last whole checkpoint, 0 without one."""
    marker = folder / "checkpoints" / "latest_checkpointed_iteration.txt"
    text = marker.read_text(encoding="utf-8").strip() if marker.exists() else ""
    return int(text) if text.isdigit() else 0


def plugin_digest() -> str:
    """Hash the package that the run trains with."""
    files = sorted((ROOT / "verl_videomtr").rglob("*.py")) + sorted((ROOT / "verl_videomtr").rglob("*.yaml"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def print_failure(folder: Path, code: int) -> None:
    lines = (folder / "train.log").read_text(encoding="utf-8", errors="replace").splitlines()
    print("\n".join(lines[-30:]), file=sys.stderr)
    print(f"the trainer stopped with exit code {code}; its log is {folder / 'train.log'}", file=sys.stderr)


def interrupt(*_: object) -> None:
    """End as at the keyboard, so that the trainer ends too."""
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.learning_study.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("variant", choices=study.VARIANTS, help="which variant of the study")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="fewer make a trial, not a run of the study")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for the run's metrics (default: the repository's)"
    )
    parser.add_argument(
        "--outputs", type=Path, default=OUTPUTS, help="folder for logs and checkpoints (default: %(default)s)"
    )
    parser.add_argument("--print-command", action="store_true", help="show the trainer's command and run nothing")
    arguments = parser.parse_args(argv)
    whole = study.steps_of(arguments.variant)
    steps = arguments.steps or whole
    if steps != whole and arguments.results == RESULTS and not arguments.print_command:
        parser.exit(2, f"--steps={steps} is a trial; expected a folder of its own for it: give --results\n")
    if arguments.print_command:
        overrides = study.overrides_of(arguments.variant, arguments.seed, steps=steps)
        folder = arguments.outputs / study.run_name(arguments.variant, arguments.seed)
        command = study.run_command(
            overrides, folder=folder, data=Path("DATA"), base=Path("BASE"), resume=False, steps=steps
        )
        print(shell_command(command, trainer_environment(folder, "cpu")))
        return 0
    signal.signal(signal.SIGTERM, interrupt)
    try:
        return make_run(
            arguments.variant,
            arguments.seed,
            steps=steps,
            results=arguments.results,
            outputs=arguments.outputs,
        )
    except RecordError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
