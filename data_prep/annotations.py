# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Reading annotation files (JSON, JSON lines, CSV, parquet) with errors that name the file and what is missing."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.delimited import DelimitedError, read_delimited

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, a longer one before the one that it begins with."""
SHOWN_CHARACTERS = 100
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")


class AnnotationError(ValueError):
    """An annotation file is missing, unreadable, or not in the format its source documents."""


def read_json(path: str | Path) -> Any:
    """Read one JSON document.

    Raises:
        AnnotationError: the file is missing, not JSON, nested without end, or has a key twice in one object.
    """
    remedy = "download it again, or name it .jsonl if each line is an object"
    return _parse(_text(path), expected="a JSON document", where=str(path), remedy=remedy)


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """Read a file of records: a JSON list (or an object of records), JSON lines, CSV with a header, or parquet.

    Raises:
        AnnotationError: the file is missing, of another kind, unreadable, or holds no records.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise AnnotationError(f"file name {path.name!r}; expected one ending in {', '.join(SUFFIXES)}; {path}")
    records: Any
    if suffix == ".parquet":
        records = _parquet_records(path)
    elif suffix == ".csv":
        try:
            records = read_delimited(_text(path), path=path)
        except DelimitedError as error:
            raise AnnotationError(str(error)) from None
    elif suffix == ".jsonl":
        records = _json_lines(path)
    else:
        document = read_json(path)
        records = list(document.values()) if isinstance(document, dict) else document
    if not isinstance(records, list) or not records:
        raise AnnotationError(f"no records in it; expected a list of objects, one per question; {path}")
    for record_idx, record in enumerate(records):
        if not isinstance(record, dict):
            raise AnnotationError(
                f"no records in it: record {record_idx} is {_shown(record)}; expected a list of objects, "
                f"one per question; {path}"
            )
    return records


def nested_records(records: Iterable[Mapping[str, Any]], column: str, *, path: str | Path) -> list[dict[str, Any]]:
    """Give each record of a list that stands in a column the other columns of its row; rows without one stay as are.

    Raises:
        AnnotationError: the column holds something else than a list of objects.
    """
    flat: list[dict[str, Any]] = []
    for record_idx, record in enumerate(records):
        shared = {name: value for name, value in record.items() if name != column}
        inner = record.get(column, [{}])
        if not isinstance(inner, list) or not all(isinstance(item, dict) for item in inner):
            raise AnnotationError(
                f"{column}={_shown(inner)}; expected a list of objects, one per question; {path}, record {record_idx}; "
                "give the file as its authors publish it"
            )
        flat.extend({**shared, **item} for item in inner)
    return flat


def require_columns(records: Iterable[Mapping[str, Any]], columns: Iterable[str], *, path: str | Path) -> None:
    """Check that each record has the columns its format documents.

    Raises:
        AnnotationError: a column is not there; names the first record that lacks it.
    """
    columns = tuple(columns)
    for record_idx, record in enumerate(records):
        missing = [name for name in columns if name not in record]
        if missing:
            raise AnnotationError(
                f"columns {missing} are not there, found {sorted(record)}; expected {list(columns)}; "
                f"{path}, record {record_idx}; is this the file of another source or split?"
            )


def find_file(directory: str | Path, name: str) -> Path:
    """Return the file of that name in the directory.

    Raises:
        AnnotationError: it is not there.
    """
    path = Path(directory) / name
    if not path.is_file():
        raise AnnotationError(f"no such file; expected {name!r} in the annotation directory; {path}; see README.md")
    return path


def _text(path: str | Path) -> str:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise AnnotationError(f"cannot read it ({error}); expected a text file; {path}") from error
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise AnnotationError(
            f"not {encoding} ({error.reason} at byte {error.start}); expected a UTF-8 text file; {path}, line {line}; "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise AnnotationError(f"a NUL character; expected text; {path}, line {line}; save it as UTF-8, or get it again")
    return text


def _parse(text: str, *, expected: str, where: str, remedy: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise AnnotationError(f"nested too deep to read; expected {expected}; {where}; {remedy}") from None
    except ValueError as error:
        raise AnnotationError(f"not JSON ({error}); expected {expected}; {where}; {remedy}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (repeated, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"key {repeated!r} occurs twice in one object")
    return found


def _json_lines(path: Path) -> list[Any]:
    remedy = "download it again, or name it .json if it is one document"
    return [
        _parse(line, expected="one JSON object per line", where=f"{path}, line {line_number}", remedy=remedy)
        for line_number, line in enumerate(_text(path).split("\n"), start=1)
        if line.strip()
    ]


def _parquet_records(path: Path) -> list[dict[str, Any]]:
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        records: list[dict[str, Any]] = table.to_pylist()
        if "binary" in str(table.schema.types):
            records = _decoded(records)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise AnnotationError(f"cannot read it ({error}); expected a parquet file; {path}") from error
    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise AnnotationError(f"columns {repeated} occur twice; expected each once; {path}; rename one")
    return records


def _decoded(value: Any) -> Any:
    """Turn bytes that are UTF-8 into text: some writers of parquet do not say that a column holds text."""
    if isinstance(value, dict):
        return {name: _decoded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _shown(value: Any) -> str:
    try:
        shown = repr(value)
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}..."
