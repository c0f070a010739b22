# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a run starts and leaves behind: its processes end with it, and the shared memory that they made goes.

Ray's and vLLM's processes outlive the trainer that started them when that is killed. While a run is watched, orphans
below this process become its children (Linux: a subreaper), so none is lost sight of. verl's weight transfer makes
segments `psm_*` in /dev/shm and leaves them behind; other programs make files of that name too, so a segment is the
run's only if one of its processes was seen to have it open.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
_LOOK_SECONDS = 0.5
_PR_SET_CHILD_SUBREAPER = 36


class RunWatch:
    """Watches what is started within a block; at its end, ends what is left of it and removes its segments."""

    def __init__(self, *, wait_seconds: float = 15.0) -> None:
        """
        Args:
            wait_seconds: how long processes may take to end by themselves.
        """
        self._wait_seconds = wait_seconds
        self._segments: set[Path] = set()

    def __enter__(self) -> RunWatch:
        _adopt_orphans(True)
        self._before = set(psutil.Process().children(recursive=True))
        self._start = self._peak = psutil.virtual_memory().used
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._end_processes()
        finally:
            self._stop.set()
            self._thread.join()
            for segment in self._segments:
                segment.unlink(missing_ok=True)
            _adopt_orphans(False)

    @property
    def peak_gib(self) -> float:
        """How far the machine's used memory rose."""
        return (self._peak - self._start) / 2**30

    def processes(self) -> list[psutil.Process]:
        """What was started within the block and has not ended."""
        return [process for process in psutil.Process().children(recursive=True) if process not in self._before]

    def _end_processes(self) -> None:
        psutil.wait_procs(self.processes(), timeout=self._wait_seconds)
        for end, wait_seconds in ((psutil.Process.terminate, 5), (psutil.Process.kill, 5)):
            # Asked anew: what ended may have left orphans.
            left = self.processes()
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    end(process)
            psutil.wait_procs(left, timeout=wait_seconds)

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            self._peak = max(self._peak, psutil.virtual_memory().used)
            for process in self.processes():
                self._segments.update(_open_segments(process.pid))


def _adopt_orphans(adopt: bool) -> None:
    with contextlib.suppress(AttributeError, OSError):  # Not Linux: orphans go to init, and are not seen.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def _open_segments(pid: int) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                path = Path(os.readlink(descriptor))
                if path.parent == SHARED_MEMORY and path.name.startswith("psm_"):
                    yield path
