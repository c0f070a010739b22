# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr report PATH [PATH ...] --out FILE.html`: what the policy looked at, and why it was paid."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from verl_videomtr.report.build import Report, build
from verl_videomtr.report.page import write_folder, write_page
from verl_videomtr.report.sources import find_runs

FOLLOW_SECONDS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH",
        help="a folder of trajectory lines, or one file of them; several are compared",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.html", help="the page to write")
    parser.add_argument("--full", action="store_true", help="write a folder with every episode, in place of one file")
    parser.add_argument("--video-root", type=Path, metavar="DIR", help="where relative video paths lie")
    parser.add_argument(
        "--follow", action="store_true", help="make the page again whenever its lines grow, until Ctrl-C"
    )


def run(args: argparse.Namespace) -> int:
    """Write the report, once or again and again.

    Raises:
        FileNotFoundError, ValueError: a path is missing or holds no lines.
    """
    if args.full == (args.out.suffix.lower() in (".html", ".htm")):
        expected = "a folder's name with --full" if args.full else "a name that ends in .html, or --full for a folder"
        raise ValueError(f"--out {args.out}; expected {expected}")
    if not args.follow:
        _make(args)
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        _follow(args)
    return 0


def _follow(args: argparse.Namespace) -> None:
    """Make the page whenever lines change; what is missing for a while, as when a run starts anew, is waited for."""
    if missing := [str(path) for path in args.paths if not path.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)} does not exist; expected a run's folder; start the run first")
    before: object = None
    said = ""
    while True:
        try:
            now = _stamp(args.paths)
            if now != before:
                _make(args)
                before = now
            said = ""
        except (OSError, ValueError) as error:
            if (problem := str(error)) != said:
                print(f"{problem}\nnext look in {FOLLOW_SECONDS} s; Ctrl-C ends", file=sys.stderr, flush=True)
            said = problem
        time.sleep(FOLLOW_SECONDS)


def _make(args: argparse.Namespace) -> Report:
    report = build(
        args.paths,
        progress=_progress,
        video_root=args.video_root,
        full=args.full,
        follow_seconds=FOLLOW_SECONDS if args.follow else None,
    )
    write = write_folder if args.full else write_page
    size = write(args.out, report.blocks, title=report.title)
    for note in report.notes:
        print(f"note: {note}")
    shown = args.out / "index.html" if args.full else args.out
    print(f"{report.num_shown:,} of {report.num_read:,} episodes, {size / 1e6:.1f} MB: {shown}", flush=True)
    return report


def _stamp(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """What changes when a run writes: every file's size and time."""
    stamp = []
    for found in find_runs(list(paths)):
        for path in [*(file.path for file in found.files), *found.metrics_files]:
            status = path.stat()
            stamp.append((str(path), status.st_size, status.st_mtime_ns))
    return stamp


def _progress(items: Iterable[Any], number: int, what: str) -> Iterable[Any]:
    return tqdm(items, total=number, desc=what, file=sys.stderr, disable=None, leave=False, delay=1.0)
