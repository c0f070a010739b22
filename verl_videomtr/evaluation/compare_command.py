# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr compare`: two runs over the same questions, paired by question.

videomtr compare runs/single_turn runs/three_turns
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from verl_videomtr.evaluation.benchmarks import counting
from verl_videomtr.evaluation.comparison import Difference, compare, unpaired
from verl_videomtr.evaluation.reading import Played, read_played
from verl_videomtr.evaluation.rendering import MAX_GROUP_ROWS, table
from verl_videomtr.evaluation.run_file import changes
from verl_videomtr.serving.texts import one_line
from verl_videomtr.trajectory_files import replace_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: videomtr compare runs/single_turn runs/three_turns --json difference.json"
    what = "a folder of `videomtr eval`, a dump folder of a training run (its last validation), or a .jsonl file"
    parser.add_argument("first", type=Path, metavar="A", help=what)
    parser.add_argument("second", type=Path, metavar="B", help="the same; differences are B - A")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, unrounded")


def run(args: argparse.Namespace) -> int:
    """Compare and print.

    Raises:
        ValueError: a run cannot be read, or the two share no question.
    """
    first, second = read_played(args.first), read_played(args.second)
    found = compare(first.results, second.results)
    print("\n".join(_lines(found, first, second)))
    if args.json is not None:
        plain = {source: [dataclasses.asdict(each) for each in differences] for source, differences in found.items()}
        replace_file(args.json, (json.dumps(plain, indent=2) + "\n").encode())
    return 0


def _lines(found: Mapping[str, Sequence[Difference]], first: Played, second: Played) -> list[str]:
    lines = [f"A: {first.path}", f"B: {second.path}"]
    unknown = [name for played, name in ((first, "A"), (second, "B")) if not played.run]
    if unknown:
        lines.append(
            f"{' and '.join(unknown)} without run.json: whether the settings are the same is not known, and only then "
            "does a difference say something"
        )
    elif differs := changes(first.run, second.run):
        lines += ["settings that differ (A -> B):", *(one_line(f"- {each}") for each in differs)]
    alone = unpaired(first.results, second.results)
    if any(alone):
        lines.append(f"not compared: {alone[0]} questions that only A has, {alone[1]} that only B has")
    for played, name in ((first, "A"), (second, "B")):
        if failed := sum(result.failure is not None for result in played.results):
            lines.append(f"{name} has {failed} failed episodes; they count as wrong")
        if drifted := (played.run.get("drift") or {}).get("episodes_drifted"):
            lines.append(f"{name} drifted in {drifted} episodes; it is NOT COMPARABLE (docs/evaluate.md)")
    for source, differences in found.items():
        lines += ["", f"## {one_line(counting(source).title)}", ""]
        shown = differences if len(differences) <= 1 + MAX_GROUP_ROWS else differences[:1]
        lines += table([_head(), *(_row(difference) for difference in shown)])
        if len(shown) < len(differences):
            lines.append(f"{len(differences) - 1} groups more, with --json FILE")
    return lines


def _head() -> list[str]:
    return [
        "questions",
        "number",
        "A, %",
        "B, %",
        "B - A, points [95% by video]",
        "only A right",
        "only B right",
        "McNemar p",
    ]


def _row(difference: Difference) -> list[str]:
    change = difference.change
    interval = (
        "" if change.low is None or change.high is None else f" [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    )
    return [
        difference.name,
        str(change.num),
        f"{100 * difference.first:.1f}",
        f"{100 * difference.second:.1f}",
        f"{100 * change.value:+.1f}{interval}",
        str(difference.only_first),
        str(difference.only_second),
        f"{difference.p_value:.3g}",
    ]
