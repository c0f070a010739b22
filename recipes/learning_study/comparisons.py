# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What separates two variants that were held to the same questions, and whether the data decide it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from recipes.learning_study.record import WRONG
from recipes.learning_study.study_run import StudyRun, show
from verl_videomtr.evaluation.statistics import Estimate, mean_by_video, mean_of_groups

CLAIMS = (
    ("full", "single_turn"),
    ("full", "no_gate"),
    ("full", "no_turn_reward"),
    ("full_scarce", "no_bootstrapping_scarce"),
    ("full", "no_bootstrapping"),
)
"""(A, B): does A end above B?"""
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Number of seeds -> standard errors to either side of their mean; 95%."""
PAPER_GAINS = {"": 3.8, "single": 7.5, "multi": 8.1, "short": 4.6, "medium": 5.3, "long": 6.3}
"""Points that the paper's policy gains over one look at the same 32 frames, in all and by group (its Key Findings)."""

Pair = tuple[dict[str, Any], dict[str, Any]]


def pair_up(runs: Sequence[StudyRun], less: str, more: str) -> dict[int, list[Pair]]:
    """Pair the held-out results of two variants, question by question, for each seed that both have.

    Raises:
        ValueError: two runs of one seed were not held to the same questions.
    """
    held_out = {(run.variant, run.seed): run.held_out for run in runs if run.held_out}
    pairs = {}
    for seed in sorted({seed for _, seed in held_out}):
        one, other = (held_out.get((variant, seed)) for variant in (less, more))
        if one is None or other is None:
            continue
        if [result["sample"] for result in one] != [result["sample"] for result in other]:
            raise ValueError(
                f"the runs of seed={seed} were held to different questions, {len(one)} and {len(other)}; expected the "
                f"same; {less} and {more}; make both anew"
            )
        pairs[seed] = list(zip(one, other, strict=True))
    return pairs


def gain_over_videos(pairs: Sequence[Pair]) -> Estimate:
    """How much oftener the second of each pair is right, with an interval over videos."""
    gains = [float(more["correct"] - less["correct"]) for less, more in pairs]
    return mean_by_video(gains, [less["video"] for less, _ in pairs])


def gain_over_seeds(gains: Sequence[float]) -> Estimate:
    """The mean of the seeds' differences with Student's interval.

    Raises:
        ValueError: of one seed, or of more than are tabled.
    """
    if len(gains) not in STUDENT:
        raise ValueError(f"{len(gains)} seeds; expected 2 to {max(STUDENT)}")
    mean = statistics.fmean(gains)
    half = STUDENT[len(gains)] * statistics.stdev(gains) / math.sqrt(len(gains))
    return Estimate(value=mean, num=len(gains), low=mean - half, high=mean + half)


def table_of_claims(runs: Sequence[StudyRun]) -> Iterator[str]:
    """Which of two variants ends above the other on the same held-out questions, and whether the data decide it.

    They do where both intervals lie on one side of 0: over videos, which speaks of these policies, and over seeds,
    which speaks of the method.

    Raises:
        ValueError: no two variants have two seeds in common.
    """
    columns = ("A less B", "seeds", "mean", "over videos", "over seeds", "decided")
    rows = []
    for more, less in CLAIMS:
        pairs = pair_up(runs, less, more)
        if len(pairs) < 2:
            continue
        over_videos = gain_over_videos([pair for own in pairs.values() for pair in own])
        by_seed = [gain_over_videos(own).value for own in pairs.values()]
        over_seeds = gain_over_seeds(by_seed)
        cells = [f"{more}, {less}", ", ".join(f"{gain:+.2f}" for gain in by_seed), f"{over_videos.value:+.2f}"]
        cells += [_interval(over_videos), _interval(over_seeds), "yes" if decided(over_videos, over_seeds) else "no"]
        rows.append(f"| {' | '.join(cells)} |")
    if not rows:
        raise ValueError(
            "no two variants were run to their end with two seeds; expected at least one pair of "
            f"{', '.join(f'{more} and {less}' for more, less in CLAIMS)}; python -m recipes.learning_study.run_all"
        )
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    yield from rows


def decided(*estimates: Estimate) -> bool:
    """Whether all intervals lie above 0, or all below."""
    bounds = [(estimate.low, estimate.high) for estimate in estimates]
    above = all(low is not None and low > 0 for low, _ in bounds)
    return above or all(high is not None and high < 0 for _, high in bounds)


def table_of_gate(runs: Sequence[StudyRun]) -> Iterator[str]:
    """With and without the gate where half of the evidence cannot be read, beside what was predicted."""
    columns = ("seed", "", "reward, steps 41-60", "turns on unreadable, 21-60", "pay of a wrong answer, 41-60")
    columns += ("readable right, held out",)
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    known = {(run.variant, run.seed): run for run in runs}
    for seed, pairs in pair_up(runs, "gated", "ungated").items():
        gated, ungated = (_gate_figures(known[variant, seed]) for variant in ("gated", "ungated"))
        for variant, figures in (("gated", gated), ("ungated", ungated)):
            yield f"| {seed} | {variant} | {' | '.join(show(value) for value in figures)} |"
        differences = [
            more - less if less is not None and more is not None else None
            for less, more in zip(gated[:3], ungated[:3], strict=True)
        ]
        change = gain_over_videos([pair for pair in pairs if pair[0]["group"] == "readable"])
        cells = f"{' | '.join(show(value) for value in differences)} | {change.value:+.2f} ({_interval(change)})"
        yield f"| {seed} | without - with | {cells} |"
    yield "| | predicted | at least .25 | at least .3 | at least .4 | not above 0 |"


def _gate_figures(run: StudyRun) -> list[float | None]:
    readable = [result["correct"] for result in run.held_out if result["group"] == "readable"]
    return [
        run.mean("videomtr/reward/episode", 41, 60),
        run.by_group("unreadable", "turns", 21, 60),
        run.by_group(WRONG, "reward", 41, 60),
        statistics.fmean(readable) if readable else None,
    ]


def table_of_difficulty(runs: Sequence[StudyRun]) -> Iterator[str]:
    """What the full method gains over the single look on the same held-out questions, by length and number of details.

    In points, over all pairs of runs with one seed; intervals over videos.

    Raises:
        ValueError: there is no such pair, or its runs were not held to the same questions.
    """
    pairs = pair_up(runs, "single_turn_mixture", "full_mixture")
    if not pairs:
        raise ValueError(
            "no seed has both runs to their end, single_turn_mixture and full_mixture; expected at least one; "
            "python -m recipes.learning_study.run_all --only full_mixture single_turn_mixture makes them"
        )
    both = [pair for own in pairs.values() for pair in own]
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
        rights = [statistics.fmean(100.0 * both[i][side]["correct"] for i in own) for side in (0, 1)]
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


def _points(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.1f}"
    return f"{estimate.value:+.1f} ({estimate.low:+.1f} to {estimate.high:+.1f})"


def _interval(estimate: Estimate) -> str:
    return f"{show(estimate.low)} to {show(estimate.high)}"
