# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The whole way of a report: runs -> facts of all -> chosen episodes -> thumbnails within the size -> the page."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_videomtr.report import curves, statistics
from verl_videomtr.report.collect import Collection, collect
from verl_videomtr.report.episodes import Facts, card, detail, plain, read_facts, video_key
from verl_videomtr.report.page import CHUNK_EPISODES, Block, block, chunk_blocks
from verl_videomtr.report.sampling import choose
from verl_videomtr.report.sources import Run, find_runs
from verl_videomtr.report.thumbnails import Film, VideoKey, Wanted, make_thumbnails, wanted_of
from verl_videomtr.trajectory_files import read_lines

MAX_EPISODES = 2_000
"""Episodes of a page of one file."""
MAX_BYTES = 29_000_000
"""Bytes of a page of one file, so that it stays under 30 MB."""
MAX_TEXT_BYTES = 16_000_000
"""Of these, for the episodes' texts; fewer episodes are shown where they need more."""
FULL_FRAME_BYTES = 2_000_000_000
"""Bytes of the thumbnails of a folder."""
MAX_SETS = 12
"""Sets of a run that get a table: its evaluations, or its first and last validations."""
FILM_BLOCK_CHARACTERS = 400_000
"""Thumbnails that are read together."""

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(kw_only=True)
class Report:
    """What was made, for the command line to say."""

    blocks: list[Block]
    title: str
    num_read: int
    num_shown: int
    notes: list[str] = field(default_factory=list)


def build(
    paths: Sequence[str | Path], *, progress: Progress, video_root: Path | None = None, full: bool = False,
    follow_seconds: int | None = None,
) -> Report:  # fmt: skip
    """Make the blocks of a report.

    Args:
        progress: wraps an iteration: (iterable, its length, what it does) -> iterable.
        video_root: where relative video paths are looked for; None takes each run's own root.
        full: every episode and every frame, for a folder.
        follow_seconds: how often the page is made again; None for a page that stays.
    Raises:
        FileNotFoundError, ValueError: see `find_runs`.
    """
    runs = find_runs(paths)
    found = collect(runs, lambda items, number: progress(items, number, "reading lines"))
    sets = _sets(found)
    flips = _flips(sets)
    first = {sample for flip in flips for sample in (*flip["gained"], *flip["dropped"])}
    chosen = list(found.facts) if full else choose(found.facts, MAX_EPISODES, first=first)
    cards, details, wanted = _read_chosen(runs, chosen, video_root=video_root)
    if not full and (kept := _fitting(cards, details)) < len(cards):
        chosen = choose(chosen, kept, first=first)
        cards, details, wanted = _read_chosen(runs, chosen, video_root=video_root)
    text_blocks = list(chunk_blocks("episodes", details, CHUNK_EPISODES))
    films_at = {key: number for number, key in enumerate(wanted)}
    for item in cards:
        item["film"] = films_at.get(item.pop("video"))
    index: dict[str, Any] = {
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "follow_seconds": follow_seconds,
        "full": full,
        "num_read": len(found.facts),
        "runs": [_run_page(found, number) for number in range(len(runs))],
        "charts": curves.make_charts(found.series),
        "heat": [
            {"run": run, "phase": phase, "rows": rows}
            for (run, phase), heat in found.heat.items()
            if (rows := heat.rows())
        ],
        "sets": [{**about, "rows": statistics.make_table(facts)} for about, facts in sets],
        "flips": flips,
        "chunk": CHUNK_EPISODES,
        "cards": _columns(cards),
    }
    room = FULL_FRAME_BYTES if full else MAX_BYTES - sum(len(item.json) for item in text_blocks) - 2_000_000
    room -= 0 if full else len(block("index", index).json)
    films, left_out = make_thumbnails(
        wanted, budget_bytes=max(0, room), progress=lambda items, number: progress(items, number, "reading frames")
    )
    film_blocks, index["film_blocks"] = _film_blocks([films[key] for key in wanted])
    index["frames_left_out"] = left_out
    index["notes"] = _notes(found, films.values(), num_shown=len(cards), left_out=left_out)
    title = " / ".join(run.name for run in runs[:4])
    return Report(
        blocks=[block("index", index), *text_blocks, *film_blocks],
        title=title,
        num_read=len(found.facts),
        num_shown=len(cards),
        notes=index["notes"],
    )


def _notes(found: Collection, films: Iterable[Film], *, num_shown: int, left_out: int) -> list[str]:
    """Say what the page does not show, most important first."""
    notes = []
    if num_shown < len(found.facts):
        notes.append(
            f"{num_shown:,} of {len(found.facts):,} episodes are shown, whole groups from every step; "
            "curves and tables cover all of them (--full writes a folder with all)"
        )
    notes += [note for run in found.runs for note in run.notes]
    if gone := [film.problem for film in films if film.problem]:
        notes.append(f"videos without pictures: {len(gone)}; the first: {gone[0]}")
    if left_out:
        notes.append(f"{left_out:,} thumbnails are left out to keep the page small (--full has them)")
    return notes


