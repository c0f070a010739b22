# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Text with separators (CSV as spreadsheets and pandas write it) -> records, or one error that names the line.

Comma, semicolon or tab, whichever divides the header most. Quoting is strict: a quote that is left open swallows rows
without a word in a lenient reader.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

DELIMITERS = (",", ";", "\t")
MIN_COLUMNS_TO_COMPARE = 3
"""With fewer columns, a text of several lines looks like swallowed rows too easily."""


class DelimitedError(ValueError):
    """The text is not one row of as many cells as column names after the other."""


def read_delimited(text: str, *, path: str | Path) -> list[dict[str, str]]:
    """Read rows below a header; lines without any content are skipped, and columns without a name are numbered.

    Raises:
        DelimitedError: a quote is left open, a row has another number of cells, or two columns share a name.
    """
    # The module's limit (131,072 characters a cell) is for all readers of the process; no cell is longer than its file.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    delimiter = max(DELIMITERS, key=lambda candidate: _header_length(text, candidate))
    rows = _rows(text, delimiter, path)
    _, header = next(rows, (0, []))
    names = [name.strip() or f"column {position}" for position, name in enumerate(header, start=1)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DelimitedError(f"column names {repeated} occur twice; expected each once; {path}, line 1; rename one")
    records = []
    for line, row in rows:
        if len(row) != len(names):
            raise DelimitedError(
                f"{len(row)} cells under {len(names)} column names; expected as many cells as names; "
                f"{path}, line {line}; is a {delimiter!r} inside a text unquoted, or a quote left open?"
            )
        swallowed = _swallowed(row, delimiter)
        if swallowed is not None:
            raise DelimitedError(
                f"column {names[swallowed]!r} holds what looks like whole rows ({row[swallowed][:80]!r}); expected one "
                f"cell's text; {path}, line {line}; close the quote there, or give the file as JSON lines"
            )
        records.append(dict(zip(names, row, strict=True)))
    return records


def _rows(text: str, delimiter: str, path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where it begins, cells) of each row that has any content."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        begins = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DelimitedError(
                f'a quote is left open or not doubled ({error}); expected "..." around a whole cell, and "" for a '
                f"quote in it; {path}, the row that begins in line {begins}"
            ) from None
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield begins, row


def _header_length(text: str, delimiter: str) -> int:
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
        if any(cell.strip() for cell in row):
            return len(row)
    return 0


def _swallowed(row: list[str], delimiter: str) -> int | None:
    """Find a cell that a quote left open made of the end of one row, whole rows, and the beginning of another.

    Such a row still has the right number of cells if the next quote stands in the same column.
    """
    if len(row) < MIN_COLUMNS_TO_COMPARE:
        return None
    for position, cell in enumerate(row):
        lines = cell.strip("\r\n").splitlines()
        if len(lines) < 2:
            continue
        first, *whole, last = (line.count(delimiter) for line in lines)
        is_cut = first == len(row) - 1 - position and last == position
        if is_cut and all(count == len(row) - 1 for count in whole):
            return position
    return None
