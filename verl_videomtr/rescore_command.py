# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr rescore DIR [--preset NAME] [--set FIELD=VALUE ...] --out NEW`: stored lines under another reward."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from verl_videomtr.rescore import rescore, say
from verl_videomtr.rewards import PRESETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of videomtr.dump.dir, or of an evaluation")
    parser.add_argument("--out", type=Path, required=True, metavar="NEW", help="new folder for the lines")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), help="score with this preset, whatever the run had (default: the run's)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="changes",
        help="another value of one argument of the reward function, such as gate=none; may be given again",
    )


def run(args: argparse.Namespace) -> int:
    """Score anew and print what changed.

    Returns:
        1 where a stored line is not what its responses give or, with the reward unchanged, what its reward gives.
    """
    changes = dict(map(read_change, args.changes))
    summary = asyncio.run(rescore(args.folder, args.out, preset=args.preset, changes=changes))
    sys.stdout.write("\n".join([*say(summary), f"written to {args.out}"]) + "\n")
    is_same_reward = summary.reward == summary.reward_before
    return int(bool(summary.not_replayed or (is_same_reward and summary.num_changed)))


def read_change(text: str) -> tuple[str, Any]:
    """Read FIELD=VALUE; a value that is no JSON is a text.

    Raises:
        ValueError: there is no field or no value.
    """
    name, found, value = text.partition("=")
    if not (name and found and value):
        raise ValueError(f"--set {text}; expected FIELD=VALUE, such as --set gate=none")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