def _read_chosen(
    runs: Sequence[Run], chosen: Sequence[Facts], *, video_root: Path | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[VideoKey, Wanted]]:
    """Read the chosen lines again: their cards, their details, and the frames that they show."""
    cards: list[dict[str, Any]] = []
    details: list[dict[str, Any]] = []
    wanted: dict[VideoKey, Wanted] = {}
    for (run, place), facts in itertools.groupby(chosen, key=lambda fact: (fact.run, fact.file)):
        by_line = {fact.line: fact for fact in facts}
        file = runs[run].files[place]
        for line in read_lines(file.path):
            fact = by_line.get(line.number)
            if fact is None or line.record is None or not _is_still(line.record, fact):
                continue
            # The name stays the same when the page is made again from a run that has gone on.
            item = card(line.record, facts=fact, name=f"{run}.{file.phase[0]}.{file.path.stem}.{line.number}")
            key = item["video"] = video_key(line.record)
            cards.append(item)
            details.append(detail(line.record, facts=fact))
            if key[0] and key[1]:
                want = wanted.setdefault(key, wanted_of(line.record, runs[run].settings, video_root=video_root))
                want.indices += [i for frames in item["frames"] for i in frames if i not in want.indices]
    return cards, details, wanted


def _is_still(record: Mapping[str, Any], fact: Facts) -> bool:
    """Tell whether a line says what it said when it was read first: a run that goes on may have written it anew."""
    try:
        now = read_facts(record, run=fact.run, phase=fact.phase, file=fact.file, line=fact.line)
    except ValueError:
        return False
    return repr(now) == repr(fact)  # NaN equals nothing


def _fitting(cards: Sequence[Mapping[str, Any]], details: Sequence[Mapping[str, Any]]) -> int:
    """How many of the episodes may be shown if their texts are to fit."""
    size = sum(len(block("", item).json) for item in details)
    return len(cards) if size <= MAX_TEXT_BYTES else max(1, int(len(cards) * MAX_TEXT_BYTES / size))


def _columns(cards: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Turn rows into columns: names once, not thousands of times."""
    return {name: [item[name] for item in cards] for name in (cards[0] if cards else ())}


def _run_page(found: Collection, number: int) -> dict[str, Any]:
    run = found.runs[number]
    facts = [fact for fact in found.facts if fact.run == number]
    return {
        "name": run.name[:200],
        "path": str(run.path)[:500],
        "metrics": str(run.metrics_files[-1])[:500] if run.metrics_files else None,
        "episodes": len(facts),
        "lost": sum(fact.right is None for fact in facts),
        "unread": found.unread[number],
        "left_out": run.left_out,
        "settings": [[name[:200], str(value)[:500]] for name, value in _flat(run.settings)][:400],
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _sets(found: Collection) -> list[tuple[dict[str, Any], list[Facts]]]:
    """List what tables are made of: each evaluation, and each run's validations and last training step."""
    sets = []
    for number, run in enumerate(found.runs):
        facts = [fact for fact in found.facts if fact.run == number]
        for phase, part in statistics.group_by(facts, lambda fact: fact.phase).items():
            steps = statistics.group_by(part, lambda fact: fact.step)
            names = sorted(steps, key=lambda step: -1 if step is None else step)
            names = names[-1:] if phase == "training" else [*names[:1], *names[1:][-MAX_SETS:]]
            for step in names:
                label = f"{run.name}: {phase}" + ("" if step is None else f", step {step}")
                sets.append(({"run": number, "phase": phase, "step": step, "label": label[:300]}, steps[step]))
    return sets


def _flips(sets: Sequence[tuple[dict[str, Any], list[Facts]]]) -> list[dict[str, Any]]:
    """Compare sets that were played on the same samples: two runs' last ones, and a run's first and last."""
    held_out = [number for number, (about, _) in enumerate(sets) if about["phase"] != "training"]
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number in held_out:
        first.setdefault(sets[number][0]["run"], number)
        last[sets[number][0]["run"]] = number
    pairs = [(first[run], last[run]) for run in last if first[run] != last[run]]
    pairs += list(itertools.combinations(last.values(), 2))[:MAX_SETS]
    flips = []
    for left, right in pairs:
        compared = statistics.compare_sets(sets[left][1], sets[right][1])
        if compared is not None:
            flips.append({"first": left, "second": right, **compared})
    return flips


def _film_blocks(films: Sequence[Film]) -> tuple[list[Block], list[int]]:
    """Write films into blocks; return them and the number of the first film of each."""
    blocks: list[Block] = []
    starts: list[int] = []
    waiting: list[dict[str, Any]] = []
    characters = 0
    for number, film in enumerate(films):
        if not waiting:
            starts.append(number)
        waiting.append(
            {
                "times": film.times_seconds and [plain(round(time, 3)) for time in film.times_seconds],
                "duration": plain(film.duration_seconds),
                "frames": film.frames,
                "problem": film.problem,
            }
        )
        characters += sum(map(len, film.frames.values())) + 500
        if characters > FILM_BLOCK_CHARACTERS or number == len(films) - 1:
            blocks.append(block(f"films{len(blocks)}", waiting))
            waiting, characters = [], 0
    return blocks, starts
