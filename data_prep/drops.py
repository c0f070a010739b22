# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What did not become a sample, and why: every record of a source is either written or listed here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from verl_videomtr.sample import Sample, SampleError, replacing

Record = TypeVar("Record")


class Dropped(Exception):
    """Raised while one record is read: it cannot become a sample.

    `reason` is one of a few fixed texts, so that drops can be counted; `detail` holds what is particular to the record.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(kw_only=True)
class DropList:
    """Records that were left out, in the order they were met."""

    entries: list[dict[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, record_id: str, dropped: Dropped) -> None:
        self.entries.append({"id": record_id, "reason": dropped.reason, "detail": dropped.detail})

    def counts(self) -> dict[str, int]:
        """Number of records per reason, most frequent first."""
        counts: dict[str, int] = {}
        for entry in self.entries:
            counts[entry["reason"]] = counts.get(entry["reason"], 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def ids(self, reason: str) -> list[str]:
        return [entry["id"] for entry in self.entries if entry["reason"] == reason]

    def write(self, path: Path) -> None:
        """Write one JSON line per dropped record; remove an older list if there is nothing to list."""
        if not self.entries:
            path.unlink(missing_ok=True)
            return
        with replacing(path) as beside:
            beside.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries), "utf-8")


def collect(
    records: Iterable[Record],
    *,
    name: Callable[[Record], str],
    make: Callable[[Record], Sample],
    drops: DropList,
) -> list[Sample]:
    """Make a sample of every record that allows it, numbered from 0; list the others."""
    samples: list[Sample] = []
    first: dict[str, int] = {}
    for record_idx, record in enumerate(records):
        try:
            sample = replace(make(record), index=len(samples))
            if sample.sample_id.endswith("/"):
                raise Dropped("no id")
            known = first.setdefault(sample.sample_id, record_idx)
            if known != record_idx:
                raise Dropped("id occurs twice", f"records {known} and {record_idx}, counted from 0; the first is kept")
            samples.append(sample)
        except Dropped as dropped:
            drops.add(name(record), dropped)
        except SampleError as error:
            drops.add(name(record), Dropped("breaks the row schema", str(error)))
        except (AttributeError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            drops.add(name(record), Dropped("malformed record", f"{type(error).__name__}: {error}"))
    return samples


def own_ids(given: Sequence[Any]) -> list[str]:
    """Return each record's id as text; one without gets its position, behind as many `row-` as tell it from the rest.

    Args:
        given: the ids that the records hold, None or empty where they hold none.
    """
    ids = [text_of(value) for value in given]
    taken = set(ids)
    for position, text in enumerate(ids):
        if not text:
            ids[position] = str(position)
            while ids[position] in taken:
                ids[position] = f"row-{ids[position]}"
    return ids


def number_of(value: Any) -> float | None:
    """Return a finite number, given as one or as its text; None for all else, Python's own `1_000` among it."""
    try:
        text = "" if isinstance(value, bool) else text_of(value)
        number = math.nan if "_" in text else float(text)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def seconds_of(value: Any) -> float | None:
    """Return a length in seconds; None where there is none: not a number, not above 0, or without end."""
    seconds = number_of(value)
    return seconds if seconds is not None and seconds > 0.0 else None


def plain_text(value: Any, *, what: str) -> str:
    """Return `text_of` a value that is meant as a text.

    Raises:
        Dropped: it is a list, an object, or bytes, whose spelling is no text.
    """
    if isinstance(value, (list, tuple, dict, bytes)):
        raise Dropped(f"{what} is not a text", repr(value)[:200])
    return text_of(value)


def text_of(value: Any) -> str:
    """Return an annotation's value as stripped text; numbers lose a trailing `.0`, missing values become ''."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
