"""The answers that were paid for, one JSON line each, on disk before the next is asked for.

A killed run loses at most the requests in flight: the next run reads the journal and asks only for what is missing.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any


class JournalError(ValueError):
    """The journal is in use by another run, or holds a line that no run writes."""


class Journal:
    """Answers by request key; open from construction to `close`, by one process at a time.

    Raises:
        JournalError: another process holds it, or a line before the last is not an entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b")  # noqa: SIM115 (closed by close)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise JournalError(f"another run is writing it; expected one run at a time; {path}; wait for it") from None
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
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.entries[entry["key"]] = entry

    def close(self) -> None:
        self._file.close()

    def _read(self) -> dict[str, dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            # A run that was killed in the middle of a write: that answer is asked for again.
            self._file.truncate(len(content) - len(torn))
        entries: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                entry = json.loads(line)
                entries[entry["key"]] = entry
            except (ValueError, TypeError, KeyError, RecursionError):
                raise JournalError(
                    f"line {number} is not an entry; expected JSON with a 'key'; {self.path}; "
                    "remove that line, or move the journal away to start anew"
                ) from None
        return entries
