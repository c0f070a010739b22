# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a benchmark's module has to offer, and how it finds its file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.annotations import SUFFIXES, AnnotationError
from verl_videomtr.sample import Sample

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How one benchmark is read."""

    name: str
    """Data source, first part of every id, and default directory below the video root."""
    num_published: int
    """Questions that the benchmark's authors count."""
    read: Callable[[Path], list[Record]]
    """(file or directory) -> one record per question; raises AnnotationError."""
    record_id: Callable[[Record], str]
    """Names a record, whole or not, in the list of drops."""
    make: Callable[[Record, str], Sample]
    """(record, prefix) -> sample; raises Dropped."""


def locate(path: Path, names: Sequence[str]) -> Path:
    """Return the file itself, or the one file in a directory that has one of the names, or its only parquet file.

    Raises:
        AnnotationError: nothing is there, or more than one file could be meant.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise AnnotationError(f"no such file or directory; expected the benchmark's annotations; {path}; see README.md")
    found = [path / name for name in names if (path / name).is_file()] or sorted(path.glob("*.parquet"))
    if len(found) != 1:
        raise AnnotationError(
            f"{len(found)} files could be meant {[file.name for file in found]}; expected "
            f"{', '.join([*names, 'or one parquet file'])}; {path}; name the file itself ({', '.join(SUFFIXES)})"
        )
    return found[0]
