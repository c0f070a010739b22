"""One cached pool on disk: a file of frames that fills up lazily and knows when it is damaged.

Layout: magic | header length, header CRC | header (JSON) | frame table | frames. The table has a row per pool frame
with the place, length and CRC-32 of its bytes; length 0 means not there yet. A frame's bytes are written before its
row, so a reader sees a frame whole or not at all, and what a crash or a bad disk left is found by its CRC and decoded
again.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import mmap
import os
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

MAGIC = b"VMTRPOOL"
_PREFIX = struct.Struct("<8sII")
_ROW = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
_PAGE = 4096
_MAX_HEADER = 16 << 20
_MAX_SIDE_PX = 1 << 14
FORMS = ("raw", "jpeg")
JPEG_QUALITY = 95


class CacheDamage(ValueError):
    """The file is not a whole cache entry; it is to be deleted and made again."""


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

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame as pixels."""
        return self.height_px * self.width_px * 3


class CacheEntry:
    """An open entry. Reading is safe from many threads and processes; adding needs the entry's lock."""

    def __init__(self, path: Path) -> None:
        """Open the entry at `path`.

        Raises:
            FileNotFoundError: there is none.
            CacheDamage: it is not one.
        """
        self.path = path
        with path.open("rb") as file:
            self.header, self._table_offset = _read_header(file)
            self._data_offset = _aligned(self._table_offset + self.header.num_frames * _ROW.itemsize)
            self._least_bytes = self._data_offset
            if self.header.form == "raw":
                self._least_bytes += self.header.num_frames * self.header.frame_bytes
            self._inode = os.fstat(file.fileno()).st_ino
            if os.fstat(file.fileno()).st_size < self._least_bytes:
                raise CacheDamage("the file is shorter than its header says")
            self._map = mmap.mmap(file.fileno(), self._least_bytes, access=mmap.ACCESS_READ)
        self._table = np.frombuffer(self._map, _ROW, self.header.num_frames, self._table_offset)
        self._frames = self._raw_frames()
        self._verified = np.zeros(self.header.num_frames, dtype=bool)

    @staticmethod
    def create(path: Path, header: EntryHeader) -> CacheEntry:
        """Write an entry without frames beside `path`, rename it into place, and open it."""
        text = json.dumps(asdict(header)).encode()
        beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        table_offset = _aligned(_PREFIX.size + len(text))
        size = _aligned(table_offset + header.num_frames * _ROW.itemsize)
        if header.form == "raw":
            size += header.num_frames * header.frame_bytes
        try:
            with beside.open("wb") as file:
                file.write(_PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text)
                file.truncate(size)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        return CacheEntry(path)

    @property
    def num_filled(self) -> int:
        """How many frames are there."""
        return int(np.count_nonzero(self._table["length"]))

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Return those of `rows` that are not there or are damaged.

        A frame is checked against its CRC the first time that this process reads it.

        Raises:
            CacheDamage: the file lost its end since it was opened.
        """
        self._require_size()
        for row in rows[~self._verified[rows]]:
            self._verified[row] = self._is_whole(int(row))
        return rows[~self._verified[rows]]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the frames `rows`, none of them missing, as (n, H, W, 3) uint8.

        Raises:
            CacheDamage: bytes that passed their check are no frame of this size.
        """
        if self._frames is not None:
            return np.asarray(self._frames[rows])
        out = np.empty((len(rows), self.header.height_px, self.header.width_px, 3), dtype=np.uint8)
        jpegs = self._jpegs(rows)
        for position in range(len(rows)):
            try:
                out[position] = np.asarray(Image.open(io.BytesIO(jpegs[position])))
            except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
                raise CacheDamage(f"frame {rows[position]} does not decode ({error})") from error
        return out

    def add(self, rows: np.ndarray, frames: np.ndarray) -> None:
        """Write `frames` as the frames `rows`. The caller holds the entry's lock.

        Raises:
            OSError: the disk is full or read-only, or the entry was evicted.
        """
        with self.path.open("r+b") as file:
            if os.fstat(file.fileno()).st_ino != self._inode:
                raise OSError("the entry was evicted and made again")
            places = []
            end = file.seek(0, os.SEEK_END)
            for row, frame in zip(rows, frames, strict=True):
                data = frame.tobytes() if self.header.form == "raw" else _jpeg(frame)
                offset = self._data_offset + int(row) * self.header.frame_bytes if self.header.form == "raw" else end
                file.seek(offset)
                file.write(data)
                end = max(end, offset + len(data))
                places.append((offset, len(data), zlib.crc32(data)))
            file.flush()
            for row, place in zip(rows, np.array(places, dtype=_ROW), strict=True):
                file.seek(self._table_offset + int(row) * _ROW.itemsize)
                file.write(place.tobytes())
        self._verified[rows] = False

    def _is_whole(self, row: int) -> bool:
        place = self._table[row]
        if not place["length"]:
            return False
        if self.header.form == "raw":
            expected = self._data_offset + row * self.header.frame_bytes
            if place["offset"] != expected or place["length"] != self.header.frame_bytes:
                return False
            assert self._frames is not None
            return zlib.crc32(self._frames[row].data) == place["crc"]
        end = int(place["offset"]) + int(place["length"])
        if place["offset"] < self._data_offset or end > self.path.stat().st_size:
            return False
        return zlib.crc32(self._jpegs(np.array([row]))[0]) == place["crc"]

    def _jpegs(self, rows: np.ndarray) -> list[bytes]:
        with self.path.open("rb") as file:
            places = [(int(self._table["offset"][row]), int(self._table["length"][row])) for row in rows]
            return [os.pread(file.fileno(), length, offset) for offset, length in places]

    def _require_size(self) -> None:
        # A mapping that outlives its file's end kills the process that reads it.
        if self._map.size() < self._least_bytes:
            raise CacheDamage("the file is shorter than its header says")

    def _raw_frames(self) -> np.ndarray | None:
        if self.header.form != "raw":
            return None
        count = self.header.num_frames * self.header.frame_bytes
        flat = np.frombuffer(self._map, np.uint8, count, self._data_offset)
        return flat.reshape(self.header.num_frames, self.header.height_px, self.header.width_px, 3)


def _read_header(file: io.BufferedReader) -> tuple[EntryHeader, int]:
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        raise CacheDamage("the file ends before its header")
    magic, length, crc = _PREFIX.unpack(prefix)
    if magic != MAGIC or length > _MAX_HEADER:
        raise CacheDamage("the file does not begin as a cache entry")
    text = file.read(length)
    if len(text) != length or zlib.crc32(text) != crc:
        raise CacheDamage("the header is damaged")
    try:
        fields = json.loads(text)
        header = EntryHeader(**{**fields, "times_seconds": tuple(fields["times_seconds"])})
    except (ValueError, TypeError, KeyError) as error:
        raise CacheDamage(f"the header cannot be read ({error})") from error
    return header, _aligned(_PREFIX.size + length)


def _aligned(offset: int) -> int:
    return -(-offset // _PAGE) * _PAGE


def _jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
