# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One cached pool on disk: a file that fills up with frames and says of each byte of them whether it is whole.

Layout: prefix (magic, key, number of frames, header length and CRC) | frame table | header (JSON) | frames, in the
order in which they came. The table has a row per pool frame with the place, length and CRC-32 of its bytes; length 0
means not there yet. Bytes are written before the row that lists them, and a row is only ever replaced by one that lists
the same frame again, so a reader needs no lock. The file is never mapped: a page of a file that was cut, or that a full
disk cannot give, would kill the process that touches it, where a read returns an error.

A pool of three frames of 2 x 2 pixels (12 bytes each, raw) whose frame 2 was asked for first, then frame 0; header of
210 bytes:

    byte    0   prefix, 40 bytes
           40   row 0: offset 310, length 12, CRC      frame 0 came second
           56   row 1: offset   0, length  0, 0        frame 1 is not there yet
           72   row 2: offset 298, length 12, CRC      frame 2 came first
           88   header (JSON), 210 bytes
          298   bytes of frame 2
          310   bytes of frame 0
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

MAGIC = b"VMTRPOL2"
PREFIX = struct.Struct("<8s20sIII")
"""Magic, key, number of frames, header length, CRC-32 of the header."""
_ROW = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
_MAX_HEADER = 16 << 20
_MAX_FRAMES = 1 << 20
_MAX_SIDE_PX = 1 << 14
JPEG_QUALITY = 95


class CacheDamage(ValueError):
    """The file is not a whole cache entry; it is to be deleted and made again."""


class Codec(Protocol):
    """How a frame becomes bytes."""

    def encode(self, frame: np.ndarray) -> bytes:
        """Return the bytes of one (H, W, 3) uint8 frame."""

    def decode(self, data: bytes | memoryview, out: np.ndarray) -> bool:
        """Write the frame that `data` holds into `out`; False where it holds none of that size."""


class _Raw:
    def encode(self, frame: np.ndarray) -> bytes:
        return frame.tobytes()

    def decode(self, data: bytes | memoryview, out: np.ndarray) -> bool:
        if len(data) != out.nbytes:
            return False
        out[...] = np.frombuffer(data, dtype=np.uint8).reshape(out.shape)
        return True


class _Jpeg:
    def encode(self, frame: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
        return buffer.getvalue()

    def decode(self, data: bytes | memoryview, out: np.ndarray) -> bool:
        try:
            picture = np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]))
        except (ValueError, OSError, SyntaxError, Image.DecompressionBombError):
            return False
        if picture.shape != out.shape:
            return False
        out[...] = picture
        return True


CODECS: dict[str, Codec] = {"raw": _Raw(), "jpeg": _Jpeg()}
FORMS = tuple(CODECS)


@dataclass(frozen=True, kw_only=True)
class EntryHeader:
    """What an entry says of itself."""

    form: str
    """`raw`: uint8 RGB, exact. `jpeg`: quality 95 without chroma subsampling, lossy."""
    height_px: int
    width_px: int
    duration_seconds: float
    times_seconds: tuple[float, ...]
    decoder: str
    """The decoder that read the first frames."""
    video: str
    """Where the video was when the entry was made; for people."""

    def __post_init__(self) -> None:
        sides = all(type(side) is int and 1 <= side <= _MAX_SIDE_PX for side in (self.height_px, self.width_px))
        texts = all(isinstance(text, str) for text in (self.form, self.decoder, self.video))
        if not sides or not texts or self.form not in FORMS or not self._has_times():
            raise CacheDamage("the header holds impossible values")

    def _has_times(self) -> bool:
        times = (*self.times_seconds, self.duration_seconds)
        if not self.times_seconds or not all(type(time) in (int, float) and math.isfinite(time) for time in times):
            return False
        return all(early < late for early, late in itertools.pairwise(times))

    @property
    def num_frames(self) -> int:
        """M."""
        return len(self.times_seconds)

    def empty_frames(self, count: int) -> np.ndarray:
        """Return memory for `count` frames: (count, H, W, 3) uint8."""
        return np.empty((count, self.height_px, self.width_px, 3), dtype=np.uint8)


