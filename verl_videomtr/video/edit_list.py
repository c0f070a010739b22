# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The edit list of a track of an MP4: which stretches of it are shown, in which order and how fast.

FFmpeg follows a list that cuts the start or the end, or begins with a pause, and nothing beyond: of several stretches
it makes wrong times, of a stretch that stands still or runs faster a plain one. (ISO/IEC 14496-12, 8.6.6.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_MOST_BOXES = 100_000
_MOST_EDITS = 65_536
_NOTHING = -1


class Edit(NamedTuple):
    """One stretch."""

    start: int
    """Where in the track, in its ticks; -1 where nothing is shown."""
    rate: float
    """1 for plain; 0 where one picture stands."""


def edits_of(path: str | Path, track_id: int) -> list[Edit]:
    """Return the edit list of a track; empty where it has none."""
    found: list[Edit] = []
    with open(path, "rb") as file:
        file_bytes = file.seek(0, 2)
        for kind, start, end in _boxes(file, 0, file_bytes):
            if kind == b"moov":
                for name, track_start, track_end in _boxes(file, start, end):
                    if name == b"trak" and _track_id(file, track_start, track_end) == track_id:
                        found += _edits(file, track_start, track_end)
    return found


def is_followed(edits: list[Edit]) -> bool:
    """Whether FFmpeg shows what the list says: at most one pause, at the start, and one plain stretch."""
    shown = edits[1:] if edits and edits[0].start == _NOTHING else edits
    return len(shown) <= 1 and all(edit.start != _NOTHING and edit.rate == 1 for edit in shown)


def _boxes(file: BinaryIO, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(_MOST_BOXES):
        if position + 8 > end:
            return
        file.seek(position)
        head = file.read(16)
        size, start = int.from_bytes(head[:4], "big"), position + 8
        if size == 1 and len(head) == 16:
            size, start = int.from_bytes(head[8:16], "big"), position + 16
        elif size == 0:
            size = end - position
        if size < start - position:
            return
        yield head[4:8], start, min(position + size, end)
        position += size


def _track_id(file: BinaryIO, start: int, end: int) -> int | None:
    for kind, inside, _ in _boxes(file, start, end):
        if kind == b"tkhd":
            file.seek(inside)
            data = file.read(24)
            return int.from_bytes(data[20:24] if data[:1] == b"\x01" else data[12:16], "big")
    return None


def _edits(file: BinaryIO, start: int, end: int) -> Iterator[Edit]:
    for kind, inside, inside_end in _boxes(file, start, end):
        if kind == b"edts":
            yield from _edits(file, inside, inside_end)
        elif kind == b"elst":
            file.seek(inside)
            head = file.read(8)
            entry = struct.Struct(">QqhH" if head[:1] == b"\x01" else ">IihH")
            room = (inside_end - inside - 8) // entry.size
            count = min(int.from_bytes(head[4:8], "big"), room, _MOST_EDITS)
            for _, media_time, rate, fraction in entry.iter_unpack(file.read(max(0, count) * entry.size)):
                yield Edit(media_time, rate + fraction / 65536)
