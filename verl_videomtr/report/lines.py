"""A file of trajectory lines -> records, with what cannot be read counted and not thrown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a file: a record, or what is wrong with it."""

    number: int
    """From 1."""
    record: dict[str, Any] | None
    problem: str = ""


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of `path`; empty ones are passed over, and a line that is no record is yielded as a problem."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                record = json.loads(raw)
            except (ValueError, RecursionError) as error:
                cut = not raw.endswith(b"\n")
                problem = "the line is cut off" if cut else f"no JSON ({' '.join(str(error).split())[:120]})"
                yield Line(number=number, record=None, problem=problem)
                continue
            if isinstance(record, dict) and "sample_id" in record:
                yield Line(number=number, record=record)
            else:
                yield Line(number=number, record=None, problem="no trajectory: it names no sample_id")
