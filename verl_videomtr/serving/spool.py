# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes kept on the disk for as long as somebody holds their handle: what is sent again and again, not in memory.

An episode sends its pictures with every turn, so each one in flight would hold megabytes. Here they lie in files that
have no name: the system's page cache keeps them while there is room, and nothing is left behind after a crash.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

SEGMENT_BYTES = 64 * 2**20
"""Size at which another file is begun. A file's space is free again when nobody holds anything in it."""


class SpoolError(ValueError):
    """The bytes cannot be kept or read again: no disk space, or a disk that fails."""


class _Segment:
    """A file without a name; closed, and so removed, with its last reference."""

    def __init__(self, folder: Path) -> None:
        self.descriptor, name = tempfile.mkstemp(prefix="videomtr-", dir=folder)
        weakref.finalize(self, os.close, self.descriptor)
        os.unlink(name)
        self.num_bytes = 0


class Stored:
    """A handle of bytes in a spool."""

    __slots__ = ("_length", "_offset", "_segment")

    def __init__(self, segment: _Segment, offset: int, length: int) -> None:
        self._segment, self._offset, self._length = segment, offset, length

    def __len__(self) -> int:
        return self._length

    def read(self) -> bytes:
        """Return the bytes; waits for the disk.

        Raises:
            SpoolError: they cannot be read.
        """
        try:
            data = os.pread(self._segment.descriptor, self._length, self._offset)
        except OSError as error:
            raise SpoolError(f"encoded pictures cannot be read again ({error}); check the disk of TMPDIR") from None
        if len(data) != self._length:
            raise SpoolError("encoded pictures are shorter than they were written; check the disk of TMPDIR")
        return data


Piece: TypeAlias = bytes | Stored
"""A part of a text, at hand or in a spool."""


class Spool:
    """Keeps bytes; any thread may write.

    Args:
        folder: of the files; None takes the system's for temporary files (TMPDIR).
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.gettempdir())
        self._segment: _Segment | None = None
        self._lock = threading.Lock()

    def write(self, texts: Sequence[bytes]) -> list[Stored]:
        """Keep several texts; waits for the disk.

        Raises:
            SpoolError: there is no room.
        """
        try:
            with self._lock:
                return self._write(texts)
        except OSError as error:
            raise SpoolError(
                f"encoded pictures cannot be kept ({error}); expected room for them; {self.folder}; make room, set "
                "TMPDIR to another folder, or lower --max-gib, and run the same command again"
            ) from None

    def _write(self, texts: Sequence[bytes]) -> list[Stored]:
        segment = self._segment
        if segment is None or segment.num_bytes >= SEGMENT_BYTES:
            segment = self._segment = _Segment(self.folder)
        stored = []
        for text in texts:
            offset = segment.num_bytes
            written = 0
            while written < len(text):
                written += os.pwrite(segment.descriptor, text[written:], offset + written)
            segment.num_bytes += len(text)
            stored.append(Stored(segment, offset, len(text)))
        return stored
