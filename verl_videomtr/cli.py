# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The `videomtr` command: a table of subcommands, each in its own module, imported only when it is used.

A subcommand's module has `add_arguments(parser)` and `run(args) -> int` (the exit code). What a user or a file gets
wrong ends as one line on stderr and exit code 2, Ctrl-C as one line and 130.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence

from verl_videomtr.missing_packages import explain
from verl_videomtr.serving.texts import one_line

COMMANDS = {
    "doctor": ("verl_videomtr.verl_plugin.doctor.command", "say whether a launch would run, and how to fix it"),
    "plan": ("verl_videomtr.verl_plugin.plan_command", "say what a launch would need: tokens, bytes, memory, time"),
    "eval": ("verl_videomtr.evaluation.command", "play a benchmark against a served model and make its tables"),
    "compare": ("verl_videomtr.evaluation.compare_command", "compare two runs over the same questions"),
    "ask": ("verl_videomtr.ask.command", "ask a served model about a video and watch it look"),
    "export": ("verl_videomtr.export.command", "write a checkpoint as a model that servers load, and check it"),
    "report": ("verl_videomtr.report.command", "write a page of what the policy looked at, and why it was paid"),
    "rescore": ("verl_videomtr.rescore_command", "score stored trajectories again, under the same or another reward"),
    "pools": ("verl_videomtr.verl_plugin.pools_command", "fill the frame cache of a launch before it is launched"),
    "frames": ("verl_videomtr.video.frames_command", "show the frames that the policy would see of a video"),
}
"""Name -> (module, one line of help)."""

_LAUNCH = "+videomtr/recipe=paper data.train_files=train.parquet data.val_files=val.parquet videomtr.video.root=/videos"
EXAMPLES = {
    "doctor": f"{_LAUNCH} videomtr/budget=b64",
    "plan": "+videomtr/recipe=paper videomtr/budget=b64 --gpu h100",
    "report": "runs/dump --out page.html",
    "rescore": "runs/dump --set gate=none --out runs/without_gate",
    "pools": f"{_LAUNCH} videomtr.video.cache.dir=/data/pools --workers 16",
    "frames": "talk.mp4 --range 40,55 --sheet closer.png",
}
"""Name -> arguments that its help shows; the other subcommands have an example of their own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a character of a question or a path must not end a command that has done its work.
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="videomtr", description="Video-MTR on verl.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {
        name: subparsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        for name, (_, summary) in COMMANDS.items()
    }
    command = arguments[0] if arguments else ""
    if command not in COMMANDS:
        parser.parse_args(arguments)
        return 2
    try:
        module = importlib.import_module(COMMANDS[command][0])
        module.add_arguments(parsers[command])
        _add_example(parsers[command], command)
        # Overrides may stand before, between and behind options.
        args = parsers[command].parse_intermixed_args(arguments[1:])
        return int(module.run(args))
    except ImportError as error:
        if (reason := explain(error)) is None:
            raise
    except (ValueError, OSError) as error:
        reason = one_line(str(error))
    except KeyboardInterrupt:
        print(f"videomtr {command}: stopped", file=sys.stderr)
        return 130
    print(f"videomtr {command}: {reason}", file=sys.stderr)
    return 2


def _add_example(parser: argparse.ArgumentParser, command: str) -> None:
    """End the help of a subcommand that has no example of its own with one."""
    if command in EXAMPLES:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = f"example:\n  videomtr {command} {EXAMPLES[command]}"


if __name__ == "__main__":
    sys.exit(main())
