# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Some episodes of a validation as a table with pictures, for the loggers of a training.

Records as a validation makes them -> the same samples each time, by a hash of their names -> one row each. What a
policy, a data set or a file name says is a stranger's text: Markdown is given it with every mark escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from verl_videomtr.report.contact_sheet import draw_sheet
from verl_videomtr.report.episodes import card, detail, read_facts, shorten, video_key
from verl_videomtr.report.sampling import hash_sample
from verl_videomtr.report.thumbnails import read_film, wanted_of
from verl_videomtr.video.decode_workers import DecodeWorkers, WorkerConfig

TEXT_LIMIT = 600
"""Characters of one cell."""
MARKS = re.compile(r"[^\w\s.,?'%]", re.ASCII)
"""What Markdown or HTML may read as more than a letter."""


@dataclass(frozen=True, kw_only=True)
class PicturedEpisode:
    """One episode of the table."""

    sample_id: str
    cells: dict[str, str | float | bool | None]
    """Column -> value, by the table's order."""
    response: str
    """What the policy wrote, turn by turn."""
    picture: Image.Image
    """Its contact sheet."""
    problem: str = ""
    """Why the picture has no frames, where it has none."""


def make_rows(
    records: Iterable[Mapping[str, Any]], number: int, *, run: Mapping[str, Any], workers: WorkerConfig
) -> list[PicturedEpisode]:
    """Make a row of each of `number` samples, of those that were played the first in a hash's order.

    Args:
        run: as run.json has it; its `videomtr` part says where videos and cached frames lie.
        workers: how many videos decode at once, and how long one may take.
    Raises:
        ValueError: a record is not what it should be.
    """
    first: dict[str, Mapping[str, Any]] = {}
    for record in records:
        first.setdefault(str(record["sample_id"]), record)
    chosen = [first[sample] for sample in sorted(first, key=lambda sample: (hash_sample(sample), sample))[:number]]
    decoders = DecodeWorkers(workers)
    try:
        with ThreadPoolExecutor(workers.num_processes) as threads:
            return list(threads.map(lambda record: _make_row(record, run, decoders), chosen))
    finally:
        decoders.close()


def to_markdown(rows: Sequence[PicturedEpisode]) -> str:
    """Write the rows' cells as one Markdown table."""
    names = columns_of(rows)
    lines = [names, ["---"] * len(names), *([_escape(_told(row.cells.get(name))) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns_of(rows: Sequence[PicturedEpisode]) -> list[str]:
    """List the columns that any row has, in order."""
    return list(dict.fromkeys(name for row in rows for name in row.cells))


def _make_row(record: Mapping[str, Any], run: Mapping[str, Any], decoders: DecodeWorkers) -> PicturedEpisode:
    facts = read_facts(record, run=0, phase="validation", file=0, line=0)
    its_card, its_detail = card(record, facts=facts, name=""), detail(record, facts=facts)
    wanted = wanted_of(record, run)
    wanted.indices = sorted({frame for frames in its_card["frames"] for frame in frames})
    film, pixels = read_film(wanted, num_frames=video_key(record)[1], workers=decoders)
    components = {name: value for name, value in its_detail["components"].items() if name != "gate_open"}
    return PicturedEpisode(
        sample_id=facts.sample_id,
        cells={
            "sample": shorten(facts.sample_id, TEXT_LIMIT),
            "question": shorten(its_detail["question"], TEXT_LIMIT),
            "answer": its_card["answer"],
            "right answer": its_card["truth"],
            "right": its_card["right"],
            "reward": its_card["reward"],
            **{f"reward: {name}": value for name, value in components.items()},
            "gate open": its_card["gate"],
            "turns": its_card["turns"],
            "best IoU": its_card["iou"],
            "looked at": "; ".join(f"{ends[0]} to {ends[1]}" for ends in its_card["ranges"] if ends is not None),
        },
        response="\n".join(shorten(turn["response"], TEXT_LIMIT) for turn in its_detail["turn_list"]),
        picture=draw_sheet(its_card, its_detail, film=film, pixels=pixels),
        problem=film.problem,
    )


def _told(value: str | float | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _escape(text: str) -> str:
    return MARKS.sub(lambda mark: f"&#{ord(mark[0])};", " ".join(text.split()))