class CacheEntry:
    """One opening of an entry's file, for a single look or a single addition.

    All that is read and written goes through one descriptor: whatever happens to the name meanwhile, a frame is read
    with the table of the file that holds it. Adding needs the entry's lock; reading needs nothing.
    """

    def __init__(self, path: Path, key: str, *, header: EntryHeader | None = None, is_writable: bool = False) -> None:
        """Open the entry of `key` at `path`.

        Args:
            header: what the entry is known to say of itself, which saves reading it again.
        Raises:
            FileNotFoundError: there is none.
            CacheDamage: it is not one.
        """
        self._fd = os.open(path, os.O_RDWR if is_writable else os.O_RDONLY)
        try:
            num_frames, length, crc = self._read_prefix(key)
            if header is not None and header.num_frames != num_frames:
                raise CacheDamage(f"it has {num_frames} frames where {header.num_frames} were expected")
            self._table = self._read_table(num_frames)
            self._size = os.fstat(self._fd).st_size  # After the table: what that lists was written before.
            self._data_offset = _table_end(num_frames) + length
            self.header = header if header is not None else self._read_header(num_frames, length, crc)
        except BaseException:
            os.close(self._fd)
            raise

    @classmethod
    def create(cls, path: Path, key: str, header: EntryHeader) -> CacheEntry:
        """Write an entry without frames in place of what is at `path`, and open it. The caller holds the entry's lock.

        Raises:
            OSError: the file cannot be written.
        """
        text = json.dumps(asdict(header)).encode()
        prefix = PREFIX.pack(MAGIC, bytes.fromhex(key), header.num_frames, len(text), zlib.crc32(text))
        beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            beside.write_bytes(prefix + bytes(header.num_frames * _ROW.itemsize) + text)
            # Opened under the name that nobody else knows: an eviction may take the other at once.
            entry = cls(beside, key, header=header, is_writable=True)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        try:
            beside.replace(path)
        except OSError:
            os.close(entry._fd)
            beside.unlink(missing_ok=True)
            raise
        return entry

    def __enter__(self) -> CacheEntry:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def num_filled(self) -> int:
        """How many frames are listed."""
        return int(np.count_nonzero(self._table["length"]))

    def has(self, rows: np.ndarray) -> bool:
        """Whether all of `rows` are listed; only reading shows whether they are whole."""
        return bool(np.all(self._table["length"][rows]))

    def has_any(self, rows: np.ndarray) -> bool:
        """Whether any of `rows` is listed."""
        return bool(np.any(self._table["length"][rows]))

    def read(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write the frames `rows` that are there and whole into `out`; every byte is checked, each time.

        Args:
            out: (n, H, W, 3) uint8.
        Returns:
            (n,) bool: which they were.
        """
        codec = CODECS[self.header.form]
        found = np.zeros(len(rows), dtype=bool)
        buffer = self._buffer(rows)
        for position, row in enumerate(rows):
            data = self._read_frame(int(row), buffer)
            found[position] = data is not None and codec.decode(data, out[position])
        return found

    def read_blobs(self, rows: np.ndarray) -> list[bytes] | None:
        """Return the frames `rows` as they are stored, if all are there and whole, else None."""
        buffer = self._buffer(rows)
        blobs = (self._read_frame(int(row), buffer) for row in rows)
        whole = [bytes(blob) for blob in blobs if blob is not None]
        return whole if len(whole) == len(rows) else None

    def add(self, rows: np.ndarray, blobs: Sequence[bytes]) -> None:
        """Append `blobs` as the frames `rows`. The caller holds the entry's lock.

        Raises:
            OSError: the disk is full or read-only; what was there before still is.
        """
        end = os.fstat(self._fd).st_size
        offset, places = end, []
        try:
            for row, data in zip(rows, blobs, strict=True):
                _write(self._fd, data, offset)
                places.append((offset, len(data), _checksum(data, int(row))))
                offset += len(data)
        except OSError:
            os.ftruncate(self._fd, end)
            raise
        # Listed only now that all bytes are written: a reader that finds a row finds its frame.
        for row, place in zip(rows, np.array(places, dtype=_ROW), strict=True):
            _write(self._fd, place.tobytes(), PREFIX.size + int(row) * _ROW.itemsize)

    def _read_prefix(self, key: str) -> tuple[int, int, int]:
        data = os.pread(self._fd, PREFIX.size, 0)
        if len(data) < PREFIX.size:
            raise CacheDamage("the file ends before its header")
        magic, own_key, num_frames, length, crc = PREFIX.unpack(data)
        if magic != MAGIC or own_key.hex() != key:
            raise CacheDamage("the file does not begin as this cache entry")
        if not 1 <= num_frames <= _MAX_FRAMES or length > _MAX_HEADER:
            raise CacheDamage("the header holds impossible values")
        return num_frames, length, crc

    def _read_table(self, num_frames: int) -> np.ndarray:
        data = os.pread(self._fd, num_frames * _ROW.itemsize, PREFIX.size)
        if len(data) < num_frames * _ROW.itemsize:
            raise CacheDamage("the file ends before its header")
        return np.frombuffer(data, _ROW)

    def _read_header(self, num_frames: int, length: int, crc: int) -> EntryHeader:
        text = os.pread(self._fd, length, _table_end(num_frames))
        if len(text) != length or zlib.crc32(text) != crc:
            raise CacheDamage("the header is damaged")
        try:
            fields = json.loads(text)
            header = EntryHeader(**{**fields, "times_seconds": tuple(fields["times_seconds"])})
        except (ValueError, TypeError, KeyError) as error:
            raise CacheDamage(f"the header cannot be read ({error})") from error
        if header.num_frames != num_frames:
            raise CacheDamage("the header and the table differ in their number of frames")
        return header

    def _buffer(self, rows: np.ndarray) -> memoryview:
        # One for all frames of a look: memory given back and asked for again for each costs more than the reading.
        longest = int(self._table["length"][rows].max(initial=0))
        return np.empty(min(longest, self._size), dtype=np.uint8).data

    def _read_frame(self, row: int, buffer: memoryview) -> memoryview | None:
        offset, length = int(self._table["offset"][row]), int(self._table["length"][row])
        # The bounds come first: a damaged row may ask for gigabytes.
        if not length or offset < self._data_offset or offset + length > self._size:
            return None
        data = buffer[:length]
        is_whole = os.preadv(self._fd, [data], offset) == length and _checksum(data, row) == self._table["crc"][row]
        return data if is_whole else None


def _table_end(num_frames: int) -> int:
    return PREFIX.size + num_frames * _ROW.itemsize


def _checksum(data: bytes | memoryview, row: int) -> int:
    # Begun with the row's number, so that another frame's bytes are not taken for this one's.
    return zlib.crc32(data, row)


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
