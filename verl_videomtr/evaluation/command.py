# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr eval`: a file of questions played against a served model, and the tables of its benchmarks.

Given trajectory lines in place of questions, it makes the same tables of what has been played before.

videomtr eval data/videomme.parquet --out runs/videomme videomtr.video.root=/videos +videomtr/budget=b32
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from verl_videomtr.evaluation.drift import count_drift, say_drift, say_first
from verl_videomtr.evaluation.official import write_official
from verl_videomtr.evaluation.playing import Admission, Table, play_all
from verl_videomtr.evaluation.reading import read_played
from verl_videomtr.evaluation.rendering import markdown, to_csv, to_json
from verl_videomtr.evaluation.results import Result, result_of
from verl_videomtr.evaluation.run_file import RunError, describe_run, open_run, say_run
from verl_videomtr.evaluation.setup import Questions, Setup, compose_setup, read_questions
from verl_videomtr.evaluation.tables import reports
from verl_videomtr.serving.arguments import KEY_NOTE, add_server_arguments, open_servers
from verl_videomtr.serving.journal import Journal, SharedJournal
from verl_videomtr.serving.pictures import PictureService
from verl_videomtr.subtitles import Subtitles, read_subtitles
from verl_videomtr.trajectory_files import EVAL_FILE, RUN_FILE, replace_file, write_file, write_run
from verl_videomtr.video.service import FrameService

