"""The frame cache: pools on disk, shared by processes and machines, filled as frames are first asked for.

(video content, pool config, decoder and versions, form) -> key -> one file per pool. Each file is made and filled under
its own lock, so that many processes which want one video decode it once. What does not fit into `max_bytes` is dropped,
least recently opened first. The cache only ever saves work: where it cannot be written, frames are decoded and served.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import filelock
import numpy as np

from verl_videomtr.video.cache_entry import FORMS, CacheDamage, CacheEntry, EntryHeader
from verl_videomtr.video.plan import PoolConfig, PoolPlan, file_stamp

logger = logging.getLogger(__name__)

_LAYOUT = 1
"""Part of every key; raise it when the meaning of an entry changes."""
_RESAMPLERS = {"pyav": "swscale-bicubic", "torchcodec": "torchcodec-resize", "decord": "decord-resize"}
_EVICT_TO = 0.9
_SCAN_SECONDS = 20.0
_LOCK_SECONDS = 120.0
_HASH_BLOCK = 1 << 20


class PoolCache:
    """Pools in one directory. Safe to use from threads, processes and machines that share the directory."""

    def __init__(self, directory: str | Path, *, form: str = "raw", max_bytes: int | None = None) -> None:
        if form not in FORMS:
            raise ValueError(f"videomtr.video.cache.form={form!r}; expected one of {', '.join(FORMS)}")
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"videomtr.video.cache.max_bytes={max_bytes}; expected a positive number or none")
        self.directory = Path(directory)
        self.form = form
        self.max_bytes = max_bytes
        for name in ("pools", "locks", "stamps"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self._scanned_at = -_SCAN_SECONDS
        self._written_since = 0
        self._scan_lock = threading.Lock()

    def key(self, path: str | Path, config: PoolConfig) -> str:
        """Name the entry of a video under a config: a hash of all that its bytes depend on.

        Raises:
            OSError: the video cannot be read.
        """
        decoder = "pyav" if config.decoder == "auto" else config.decoder
        parts = {
            "layout": _LAYOUT,
            "content": self._content_hash(path),
            "config": asdict(config) | {"decoder": decoder},
            "resampler": _RESAMPLERS[decoder],
            "versions": _versions(decoder),
            "form": self.form,
        }
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=20).hexdigest()

    def open(self, key: str) -> CacheEntry | None:
        """Open the entry `key`; None where there is none. A damaged one is deleted."""
        path = self._entry_path(key)
        try:
            entry = CacheEntry(path)
        except FileNotFoundError:
            return None
        except CacheDamage as error:
            logger.warning("cache entry %s is dropped: %s", path, error)
            path.unlink(missing_ok=True)
            return None
        _touch(path)
        return entry

    def create(self, key: str, plan: PoolPlan, decoder: str) -> CacheEntry:
        """Make the entry `key` without frames, or open the one that another process made meanwhile."""
        header = EntryHeader(
            form=self.form,
            height_px=plan.size[0],
            width_px=plan.size[1],
            duration_seconds=plan.duration_seconds,
            times_seconds=tuple(plan.times_seconds.tolist()),
            decoder=decoder,
            video=plan.path,
        )
        with self.lock(key):
            if (entry := self.open(key)) is not None:
                return entry
            path = self._entry_path(key)
            path.parent.mkdir(exist_ok=True)
            return CacheEntry.create(path, header)

    def fill(self, key: str, entry: CacheEntry, rows: np.ndarray, decode: Callable[[np.ndarray], np.ndarray]) -> None:
        """Decode and store those of `rows` that are missing; others that want them wait and find them there.

        Raises:
            VideoError: decoding failed.
            OSError: the cache cannot be written.
        """
        with self.lock(key):
            missing = entry.missing(rows)
            if len(missing):
                frames = decode(missing)
                entry.add(missing, frames)
                self._bound(frames.nbytes, keep=entry.path)

    def drop(self, entry: CacheEntry) -> None:
        """Delete an entry found damaged; the next opening makes it again."""
        entry.path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock of one entry, across processes and, where the file system has flock, machines.

        Raises:
            OSError: it was not free in time.
        """
        with filelock.FileLock(self.directory / "locks" / f"{key}.lock", timeout=_LOCK_SECONDS):
            yield

    def size_bytes(self) -> int:
        """Bytes on disk of all entries; a frame not filled yet takes none."""
        return sum(size for _, size, _ in self._entries())

    def evict(self, *, keep: Path | None = None) -> int:
        """Delete entries, least recently opened first, until 0.9 of `max_bytes` is left; return how many.

        A process that still reads a deleted entry keeps its frames until it closes it.
        """
        if self.max_bytes is None:
            return 0
        entries = sorted(self._entries())
        total, count = sum(size for _, size, _ in entries), 0
        if total <= self.max_bytes:
            return 0
        for _, size, path in entries:
            if total <= _EVICT_TO * self.max_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total, count = total - size, count + 1
        logger.info("evicted %d pools from %s", count, self.directory)
        return count

    def _bound(self, written: int, *, keep: Path) -> None:
        with self._scan_lock:
            self._written_since += written
            due = self.max_bytes is not None and (
                time.monotonic() - self._scanned_at > _SCAN_SECONDS or self._written_since > 0.05 * self.max_bytes
            )
            if due:
                self._scanned_at, self._written_since = time.monotonic(), 0
        if due:
            self.evict(keep=keep)

    def _entries(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in (self.directory / "pools").glob("*/*.pool"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, status.st_blocks * 512, path))
        return found

    def _entry_path(self, key: str) -> Path:
        return self.directory / "pools" / key[:2] / f"{key}.pool"

    def _content_hash(self, path: str | Path) -> str:
        """Hash the whole file, or recall the hash of the same path, size and modification time."""
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path} is not a regular file")
        stamp = list(file_stamp(path))
        name = hashlib.blake2b(os.path.realpath(path).encode(), digest_size=20).hexdigest()
        memo = self.directory / "stamps" / f"{name}.json"
        try:
            known = json.loads(memo.read_text())
            if known["stamp"] == stamp:
                return str(known["content"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        digest = hashlib.blake2b(digest_size=20)
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_HASH_BLOCK):
                digest.update(block)
        _write_text(memo, json.dumps({"stamp": stamp, "content": digest.hexdigest()}))
        return digest.hexdigest()


def _versions(decoder: str) -> dict[str, str]:
    versions = {name: metadata.version(name) for name in {"av", "decord" if decoder == "decord" else "av"}}
    if decoder == "torchcodec":
        versions["torchcodec"] = metadata.version("torchcodec")
    return versions


def _write_text(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        beside.write_text(text)
        beside.replace(path)
    except OSError as error:
        logger.warning("cannot write %s: %s", path, error)
        beside.unlink(missing_ok=True)


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:
        logger.debug("cannot mark %s as used", path)
