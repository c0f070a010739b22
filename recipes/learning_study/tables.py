# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the study, made from the JSONL in the repository: one line per run, seconds per phase, trajectories.

    python -m recipes.learning_study.tables runs|gate|difficulty|phases|trajectories

Markdown, as docs/learning.md holds it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.demo.summary import PHASES
from recipes.learning_study import study
from recipes.learning_study.record import HELD_OUT_ACCURACY, RESULTS, WRONG, RunRecord, is_complete
from verl_videomtr.evaluation.statistics import Estimate, mean_by_video, mean_of_groups

HELD_OUT = "val-aux/synthetic_needle/{}/mean@1"
OTHER = "waiting and the rest"
"""What no phase of verl's accounts for: fetching the batch, waiting for the replay buffer, checkpoints."""
PAPER_GAINS = {"": 3.8, "single": 7.5, "multi": 8.1, "short": 4.6, "medium": 5.3, "long": 6.3}
"""Points that the paper's policy gains over one look at the same 32 frames, in all and by group (its Key Findings)."""
WINDOW = 10
"""Steps that "at the end" averages, for what is measured in training."""


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """One run's files, read."""

    variant: str
    seed: int
    lines: tuple[dict[str, Any], ...]
    facts: dict[str, Any]

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """The steps that logged a metric, and its values."""
        found = [(line["step"], line["data"][key]) for line in self.lines if key in line["data"]]
        return [step for step, _ in found], [value for _, value in found]

    def end(self, key: str) -> float | None:
        """Mean of a training metric over the last WINDOW steps."""
        values = self.series(key)[1][-WINDOW:]
        return sum(values) / len(values) if values else None

    @property
    def last_step(self) -> int:
        return max((line["step"] for line in self.lines), default=0)

    @property
    def wall_seconds(self) -> float:
        return sum(attempt.get("wall_seconds", 0) for attempt in self.facts.get("attempts", []))

    @property
    def steps(self) -> int:
        """How many it has when it is whole."""
        return study.steps_of(self.variant)

    @property
    def complete(self) -> bool:
        return is_complete(self.lines, self.steps)

    def held_out_interval(self, share: float) -> tuple[float, float]:
        """The interval of the last held-out accuracy: over videos, or over questions where only the share was kept."""
        if results := self.facts.get("held_out"):
            estimate = mean_by_video([r["correct"] for r in results], [r["video"] for r in results])
            if estimate.low is not None and estimate.high is not None:
                return estimate.low, estimate.high
        return wilson(share, study.VARIANTS[self.variant].setting.data_rows["val"])

    def by_group(self, group: str, name: str, first: int, last: int) -> float | None:
        """Mean over the steps from `first` to `last` of what a group's training episodes came to."""
        values = self.facts.get("by_group", {}).get(group, {}).get(name, [])[first - 1 : last]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None


def read_runs(results: Path = RESULTS) -> list[StudyRun]:
    """Read every run of the study that has begun, in the study's order."""
    runs = []
    for variant, seed in study.ORDER:
        record = RunRecord(study.run_name(variant, seed), results)
        if lines := record.lines():
            runs.append(StudyRun(variant=variant, seed=seed, lines=tuple(lines), facts=record.facts()))
    return runs


