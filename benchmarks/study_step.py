# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Where a step of the learning study goes, and what leaving out a pass saves: python -m benchmarks.study_step

Runs of the study's full method with verl's own trainer, one after the other: as the study runs, and with the
probabilities that vLLM gave in place of a second computation (verl's rollout_correction.bypass_mode). Images are
counted in the processes that preprocess them, as in `benchmarks.run_images`. Medians over the second half of each run's
steps, when episodes have several turns. Makes the study's videos and base model where they are missing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.run_images import read_records, train_counted
from recipes.demo.main import trainer_environment
from recipes.demo.summary import read_metrics
from recipes.learning_study import study
from recipes.learning_study.run import prepare
from recipes.learning_study.tables import phase_seconds

MODES: dict[str, tuple[str, ...]] = {
    "as the study runs": (),
    "log-probs of vLLM": ("algorithm.rollout_correction.bypass_mode=true",),
}


def run(folder: Path, overrides: Sequence[str], *, steps: int) -> dict[str, float]:
    """Train `steps` steps in `folder`; return the median seconds of each phase and of preprocessing, by place."""
    data, base = prepare()
    command = study.run_command(
        [*study.overrides_of("full", 0, steps=steps), *overrides, "trainer.save_freq=-1", "trainer.test_freq=-1"],
        folder=folder, data=data, base=base, resume=True, steps=steps,
    )  # fmt: skip
    train_counted(folder, command, {**os.environ, **trainer_environment(folder, "cpu")})
    lines = [line.data for line in read_metrics(folder / "metrics.jsonl")]
    seconds = phase_seconds(lines[len(lines) // 2 :])
    for record in read_records(folder / "counts"):
        if record["what"] == "processed":
            name = f"preprocessing in the {record['where']} (CPU, mean of all steps)"
            seconds[name] = seconds.get(name, 0.0) + record["cpu"] / steps
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=20, help="training steps (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        runs = {
            mode: run(Path(name) / str(number), overrides, steps=arguments.steps)
            for number, (mode, overrides) in enumerate(MODES.items())
        }
    print(f"| seconds of a step | {' | '.join(runs)} |")
    print("|---|" + "---|" * len(runs))
    for phase in dict.fromkeys(phase for seconds in runs.values() for phase in seconds):
        cells = (f"{seconds[phase]:.2f}" if phase in seconds else "-" for seconds in runs.values())
        print(f"| {phase} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
