# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Changes to video files that recorders, cutters and repairers make by mistake: boxes renamed, tables rewritten."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_CONTAINER_BOXES = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf"))


def boxes(data: bytes | bytearray, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start of the payload, end) of every MP4 box, those inside others too."""
    position, end = start, len(data) if end is None else end
    while position + 8 <= end:
        (size,), kind = struct.unpack_from(">I", data, position), bytes(data[position + 4 : position + 8])
        if size < 8:
            return
        yield kind, position + 8, position + size
        if kind in _CONTAINER_BOXES:
            yield from boxes(data, position + 8, position + size)
        position += size


def change_boxes(path: Path, kind: bytes, change: Callable[[bytearray, int, int], None]) -> None:
    """Call `change(data, payload start, payload end)` on every box of a kind, and write the file back."""
    data = bytearray(path.read_bytes())
    found = [(start, end) for name, start, end in boxes(data) if name == kind]
    assert found, f"no {kind!r} in {path}"
    for start, end in found:
        change(data, start, end)
    path.write_bytes(data)


def remove_box(path: Path, kind: bytes) -> None:
    """Make the boxes of a kind free space: every offset stays right."""

    def rename(data: bytearray, start: int, end: int) -> None:
        data[start - 4 : start] = b"free"

    change_boxes(path, kind, rename)


def mark_samples(path: Path, numbers: Sequence[int]) -> None:
    """Rewrite the list of sync samples, which must be at least as long, with `numbers` (from 1)."""

    def rewrite(data: bytearray, start: int, end: int) -> None:
        assert 4 * len(numbers) <= end - start - 8
        data[start : start + 8 + 4 * len(numbers)] = struct.pack(f">II{len(numbers)}I", 0, len(numbers), *numbers)

    change_boxes(path, b"stss", rewrite)


def set_sample_durations(path: Path, ticks: int) -> None:
    """Set every sample's duration, so that with 0 all are shown at one time."""

    def rewrite(data: bytearray, start: int, end: int) -> None:
        (count,) = struct.unpack_from(">I", data, start + 4)
        for entry in range(count):
            struct.pack_into(">I", data, start + 8 + 8 * entry + 4, ticks)

    change_boxes(path, b"stts", rewrite)


def set_edits(path: Path, edits: Sequence[tuple[int, int, float]]) -> None:
    """Give the only track of an MP4, whose index lies last, an edit list: (duration, media time, rate)."""
    data = bytearray(path.read_bytes())
    body = struct.pack(">II", 0, len(edits))
    body += b"".join(struct.pack(">Iii", length, start, round(rate * 65536)) for length, start, rate in edits)
    elst = struct.pack(">I4s", 8 + len(body), b"elst") + body
    edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    for kind, start, _ in boxes(data):
        if kind == b"edts":
            data[start - 4 : start] = b"free"
    found = {kind: (start, end) for kind, start, end in boxes(data)}
    assert found[b"moov"][1] == len(data)
    (media,) = (start for kind, start, _ in boxes(data) if kind == b"mdia")
    data[media - 8 : media - 8] = edts
    for kind in (b"trak", b"moov"):
        at = found[kind][0] - 8
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(edts))
    path.write_bytes(data)


def first_shown(path: Path) -> int:
    """The track's own time of its first frame in the order of showing, in its ticks."""
    data = path.read_bytes()
    found = {kind: (start, end) for kind, start, end in boxes(data)}
    if b"ctts" not in found:
        return 0
    start, _ = found[b"ctts"]
    (count,) = struct.unpack_from(">I", data, start + 4)
    offsets = []
    for entry in range(count):
        samples, offset = struct.unpack_from(">Ii", data, start + 8 + 8 * entry)
        offsets += [offset] * samples
    start, _ = found[b"stts"]
    (count,) = struct.unpack_from(">I", data, start + 4)
    times, now = [], 0
    for entry in range(count):
        samples, step = struct.unpack_from(">II", data, start + 8 + 8 * entry)
        for _ in range(samples):
            times.append(now)
            now += step
    return min(time + offset for time, offset in zip(times, offsets, strict=True))


def scales(path: Path) -> tuple[int, int]:
    """The ticks a second of the movie and of its track: an edit's duration and its media time."""
    data = path.read_bytes()
    found = {kind: start for kind, start, _ in boxes(data)}
    return tuple(struct.unpack_from(">I", data, found[kind] + 12)[0] for kind in (b"mvhd", b"mdhd"))


def remove_avi_index(path: Path) -> None:
    """Cut an AVI's index off and correct its size, as a repairer leaves it."""
    data = bytearray(path.read_bytes())
    del data[data.rindex(b"idx1") :]
    struct.pack_into("<I", data, 4, len(data) - 8)
    path.write_bytes(data)


def remove_cues(path: Path) -> None:
    """Make a Matroska file's index, and what points to it, void."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"\x1c\x53\xbb\x6b")
    size_byte = data[at + 4]
    assert size_byte & 0x80 or size_byte & 0x40
    # A Void element has an identifier of one byte: three bytes of size take up the rest of the four.
    length = (size_byte & 0x7F) + 1 if size_byte & 0x80 else (int.from_bytes(data[at + 4 : at + 6], "big") & 0x3FFF) + 2
    data[at : at + 4] = b"\xec" + (0x200000 | length).to_bytes(3, "big")
    path.write_bytes(data)
