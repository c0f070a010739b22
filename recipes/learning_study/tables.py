# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the study, made from the books in the repository: runs, what separates them, seconds per phase, episodes.

    python -m recipes.learning_study.tables runs|claims|gate|difficulty|phases|trajectories

Markdown, as docs/learning.md holds it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from recipes.demo.summary import PHASES
from recipes.learning_study import study
from recipes.learning_study.comparisons import table_of_claims, table_of_difficulty, table_of_gate
from recipes.learning_study.record import HELD_OUT_ACCURACY, RESULTS
from recipes.learning_study.study_run import HELD_OUT, StudyRun, find_run, read_runs, show

OTHER = "waiting and the rest"
"""What no phase of verl's accounts for: fetching the batch, waiting for the replay buffer, checkpoints."""


def table_of_runs(runs: Sequence[StudyRun]) -> Iterator[str]:
    """One line per run: what it came to on the held-out rows."""
    columns = ("run", "seed", "steps", "wall, min", "held-out accuracy before", "after (95% interval)")
    columns += ("turns", "best IoU", "reward")
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for run in runs:
        steps, accuracies = run.series(HELD_OUT_ACCURACY)
        cells = [run.variant, str(run.seed), _steps(run), f"{run.wall_seconds / 60:.0f}"]
        if accuracies:
            low, high = run.held_out_interval(accuracies[-1])
            after = f"{accuracies[-1]:.2f} ({low:.2f}-{high:.2f})"
            cells += [f"{accuracies[0]:.2f}" if steps[0] == 0 else "-", after if len(steps) > 1 else "-"]
        else:
            cells += ["-", "-"]
        for name in ("turns", "best_iou"):
            values = run.series(HELD_OUT.format(name))[1]
            cells.append(f"{values[-1]:.2f}" if values else "-")
        cells.append(show(run.end("videomtr/reward/episode")))
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        f"Without looking where the question points: chance {study.CHANCE}, the best blind sweep {study.BLIND_SWEEP}, "
        f"one look at all {study.FRAME_BUDGET} frames {study.ONE_LOOK} (python -m recipes.learning_study.blind_bound)."
    )


def table_of_phases(run: StudyRun) -> Iterator[str]:
    """Seconds of a step by phase: the median over the run, since a busy machine makes outliers."""
    yield "| phase | seconds, median of steps |"
    yield "|---|---|"
    for name, seconds in phase_seconds([line["data"] for line in run.lines]).items():
        yield f"| {name} | {seconds:.2f} |"


def phase_seconds(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Find the median seconds of each phase, and of what a step takes beside them.

    Args:
        steps: metrics of each step; those that timed no whole step are left out.
    """
    whole = PHASES["whole step"]
    timed = [step for step in steps if whole in step]
    seconds: dict[str, list[float]] = {
        name: [step[key] for step in timed if key in step] for name, key in PHASES.items() if key != whole
    }
    parts = [key for key in PHASES.values() if key != whole]
    seconds[OTHER] = [step[whole] - sum(step.get(key, 0.0) for key in parts) for step in timed]
    seconds["whole step"] = [step[whole] for step in timed]
    return {name: sorted(values)[len(values) // 2] for name, values in seconds.items() if values}


def trajectories(run: StudyRun) -> Iterator[str]:
    """Print the kept examples of the first and the last step, turn by turn."""
    for place, examples in run.facts.get("examples", {}).items():
        for example in examples:
            question = " / ".join(example["question"].splitlines())
            yield f"{place.replace('_', ' ')}: {question} (right: {example['ground_truth']})"
            turns = zip(
                example["frames"], example["responses"], example["retrieval_ious"], example["turn_rewards"], strict=True
            )
            for frames, response, iou, reward in turns:
                found = "" if iou is None else f"  IoU {iou:.2f}"
                yield f"    frames {','.join(map(str, frames))}: {response}{found}  reward {reward:.2f}"
            yield ""


def _steps(run: StudyRun) -> str:
    return str(run.last_step) if run.complete else f"{run.last_step} of {run.steps}"


OF_ALL_RUNS: dict[str, Callable[[Sequence[StudyRun]], Iterator[str]]] = {
    "runs": table_of_runs,
    "claims": table_of_claims,
    "gate": table_of_gate,
    "difficulty": table_of_difficulty,
}
OF_ONE_RUN: dict[str, Callable[[StudyRun], Iterator[str]]] = {
    "phases": table_of_phases,
    "trajectories": trajectories,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.learning_study.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=(*OF_ALL_RUNS, *OF_ONE_RUN), help="which table")
    parser.add_argument(
        "--variant",
        choices=study.VARIANTS,
        default="full",
        help="of `phases` and `trajectories` (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of `phases` and `trajectories` (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the runs' books (default: the repository's)"
    )
    arguments = parser.parse_args(argv)
    runs = read_runs(arguments.results)
    try:
        if arguments.table in OF_ALL_RUNS:
            lines = OF_ALL_RUNS[arguments.table](runs)
        else:
            lines = OF_ONE_RUN[arguments.table](find_run(runs, arguments.variant, arguments.seed))
        text = "\n".join(lines)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
