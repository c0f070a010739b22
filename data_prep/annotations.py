"""Reading annotation files (JSON, JSON lines, CSV, parquet) with errors that name the file and what is missing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")


class AnnotationError(ValueError):
    """An annotation file is missing, unreadable, or not in the format its source documents."""


def read_json(path: str | Path) -> Any:
    """Read one JSON document.

    Raises:
        AnnotationError: the file is missing or not JSON.
    """
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise AnnotationError(f"not JSON ({error}); expected a JSON document; {path}; download it again") from error


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """Read a file of records: a JSON list (or an object of records), JSON lines, CSV with a header, or parquet.

    Raises:
        AnnotationError: the file is missing, of another kind, unreadable, or holds no records.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise AnnotationError(f"file name {path.name!r}; expected one ending in {', '.join(SUFFIXES)}; {path}")
    if path.suffix == ".parquet":
        records = _parquet_records(path)
    elif path.suffix == ".csv":
        records = _csv_rows(path)
    elif path.suffix == ".jsonl":
        records = _json_lines(path)
    else:
        document = read_json(path)
        records = list(document.values()) if isinstance(document, dict) else document
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise AnnotationError(f"no records in it; expected a list of objects, one per question; {path}")
    return records


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
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"cannot read it ({error}); expected a UTF-8 text file; {path}") from error


def _json_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    for line_number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise AnnotationError(
                f"not JSON ({error}); expected one JSON object per line; {path}, line {line_number}; download it again"
            ) from error
    return records


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    header = next(reader, [])
    records = []
    for row in reader:
        if len(row) != len(header):
            raise AnnotationError(
                f"{len(row)} cells under {len(header)} column names; expected as many cells as names; "
                f"{path}, line {reader.line_num}; is a comma inside a text unquoted?"
            )
        records.append(dict(zip(header, row, strict=True)))
    return records


def _parquet_records(path: Path) -> list[dict[str, Any]]:
    try:
        return pq.ParquetFile(path).read().to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise AnnotationError(f"cannot read it ({error}); expected a parquet file; {path}") from error
