# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The sweep: every run of the study, one after the other, most telling first; what is complete is skipped.

    python -m recipes.learning_study.run_all [--only VARIANT ...] [--max-minutes 60]

Stopped at any point, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from recipes.demo.main import stop
from recipes.learning_study import study
from recipes.learning_study.record import RESULTS, RunRecord, is_complete
from recipes.learning_study.run import interrupt


def runs_left(results: Path = RESULTS, *, steps: int | None = None) -> list[tuple[str, int]]:
    """List the runs that are not complete, in the study's order."""
    return [
        (variant, seed)
        for variant, seed in study.ORDER
        if not is_complete(RunRecord(study.run_name(variant, seed), results).lines(), steps or study.steps_of(variant))
    ]


def sweep(left: Sequence[tuple[str, int]], play: Callable[[str, int], int], *, seconds: float) -> list[str]:
    """Play runs until none is left or the time is up; return the names of those that failed.

    Args:
        play: makes one run and returns its exit code. A run that is not interrupted is played to its end.
        seconds: no run begins later than this.
    """
    began = time.monotonic()
    failed = []
    for number, (variant, seed) in enumerate(left):
        if time.monotonic() - began >= seconds:
            print(f"the time is up: {len(left) - number} runs are left")
            break
        if play(variant, seed):
            failed.append(study.run_name(variant, seed))
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.learning_study.run_all",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="no run begins later than this")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=study.VARIANTS,
        default=list(study.VARIANTS),
        metavar="VARIANT",
        help="these variants alone (default: all)",
    )
    arguments = parser.parse_args(argv)
    wanted = [run for run in study.ORDER if run[0] in arguments.only]
    left = [run for run in runs_left() if run in wanted]
    print(f"{len(wanted) - len(left)} of {len(wanted)} runs are complete", flush=True)

    def play(variant: str, seed: int) -> int:
        process = subprocess.Popen([sys.executable, "-m", "recipes.learning_study.run", variant, "--seed", str(seed)])
        try:
            return process.wait()
        finally:
            stop(process, wait_seconds=120)  # the run ends its trainer first

    signal.signal(signal.SIGTERM, interrupt)
    try:
        failed = sweep(left, play, seconds=60 * arguments.max_minutes)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
