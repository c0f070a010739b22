# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The frame cache: pools on disk, shared by processes and machines, filled as frames are first asked for.

(video content, pool config, decoder and versions, form) -> key -> one file per pool. A frame is read from whatever file
bears the key's name at that moment, with that file's own table, so that nothing is held between reads and a pool that
was evicted, cleared away or made again by another process is simply found missing, or found. All writing happens under
the pool's lock, so that many processes which want one video decode it once. What does not fit into `max_bytes` is
dropped, least recently used first. The cache only ever saves work: where it cannot be written or locked, frames are
decoded and served.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np

from verl_videomtr.video.cache_entry import CODECS, FORMS, CacheDamage, CacheEntry, EntryHeader
from verl_videomtr.video.content_hash import content_hash
from verl_videomtr.video.errors import VideoTimestampError
from verl_videomtr.video.plan import FileStamp, PoolConfig, PoolPlan, file_stamp

logger = logging.getLogger(__name__)

_LAYOUT = 2
"""Part of every key; raise it when the meaning of an entry changes."""
_RESAMPLERS = {"pyav": "swscale-bicubic", "torchcodec": "torchcodec-resize", "decord": "decord-resize"}
_EVICT_TO = 0.9
_SCAN_SECONDS = 20.0
_LOCK_SECONDS = 120.0
_LOCK_POLL_SECONDS = 0.02
_WARN_SECONDS = 60.0
_HASH_TRIES = 3


