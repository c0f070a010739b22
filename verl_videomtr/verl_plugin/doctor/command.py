# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr doctor [overrides...]`: the report on stdout; exit code 0 without errors, 1 with, 2 if nothing composes."""

from __future__ import annotations

import argparse
import sys
import time

from verl_videomtr.verl_plugin.doctor.examine import examine
from verl_videomtr.verl_plugin.doctor.findings import Level, as_json, exit_code, remedies, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        help="Hydra overrides, the ones that main_ppo will get: +videomtr=paper +videomtr/budget=b64 ...",
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="errors and warnings only")
    parser.add_argument(
        "--elsewhere",
        action="store_true",
        help="the run will start on another machine: leave out what depends on this one",
    )


def run(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    findings = examine(arguments.overrides, elsewhere=arguments.elsewhere)
    seconds = time.monotonic() - started
    if arguments.json:
        sys.stdout.write(as_json(findings, seconds=seconds) + "\n")
        return exit_code(findings)
    shown = (Level.ERROR, Level.WARNING) if arguments.quiet else tuple(Level)
    order = list(Level)
    lines = [
        finding.line() for finding in sorted(findings, key=lambda f: order.index(f.level)) if finding.level in shown
    ]
    last = [summary(findings, seconds=seconds), remedies(findings)]
    sys.stdout.write("\n".join([*lines, *filter(None, last)]) + "\n")
    return exit_code(findings)
