# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of the study, made from the books in the repository.

python -m recipes.learning_study.figures --out docs/figures
python -m recipes.learning_study.figures --out DIR --results recipes/learning_study/results/first_base --only credit
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipes.learning_study import study
from recipes.learning_study.record import HELD_OUT_ACCURACY, RESULTS
from recipes.learning_study.study_run import HELD_OUT, StudyRun, read_runs

matplotlib.use("Agg")

COLOURS = {
    "full": "#0072b2",
    "full_engine_log_probs": "#e69f00",
    "single_turn": "#555555",
    "no_bootstrapping": "#e69f00",
    "full_seldom": "#56b4e9",
    "no_bootstrapping_seldom": "#d55e00",
    "full_unaimed": "#003f7f",
    "no_bootstrapping_unaimed": "#8c5a00",
    "no_bootstrapping_rare": "#f0c000",
    "no_gate": "#d55e00",
    "no_turn_reward": "#009e73",
    "plain_gae": "#cc79a7",
    "literal_credit": "#56b4e9",
    "grpo": "#a6761d",
    "full_firm": "#d55e00",
    "full_scarce": "#0072b2",
    "no_bootstrapping_scarce": "#d55e00",
    "full_mixture": "#0072b2",
    "single_turn_mixture": "#555555",
    "gated": "#0072b2",
    "ungated": "#d55e00",
}
"""Two variants of one colour meet in no figure; seeds differ by line style."""
STYLES = ("-", "--", ":")
SMOOTHING = 5
"""Steps of the running mean that is drawn over what is measured in training."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    key: str
    smooth: bool = True
    """Draw a running mean; False for what is measured on held-out rows, which is drawn with its points."""
    levels: tuple[tuple[float, str], ...] = ()
    """Horizontal lines, such as chance, with their names."""


YIELDS = ((study.CHANCE, "chance"), (study.BLIND_SWEEP, "best blind sweep"))
ACCURACY = Panel(title="accuracy, held-out videos", key=HELD_OUT_ACCURACY, smooth=False, levels=YIELDS)
HELD_OUT_IOU = Panel(title="best IoU, held-out videos", key=HELD_OUT.format("best_iou"), smooth=False)
TRAINING_ACCURACY = Panel(title="accuracy in training", key="videomtr/episode/accuracy", levels=YIELDS)
TURNS = Panel(title="turns per episode", key="videomtr/episode/turns")
RATE = Panel(
    title="retrieval rate of turns",
    key="videomtr/retrieval/rate_of_turns",
    levels=((0.5, "no bonus above"),),
)
REWARD = Panel(title="reward per episode", key="videomtr/reward/episode")
BONUS = Panel(title="bonus of a retrieval", key="videomtr/bootstrap/bonus", smooth=False)
HITS = Panel(title="retrievals that touch the needle", key="videomtr/retrieval/hit_rate")

FIGURES: dict[str, tuple[tuple[str, ...], tuple[Panel, ...]]] = {
    "full": (("full",), (ACCURACY, HELD_OUT_IOU, TURNS, RATE, HITS, BONUS)),
    "engine_log_probs": (("full", "full_engine_log_probs"), (ACCURACY, REWARD, TURNS)),
    "single_turn": (("full", "single_turn"), (ACCURACY, TRAINING_ACCURACY)),
    "no_gate": (("full", "no_gate"), (REWARD, TURNS, TRAINING_ACCURACY, ACCURACY)),
    "no_bootstrapping": (
        ("full", "no_bootstrapping", "full_seldom", "no_bootstrapping_seldom"),
        (TURNS, RATE, ACCURACY),
    ),
    "unaimed": (("full_unaimed", "no_bootstrapping_unaimed", "no_bootstrapping_rare"), (TURNS, RATE, HITS, ACCURACY)),
    "no_turn_reward": (("full", "no_turn_reward"), (ACCURACY, TRAINING_ACCURACY, HELD_OUT_IOU)),
    "credit": (("full", "plain_gae", "literal_credit", "grpo"), (ACCURACY, TRAINING_ACCURACY, TURNS)),
    "firm": (("full", "full_firm"), (ACCURACY, HITS, TURNS)),
    "scarce": (("full_scarce", "no_bootstrapping_scarce"), (TURNS, RATE, ACCURACY)),
    "mixture": (
        ("full_mixture", "single_turn_mixture"),
        (Panel(title=ACCURACY.title, key=ACCURACY.key, smooth=False), TURNS, REWARD),
    ),
    "gate": (("gated", "ungated"), (REWARD, TURNS, Panel(title=TRAINING_ACCURACY.title, key=TRAINING_ACCURACY.key))),
}
"""File name -> (variants, panels)."""
MOST_COLUMNS = 3


def running_mean(values: Sequence[float], width: int = SMOOTHING) -> list[float]:
    """Average each value with those before it, at most `width` in all."""
    return [sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i + 1 - width) : i + 1])]


def draw_figure(runs: Sequence[StudyRun], variants: Sequence[str], panels: Sequence[Panel]) -> Figure:
    """Draw panels in even rows of at most MOST_COLUMNS, one line per run."""
    rows = -(-len(panels) // MOST_COLUMNS)
    columns = -(-len(panels) // rows)
    figure = Figure(figsize=(4.2 * columns, 0.4 + 2.9 * rows), layout="constrained", dpi=110)
    axes_grid = figure.subplots(rows, columns, squeeze=False)
    shown = [run for variant in variants for run in runs if run.variant == variant]
    for place, axes in enumerate(axes_grid.flat):
        if place < len(panels):
            _draw_panel(axes, panels[place], shown)
        else:
            axes.set_visible(False)
    handles, labels = axes_grid.flat[0].get_legend_handles_labels()
    # A column takes as many inches as its longest name and its line.
    widest = 0.09 * max(map(len, labels), default=0) + 0.6
    across = max(1, min(len(labels), int(figure.get_figwidth() / widest)))
    figure.legend(handles, labels, loc="outside upper center", ncols=across, frameon=False)
    return figure


def _draw_panel(axes: Axes, panel: Panel, runs: Sequence[StudyRun]) -> None:
    for run in runs:
        steps, values = run.series(panel.key)
        if not steps:
            continue
        colour, style = COLOURS[run.variant], STYLES[run.seed % len(STYLES)]
        label = f"{run.variant.replace('_', ' ')}, seed {run.seed}"
        if panel.smooth:
            axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
            axes.plot(steps, running_mean(values), style, color=colour, label=label)
        else:
            marker = "o" if len(steps) < 20 else ""
            axes.plot(steps, values, style, color=colour, marker=marker, markersize=4, label=label)
    for level, name in panel.levels:
        axes.axhline(level, color="#999999", linewidth=0.8, linestyle=":")
        axes.annotate(
            name,
            (0.99, level),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color="#777777",
        )
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel("training step", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.learning_study.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the runs' books (default: the repository's)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/figures"), help="folder for the PNG files (default: %(default)s)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=FIGURES, default=list(FIGURES), metavar="NAME", help="these figures (default: all)"
    )
    arguments = parser.parse_args(argv)
    runs = read_runs(arguments.results)
    begun = {run.variant for run in runs}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        variants, panels = FIGURES[name]
        if not begun & set(variants[1:] or variants):
            print(f"{name}: no run of it has begun")
            continue
        path = arguments.out / f"{name}.png"
        # Without its software entry, so that the same figures make the same bytes.
        draw_figure(runs, variants, panels).savefig(path, metadata={"Software": None})
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