JOURNAL = "journal.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "example: videomtr eval data/mlvu.parquet --out runs/mlvu --export videomtr.video.root=/videos "
        f"+videomtr/budget=b32; docs/evaluate.md says what comes out. {KEY_NOTE}"
    )
    parser.add_argument(
        "data",
        type=Path,
        metavar="FILE.parquet",
        help="rows of data_prep.benchmark, or your own; or a dump folder of training, whose last validation is tabled",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="as for training, e.g. videomtr.video.root=/videos"
    )
    add_server_arguments(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the run's folder; given again, it goes on"
    )
    parser.add_argument("--concurrency", type=int, default=64, metavar="N", help="episodes in flight (default: 64)")
    parser.add_argument(
        "--max-gib",
        type=float,
        default=8.0,
        metavar="GIB",
        help="disk space below TMPDIR for the encoded pictures of episodes in flight, 2 to 5 MB each with 32 frames; "
        "fewer are in flight where it is not enough (default: 8)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="play the first N rows only")
    parser.add_argument(
        "--single-turn", action="store_true", help="the uniform baseline: all frames of the budget at once, one answer"
    )
    parser.add_argument(
        "--subtitles",
        type=Path,
        metavar="DIR",
        help="tell the subtitles of the frames shown, from DIR's .srt files, named as the videos (default: none)",
    )
    parser.add_argument("--export", action="store_true", help="write each benchmark's official answer file too")


def run(args: argparse.Namespace) -> int:
    """Play, write the tables, and print them.

    Raises:
        ValueError: a setting, a file or a server breaks a rule; the message says which.
    """
    for name in ("concurrency", "max_gib", "limit"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} {value}; expected more than 0, and a finite number")
    if args.data.is_dir() or args.data.suffix == ".jsonl":
        return _table_what_was_played(args)
    setup = compose_setup(args.overrides, single_turn=args.single_turn)
    questions = read_questions(args.data, root=setup.settings.video.root, limit=args.limit)
    subtitles = None if args.subtitles is None else read_subtitles(args.subtitles, questions.samples)
    try:
        lines, described = asyncio.run(play_questions(setup, questions, subtitles, args))
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on, answers so far are kept", file=sys.stderr)
        return 130
    _write(args, setup, questions, lines, described)
    return 0


async def play_questions(
    setup: Setup, questions: Questions, subtitles: Subtitles | None, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Play everything; return the lines, and the run's description with what was counted."""
    video = setup.settings.video
    frames = FrameService(
        config=video.pool, cache=video.cache.open(), workers=video.workers, max_open_pools=video.open_pools
    )
    pictures = PictureService(frames, image_format=args.image_format)
    try:
        async with AsyncExitStack() as stack:
            clients, endpoints = await open_servers(args, stack, num_turns=setup.settings.episode.max_turns)
            described = describe_run(setup, questions, endpoints, image_format=args.image_format, subtitles=subtitles)
            with Journal(args.out / JOURNAL) as journal:
                open_run(args.out, described, num_answers=len(journal.entries))
                table = Table(
                    setup=setup,
                    clients=clients,
                    endpoints=endpoints,
                    pictures=pictures,
                    journal=SharedJournal(journal),
                    subtitles=subtitles,
                )
                # What is there by now stays: a full collection would look at all of it again, a tenth of a second each.
                gc.freeze()
                admission = Admission(max_episodes=args.concurrency, max_bytes=int(args.max_gib * 2**30))
                lines = await _with_progress(questions, table, admission)
                described["drift"] = count_drift(journal.entries)
        return lines, described
    finally:
        pictures.close()
        frames.close()


async def _with_progress(questions: Questions, table: Table, admission: Admission) -> list[dict[str, Any]]:
    counts: Counter[str] = Counter()
    interval = 0.5 if sys.stderr.isatty() else 30.0
    with tqdm(total=len(questions.samples), desc="episodes", unit="ep", mininterval=interval) as bar:

        def done(line: dict[str, Any]) -> None:
            counts["done"] += 1
            counts["right"] += bool(line.get("correct"))
            counts["failed"] += line["status"] == "lost"
            accuracy = f"accuracy {counts['right'] / counts['done']:.3f} " if questions.has_answers else ""
            bar.set_postfix_str(
                f"{accuracy}failed {counts['failed']} in flight {admission.num_episodes}", refresh=False
            )
            bar.update()

        return await play_all(questions.samples, table, admission=admission, done=done)


def _write(
    args: argparse.Namespace,
    setup: Setup,
    questions: Questions,
    lines: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
) -> None:
    """Write everything that follows from the journal, and print the tables."""
    drift = run["drift"]
    line = say_run(run, drift=say_drift(drift, max_turns=setup.settings.episode.max_turns))
    by_id = {sample.sample_id: sample for sample in questions.samples}
    results = [result_of(each, by_id[each["sample_id"]]) for each in lines]
    write_file(args.out / EVAL_FILE, lines)
    write_run(args.out, run)
    # The paper played without subtitles: its rows would stand beside numbers of another task.
    frame_budget = None if run["subtitles"] is not None else setup.settings.episode.frame_budget
    _write_tables(args.out, results, line=line, frame_budget=frame_budget)
    if drift["first"] is not None:
        print(say_first(drift["first"]))
    if args.export:
        answers = {each["sample_id"]: each["episode"]["answer"] for each in lines if each["status"] == "played"}
        for path in write_official(args.out, questions.samples, answers):
            print(f"official answers: {path}")
    print(f"everything: {args.out}")


def _table_what_was_played(args: argparse.Namespace) -> int:
    """Make the tables of trajectory lines, such as a validation that verl's trainer has dumped."""
    asked = {
        "OVERRIDE": args.overrides, "--limit": args.limit, "--single-turn": args.single_turn,
        "--subtitles": args.subtitles, "--export": args.export,
    }  # fmt: skip
    if given := [name for name, value in asked.items() if value]:
        raise ValueError(
            f"{', '.join(given)}; expected none with what was played before: nothing is played anew; {args.data}; "
            "leave that out, or give the file of questions"
        )
    played = read_played(args.data)
    if (args.out / RUN_FILE).exists() and args.out.resolve() != played.path.parent.resolve():
        raise RunError(
            f"the folder holds a run of its own; expected its tables there, or a new folder; {args.out}; give another "
            "--out"
        )
    line = f"played before: {played.path}, {len(played.results)} episodes"
    if played.num_cut:
        line += "; its last line was cut off and is left out"
    _write_tables(args.out, played.results, line=line, frame_budget=played.frame_budget)
    return 0


def _write_tables(out: Path, results: Sequence[Result], *, line: str, frame_budget: int | None) -> None:
    tables = reports(results, frame_budget=frame_budget)
    text = markdown(tables, line=line)
    files = {"report.md": text, "report.csv": to_csv(tables), "report.json": to_json(tables, line=line)}
    for name, content in files.items():
        # A group's value comes from the data: half a character in one must not cost the table.
        replace_file(out / name, content.encode(errors="replace"))
    print(text)