def wilson(share: float, number: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson interval of a share of `number` independent rows; 95% at the default z."""
    if number < 1 or not 0 <= share <= 1:
        raise ValueError(f"share={share} of number={number}; expected a share of at least one row")
    centre = share + z * z / (2 * number)
    half = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    scale = 1 + z * z / number
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


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
        cells.append(_show(run.end("videomtr/reward/episode")))
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        f"Without looking where the question points: chance {study.CHANCE}, the best blind sweep {study.BLIND_SWEEP}, "
        f"one look at all {study.FRAME_BUDGET} frames {study.ONE_LOOK} (python -m recipes.learning_study.blind_bound)."
    )


def table_of_gate(runs: Sequence[StudyRun]) -> Iterator[str]:
    """With and without the gate where half of the evidence cannot be read, beside what was predicted."""
    columns = ("seed", "", "reward, steps 41-60", "turns on unreadable, 21-60", "pay of a wrong answer, 41-60")
    columns += ("readable right, held out",)
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    pairs = [
        (seed, found[0], found[1])
        for seed in sorted({run.seed for run in runs})
        if len(
            found := [run for name in ("gated", "ungated") for run in runs if (run.variant, run.seed) == (name, seed)]
        )
        == 2
        and all(run.facts.get("held_out") for run in found)
    ]
    for seed, gated, ungated in pairs:
        for run in (gated, ungated):
            yield f"| {seed} | {run.variant} | {' | '.join(_show(value) for value in _gate_figures(run))} |"
        differences = [
            b - a if a is not None and b is not None else None
            for a, b in zip(_gate_figures(gated)[:3], _gate_figures(ungated)[:3], strict=True)
        ]
        both = [
            (a["video"], b["correct"] - a["correct"])
            for a, b in zip(gated.facts["held_out"], ungated.facts["held_out"], strict=True)
            if a["group"] == "readable" and a["sample"] == b["sample"]
        ]
        change = mean_by_video([value for _, value in both], [video for video, _ in both])
        interval = f"{change.value:+.2f} ({_show(change.low)} to {_show(change.high)})"
        yield f"| {seed} | without - with | {' | '.join(_show(value) for value in differences)} | {interval} |"
    yield "| | predicted | at least .25 | at least .3 | at least .4 | not above 0 |"


def _gate_figures(run: StudyRun) -> list[float | None]:
    readable = [result["correct"] for result in run.facts["held_out"] if result["group"] == "readable"]
    return [
        _mean(run.series("videomtr/reward/episode")[1][40:60]),
        run.by_group("unreadable", "turns", 21, 60),
        run.by_group(WRONG, "reward", 41, 60),
        _mean(readable),
    ]


def table_of_difficulty(runs: Sequence[StudyRun]) -> Iterator[str]:
    """What the full method gains over the single look on the same held-out questions, by length and number of details.

    In points, over all pairs of runs with one seed; intervals over videos.

    Raises:
        ValueError: there is no such pair, or its runs were not held to the same questions.
    """
    pairs = _mixture_pairs(runs)
    both = [(one, full) for pair in pairs for one, full in pair]
    videos = [one["video"] for one, _ in both]
    groups = [set(one["group"].split()) for one, _ in both]
    gains = [100.0 * (full["correct"] - one["correct"]) for one, full in both]
    yield f"{len(pairs)} seed{'s' if len(pairs) > 1 else ''}, {len(set(videos))} held-out videos"
    yield ""
    columns = ("questions", "single look", "full", "gain (95% interval)", "the paper's gain")
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for group in (*PAPER_GAINS, *sorted({one["group"] for one, _ in both})):
        own = [i for i, words in enumerate(groups) if set(group.split()) <= words]
        rights = [sum(100.0 * both[i][side]["correct"] for i in own) / len(own) for side in (0, 1)]
        gain = mean_by_video([gains[i] for i in own], [videos[i] for i in own])
        paper = f"{PAPER_GAINS[group]:+.1f}" if group in PAPER_GAINS else "-"
        yield f"| {group or 'all'} | {rights[0]:.1f} | {rights[1]:.1f} | {_points(gain)} | {paper} |"
    for less, more in (("single", "multi"), ("short", "long")):
        own = [i for i, words in enumerate(groups) if words & {less, more}]
        signs = [1 if more in groups[i] else -1 for i in own]
        # Twice the mean of the two groups' means, one of them turned round, is their difference.
        signed = [2 * sign * gains[i] for sign, i in zip(signs, own, strict=True)]
        change = mean_of_groups(signed, [videos[i] for i in own], [str(sign) for sign in signs])
        paper = f"{PAPER_GAINS[more] - PAPER_GAINS[less]:+.1f}"
        yield f"| {more} less {less} | | | {_points(change)} | {paper} |"


def _mixture_pairs(runs: Sequence[StudyRun]) -> list[list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Pair the held-out results of the single look and of the full method, question by question, for each seed."""
    held_out: dict[tuple[str, int], list[dict[str, Any]]] = {
        (run.variant, run.seed): run.facts["held_out"] for run in runs if run.facts.get("held_out")
    }
    pairs = []
    for seed in sorted({seed for _, seed in held_out}):
        one, full = (held_out.get((variant, seed)) for variant in ("single_turn_mixture", "full_mixture"))
        if one is None or full is None:
            continue
        if [result["sample"] for result in one] != [result["sample"] for result in full]:
            raise ValueError(
                f"the runs of seed={seed} were held to different questions, {len(one)} and {len(full)}; expected the "
                "same; single_turn_mixture and full_mixture; make both anew"
            )
        pairs.append(list(zip(one, full, strict=True)))
    if not pairs:
        raise ValueError(
            "no seed has both runs to their end, single_turn_mixture and full_mixture; expected at least one; "
            "python -m recipes.learning_study.run_all --only full_mixture single_turn_mixture makes them"
        )
    return pairs


def _points(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.1f}"
    return f"{estimate.value:+.1f} ({estimate.low:+.1f} to {estimate.high:+.1f})"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


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


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def find_run(runs: Sequence[StudyRun], variant: str, seed: int) -> StudyRun:
    """Raise ValueError where there is no such run."""
    for run in runs:
        if (run.variant, run.seed) == (variant, seed):
            return run
    raise ValueError(f"no run {study.run_name(variant, seed)}; expected one of {[r.variant for r in runs]}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.learning_study.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=("runs", "gate", "difficulty", "phases", "trajectories"), help="which table")
    parser.add_argument(
        "--variant",
        choices=study.VARIANTS,
        default="full",
        help="of `phases` and `trajectories` (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of `phases` and `trajectories` (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the runs' JSONL (default: the repository's)"
    )
    arguments = parser.parse_args(argv)
    runs = read_runs(arguments.results)
    try:
        if arguments.table == "runs":
            lines = table_of_runs(runs)
        elif arguments.table == "gate":
            lines = table_of_gate(runs)
        elif arguments.table == "difficulty":
            lines = table_of_difficulty(runs)
        else:
            run = find_run(runs, arguments.variant, arguments.seed)
            lines = table_of_phases(run) if arguments.table == "phases" else trajectories(run)
        text = "\n".join(lines)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
