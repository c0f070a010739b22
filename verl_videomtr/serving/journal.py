# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The answers that were paid for, one JSON line each, on disk before they are used.

A killed run loses at most the requests in flight: the next run reads the journal and asks only for what is missing.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEGINNING = b'{"key": "'
"""What every entry begins with; a file that begins with something else was written by somebody else."""
WOKEN_AT_ONCE = 16
"""Tasks that wait for one write and go on in one step of the event loop."""


class JournalError(ValueError):
    """The journal is in use by another run, cannot be written, or holds a line that no run writes."""


class Journal:
    """Answers by request key; open from construction to `close`, by one process at a time.

    Raises:
        JournalError: another process holds it, or a line before the last is not an entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not buffered: what could not be written must not be tried again when the file is closed.
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by close)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise JournalError(f"another run is writing it; expected one run at a time; {path}; wait for it") from None
        except OSError as error:
            self._file.close()
            raise JournalError(
                f"it cannot be locked ({error}); expected a file system with locks, so that two runs cannot "
                f"mix their answers; {path}; give a folder on another disk"
            ) from None
        try:
            self.entries = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def append(self, entry: dict[str, Any]) -> None:
        """Add an answered request; it is on disk when this returns. `entry["key"]` is the request's key."""
        self.append_all([entry])

    def append_all(self, entries: Sequence[dict[str, Any]]) -> None:
        """Add several with one wait for the disk; all or none."""
        lines = memoryview(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
        size = os.fstat(self._file.fileno()).st_size
        try:
            while lines:
                lines = lines[self._file.write(lines) :]
            os.fsync(self._file.fileno())
        except OSError:
            # On a full disk a part of it may be there, and would be glued to whatever is written next.
            self._file.truncate(size)
            raise
        self.entries.update((entry["key"], entry) for entry in entries)

    def close(self) -> None:
        self._file.close()

    def _read(self) -> dict[str, dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        whole, _, torn = content.rpartition(b"\n")
        entries: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                entry = json.loads(line)
                entries[entry["key"]] = entry
            except (ValueError, TypeError, KeyError, RecursionError):
                raise JournalError(
                    f"line {number} is not an entry; expected JSON with a 'key'; {self.path}; "
                    "remove that line, or move the journal away to start again"
                ) from None
        if torn and not entries and not (torn.startswith(BEGINNING) or BEGINNING.startswith(torn)):
            raise JournalError(
                f"no entry in it; expected JSON with a 'key'; {self.path}; give the journal another name"
            )
        if torn:
            # A run that was killed in the middle of a write: that answer is asked for again.
            self._file.truncate(len(content) - len(torn))
        return entries


class SharedJournal:
    """A journal that many tasks of one event loop write: what arrives while the disk is busy is written together."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the entry of a key, None where there is none."""
        return self.journal.entries.get(key)

    async def append(self, entry: dict[str, Any]) -> None:
        """Add an entry; it is on disk when this returns, and the loop has not waited for it.

        Raises:
            JournalError: it cannot be written.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await done

    async def drain(self) -> None:
        """Wait until everything that was handed over is on disk; to be called before the journal is closed."""
        if self._writer is not None:
            await self._writer

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failure: JournalError | None = None
            try:
                await asyncio.to_thread(self.journal.append_all, [entry for entry, _ in batch])
            except OSError as error:
                failure = JournalError(
                    f"an answer cannot be kept ({error}); expected a place to write; {self.journal.path}; make room, "
                    "and run the same command again"
                )
            for number, (_, done) in enumerate(batch):
                if number % WOKEN_AT_ONCE == WOKEN_AT_ONCE - 1:
                    # Each goes on with its episode at once: hundreds together would hold the loop up.
                    await asyncio.sleep(0)
                if done.done():
                    continue
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)