class PoolCache:
    """Pools in one directory. Safe to use from threads, processes and machines that share the directory."""

    def __init__(self, directory: str | Path, *, form: str = "raw", max_bytes: int | None = None) -> None:
        """
        Args:
            max_bytes: bound on the files of all pools, of every form, as `size_bytes` counts them. It is looked at
                after each twentieth of it that a process writes, and every 20 s of writing: until then, and by the
                pool that is being filled, it may be passed.
        """
        if form not in FORMS:
            raise ValueError(f"videomtr.video.cache.form={form!r}; expected one of {', '.join(FORMS)}")
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"videomtr.video.cache.max_bytes={max_bytes}; expected a positive number or none")
        self.directory = Path(directory)
        self.form = form
        self.max_bytes = max_bytes
        self.num_unsaved = 0
        """Frames that were decoded and served, and could not be kept."""
        for name in ("pools", "locks", "stamps"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self._scanned_at = -_SCAN_SECONDS
        self._written_since = 0
        self._warned_at: dict[str, float] = {}
        self._own_lock = threading.Lock()

    def key(self, path: str | Path, config: PoolConfig) -> str:
        """Name the entry of the video that is now at `path` under a config.

        Raises:
            OSError: the video cannot be read.
            VideoTimestampError: it is being written.
        """
        return self.key_of(self.content(path)[0], config)

    def key_of(self, content: str, config: PoolConfig) -> str:
        """Name the entry of a video's bytes, by their hash, under a config: a hash of all that the frames depend on."""
        decoder = "pyav" if config.decoder == "auto" else config.decoder
        parts = {
            "layout": _LAYOUT,
            "content": content,
            "config": asdict(config) | {"decoder": decoder},
            "resampler": _RESAMPLERS[decoder],
            "versions": _versions(decoder),
            "form": self.form,
        }
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=20).hexdigest()

    def content(self, path: str | Path, hash_file: Callable[[str | Path], str] | None = None) -> tuple[str, FileStamp]:
        """Hash the whole file, or recall the hash of the same path, size and times.

        Args:
            hash_file: what reads the file, and gives up on storage that hangs; None reads it here.
        Returns:
            The hash, and the stamp of the file that has it.
        Raises:
            OSError: the video cannot be read.
            VideoTimestampError: it is being written.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path} is not a regular file")
        name = hashlib.blake2b(os.path.realpath(path).encode(), digest_size=20).hexdigest()
        memo = self.directory / "stamps" / f"{name}.json"
        for _ in range(_HASH_TRIES):
            stamp = file_stamp(path)
            if (known := _recall(memo, stamp)) is not None:
                return known, stamp
            digest = (hash_file or content_hash)(path)
            if file_stamp(path) == stamp:
                self._remember(memo, stamp, digest)
                return digest, stamp
        raise VideoTimestampError("changes while it is read", path=path, remedy="wait until it is written")

    def find(self, key: str) -> EntryHeader | None:
        """Return what the entry `key` says of itself; None where there is no whole one."""
        try:
            with CacheEntry(self._entry_path(key), key) as entry:
                return entry.header
        except CacheDamage as error:
            self._warn("damage", "cache entry %s is made again: %s", self._entry_path(key), error)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._warn("read", "cache %s cannot be read: %s", self.directory, error)
        return None

    def header(self, plan: PoolPlan, decoder: str) -> EntryHeader:
        """Return what an entry for `plan` says of itself."""
        return EntryHeader(
            form=self.form,
            height_px=plan.size[0],
            width_px=plan.size[1],
            duration_seconds=plan.duration_seconds,
            times_seconds=tuple(plan.times_seconds.tolist()),
            decoder=decoder,
            video=plan.path,
        )

    def num_filled(self, key: str) -> int:
        """How many frames the entry `key` lists."""
        try:
            with CacheEntry(self._entry_path(key), key) as entry:
                return entry.num_filled
        except (OSError, CacheDamage):
            return 0

    def read(self, key: str, header: EntryHeader, rows: np.ndarray) -> np.ndarray | None:
        """Return the frames `rows` as (n, H, W, 3) uint8 if all are there and whole, else None."""
        try:
            with CacheEntry(self._entry_path(key), key, header=header) as entry:
                if not entry.has(rows):
                    return None
                frames = header.empty_frames(len(rows))
                whole = entry.read(rows, frames)
        except (OSError, CacheDamage):
            return None
        self._mark_used(key)
        return frames if whole.all() else None

    def read_jpegs(self, key: str, header: EntryHeader, rows: np.ndarray) -> list[bytes] | None:
        """Return the frames `rows` as stored, if the entry keeps JPEG and all are there and whole, else None."""
        if header.form != "jpeg":
            return None
        try:
            with CacheEntry(self._entry_path(key), key, header=header) as entry:
                blobs = entry.read_blobs(rows)
        except (OSError, CacheDamage):
            return None
        self._mark_used(key)
        return blobs

    def fill(
        self, key: str, header: EntryHeader, rows: np.ndarray, decode: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Return the frames `rows`, decoding and keeping those that are missing or damaged.

        Others that want them wait and find them there. What was decoded is served whether or not it could be kept, as
        the entry's form would give it back: a lossy form is lossy from the first look on.

        Args:
            rows: (n,) int64, strictly rising.
        Raises:
            VideoError: decoding failed.
        """
        with self._lock_if_possible(key) as is_locked:
            frames = header.empty_frames(len(rows))
            found = self._read_found(key, header, rows, frames)
            missing = rows[~found]
            if len(missing):
                codec = CODECS[header.form]
                blobs = [codec.encode(frame) for frame in decode(missing)]
                if not is_locked or not self._keep(key, header, missing, blobs):
                    self.num_unsaved += len(missing)
                for position, data in zip(np.flatnonzero(~found), blobs, strict=True):
                    if not codec.decode(data, frames[position]):
                        raise AssertionError(f"a frame encoded as {header.form} does not decode")
        return frames

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock of one entry, across processes and, where the file system has flock, machines.

        The kernel's own lock, because it goes with the process that holds it, however that ends; a file system without
        flock says so at once.

        Raises:
            OSError: it was not free in time, or there are no locks here.
        """
        path = self._lock_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            ends = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > ends:
                        raise TimeoutError(f"{path} was not free for {_LOCK_SECONDS:.0f} s") from error
                    time.sleep(_LOCK_POLL_SECONDS)
            yield

    def size_bytes(self) -> int:
        """Bytes on disk of the files of all pools; a frame not filled yet takes none."""
        return sum(size for _, size, _, _ in self._entries())

    def evict(self, *, keep: Path | None = None) -> int:
        """Delete entries, least recently used first, until 0.9 of `max_bytes` is left; return how many."""
        if self.max_bytes is None:
            return 0
        entries = sorted(self._entries())
        total, count = sum(size for _, size, _, _ in entries), 0
        if total <= self.max_bytes:
            return 0
        for _, size, path, inode in entries:
            if total <= _EVICT_TO * self.max_bytes:
                break
            if path != keep:
                count += _unlink(path, inode)
                total -= size
        logger.info("evicted %d pools from %s", count, self.directory)
        return count

    @contextmanager
    def _lock_if_possible(self, key: str) -> Iterator[bool]:
        with ExitStack() as held:
            try:
                held.enter_context(self.lock(key))
                is_locked = True
            except OSError as error:
                self._warn("lock", "cache %s cannot be locked; frames are not kept: %s", self.directory, error)
                is_locked = False
            yield is_locked

    def _read_found(self, key: str, header: EntryHeader, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        try:
            with CacheEntry(self._entry_path(key), key, header=header) as entry:
                found = entry.read(rows, out)
                if entry.has_any(rows[~found]):
                    self._warn("damage", "damaged frames of %s are decoded again", self._entry_path(key))
                return found
        except (OSError, CacheDamage):
            return np.zeros(len(rows), dtype=bool)

    def _keep(self, key: str, header: EntryHeader, rows: np.ndarray, blobs: list[bytes]) -> bool:
        path = self._entry_path(key)
        try:
            with self._open_or_create(path, key, header) as entry:
                entry.add(rows, blobs)
            self._mark_used(key)
            self._bound(sum(map(len, blobs)), keep=path)
        except OSError as error:
            self._warn("write", "cache entry %s cannot be written; frames are not kept: %s", path, error)
            return False
        return True

    def _open_or_create(self, path: Path, key: str, header: EntryHeader) -> CacheEntry:
        try:
            # With its header read and checked again: frames added behind a damaged one would be lost with it.
            return CacheEntry(path, key, is_writable=True)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
        except CacheDamage as error:
            self._warn("damage", "cache entry %s is made again: %s", path, error)
        return CacheEntry.create(path, key, header)

    def _bound(self, written: int, *, keep: Path) -> None:
        with self._own_lock:
            self._written_since += written
            due = self.max_bytes is not None and (
                time.monotonic() - self._scanned_at > _SCAN_SECONDS or self._written_since > 0.05 * self.max_bytes
            )
            if due:
                self._scanned_at, self._written_since = time.monotonic(), 0
        if due:
            self.evict(keep=keep)

    def _entries(self) -> list[tuple[float, int, Path, int]]:
        """(last use, bytes on disk, path, inode) of every entry."""
        found = []
        for path in (self.directory / "pools").glob("*/*.pool"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            try:
                used = self._lock_path(path.stem).stat().st_mtime
            except FileNotFoundError:
                used = status.st_mtime
            found.append((used, status.st_blocks * 512, path, status.st_ino))
        return found

    def _mark_used(self, key: str) -> None:
        # The lock's file bears the time: a change of the entry itself would make every machine on a network file
        # system read it anew.
        try:
            os.utime(self._lock_path(key))
        except OSError as error:
            logger.debug("cannot mark %s as used: %s", key, error)

    def _entry_path(self, key: str) -> Path:
        return self.directory / "pools" / key[:2] / f"{key}.pool"

    def _lock_path(self, key: str) -> Path:
        return self.directory / "locks" / f"{key}.lock"

    def _remember(self, memo: Path, stamp: FileStamp, digest: str) -> None:
        beside = memo.with_name(f".{memo.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            beside.write_text(json.dumps({"stamp": _lasting(stamp), "content": digest}))
            beside.replace(memo)
        except OSError as error:
            self._warn("write", "cannot write %s, so its video is hashed again each time: %s", memo, error)
            beside.unlink(missing_ok=True)

    def _warn(self, kind: str, message: str, *values: object) -> None:
        """Log at most once a minute for each kind: a full disk is one piece of news, not one for each turn."""
        now = time.monotonic()
        with self._own_lock:
            due = now - self._warned_at.get(kind, -math.inf) >= _WARN_SECONDS
            if due:
                self._warned_at[kind] = now
        if due:
            logger.warning(message, *values)


def _recall(memo: Path, stamp: FileStamp) -> str | None:
    try:
        known = json.loads(memo.read_text())
        return str(known["content"]) if known["stamp"] == _lasting(stamp) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lasting(stamp: FileStamp) -> list[int]:
    # Without the inode, which some network file systems number anew on every machine.
    return [stamp.num_bytes, stamp.modified_ns, stamp.changed_ns]


def _unlink(path: Path, inode: int) -> bool:
    """Delete `path` unless it was made again since it was listed; return whether it was deleted."""
    try:
        if path.stat().st_ino != inode:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _versions(decoder: str) -> dict[str, str]:
    # A decoder that is not installed is an error of its own, when a frame is asked for.
    return {name: _version(name) for name in ("av", *({decoder} - {"pyav"}))}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
