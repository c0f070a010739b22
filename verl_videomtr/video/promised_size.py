# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""How many bytes a file says that it has: one cut short still opens in most containers, and plays as if whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_MP4_BOXES = frozenset(b"ftyp moov mdat free skip wide styp pnot moof mfra sidx ssix uuid meta udta emsg prft".split())
_MOST_BOXES = 100_000


def promised_bytes(path: str | Path) -> int | None:
    """Return the size that the outermost structure of an MP4, Matroska or AVI file declares; None where it has none.

    Transport and program streams, FLV and live recordings declare no size: there a cut cannot be told from an end.
    """
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] == _EBML:
            return _matroska(file, os.stat(path).st_size)
        if head[:4] == b"RIFF":
            return 8 + int.from_bytes(head[4:8], "little")
        if head[4:8] in _MP4_BOXES:
            return _mp4(file, os.stat(path).st_size)
    return None


def _matroska(file: BinaryIO, file_bytes: int) -> int | None:
    file.seek(len(_EBML))
    header = _ebml_number(file)
    if header is None or header > file_bytes:
        return None
    file.seek(header, os.SEEK_CUR)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return None
    segment = _ebml_number(file)
    return None if segment is None else file.tell() + segment


def _ebml_number(file: BinaryIO) -> int | None:
    """Read a variable-length number; None where it means `unknown`."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    value = int.from_bytes(bytes([first[0] & (0xFF >> length)]) + rest, "big")
    return None if value == (1 << 7 * length) - 1 else value


def _mp4(file: BinaryIO, file_bytes: int) -> int:
    position = 0
    for _ in range(_MOST_BOXES):
        if position >= file_bytes:
            break
        file.seek(position)
        head = file.read(16)
        if len(head) < 8 or head[4:8] not in _MP4_BOXES:
            break
        size = int.from_bytes(head[:4], "big")
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # 0 reaches to the end of the file; 1 to 7 is no box.
            return file_bytes
        position += size
    return position
