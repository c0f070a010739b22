"""Decoding in child processes that live on from file to file and are killed when a file holds them up.

A decoder that hangs, crashes or leaks takes its child with it and nothing else; the common case pays a round trip
instead of a process start. The children are fresh programs, never forks, so threads and locks of the parent cannot
follow them.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import verl_videomtr
from verl_videomtr.video.decode_worker import receive_into, receive_message, send_message
from verl_videomtr.video.errors import DamagedVideoError, VideoTimeoutError
from verl_videomtr.video.plan import PoolConfig, PoolPlan

_GRACE_SECONDS = 5.0
_STARTUP_SECONDS = 60.0
_REQUESTS_PER_CHILD = 512
"""A child is replaced after this many requests, which bounds what a leaking decoder can gather."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How many files decode at once, and how long one may take."""

    num_processes: int = 2
    """Most children of this process."""
    stall_seconds: float = 8.0
    """Longest time without any progress before a file is given up; an import or a single frame must fit."""
    deadline_seconds: float = 600.0
    """Longest time for one request, however busy."""

    def __post_init__(self) -> None:
        for name in ("num_processes", "stall_seconds", "deadline_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"videomtr.video.workers.{name}={getattr(self, name)}; expected a positive number")


class DecodeWorkers:
    """Children that plan pools and decode frames. Safe to call from several threads; each call has a child alone."""

    def __init__(self, config: WorkerConfig | None = None) -> None:
        self._config = config or WorkerConfig()
        self._idle: list[_Child] = []
        self._free = threading.Semaphore(self._config.num_processes)
        self._lock = threading.Lock()
        self._closed = False

    def plan(self, path: str | Path, config: PoolConfig) -> PoolPlan:
        """Probe `path` in a child and choose its candidate frames.

        Raises:
            VideoError: see `make_plan`; also VideoTimeoutError.
        """
        return self._call("plan", (str(path), config), path, lambda _, result: result)

    def decode(self, plan: PoolPlan, rows: np.ndarray, decoder: str) -> tuple[np.ndarray, str]:
        """Decode the pool frames `rows` (rising) in a child: ((n, H, W, 3) uint8, name of the decoder that did it).

        Raises:
            VideoError: see `decoders.decode`; also VideoTimeoutError.
        """

        def receive(child: _Child, result: tuple[tuple[int, ...], str]) -> tuple[np.ndarray, str]:
            frames = np.empty(result[0], dtype=np.uint8)
            receive_into(child.sock, frames.data.cast("B"))
            return frames, result[1]

        return self._call("decode", (plan, rows, decoder), plan.path, receive, torchcodec=decoder == "torchcodec")

    def close(self) -> None:
        """End the idle children; a busy one ends with its request."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    def _call(
        self,
        operation: str,
        arguments: tuple[Any, ...],
        path: str | Path,
        receive: Callable[[_Child, Any], Any],
        *,
        torchcodec: bool = False,
    ) -> Any:
        with self._free:
            child = self._take(torchcodec)
            healthy = False
            try:
                result = self._converse(child, operation, arguments, path, receive)
                healthy = True
                return result
            except _FileError as error:
                healthy = True
                raise error.cause from None
            finally:
                self._give_back(child, healthy)

    def _converse(
        self,
        child: _Child,
        operation: str,
        arguments: tuple[Any, ...],
        path: str | Path,
        receive: Callable[[_Child, Any], Any],
    ) -> Any:
        config = self._config
        patience = config.stall_seconds if child.requests else _STARTUP_SECONDS
        ends = time.monotonic() + config.deadline_seconds + (0 if child.requests else _STARTUP_SECONDS)
        child.requests += 1
        try:
            child.sock.settimeout(_GRACE_SECONDS)
            send_message(child.sock, (operation, arguments))
            while True:
                child.sock.settimeout(max(0.001, min(patience, ends - time.monotonic())))
                kind, result = receive_message(child.sock)
                patience = config.stall_seconds
                if kind == "error":
                    raise _FileError(result)
                if kind != "tick":
                    return receive(child, result)
        except TimeoutError as error:
            child.kill()
            raise VideoTimeoutError(
                f"held up its decoder: no progress for {patience:.0f} s, or {config.deadline_seconds:.0f} s in all",
                path=path,
                remedy="drop it or re-encode it",
            ) from error
        except (EOFError, ConnectionError) as error:
            code = child.kill()
            raise DamagedVideoError(f"ended its decoding process (exit code {code})", path=path) from error

    def _take(self, torchcodec: bool) -> _Child:
        with self._lock:
            for position in range(len(self._idle) - 1, -1, -1):
                if self._idle[position].torchcodec == torchcodec:
                    return self._idle.pop(position)
            surplus = self._idle.pop(0) if len(self._idle) >= self._config.num_processes else None
        if surplus is not None:
            surplus.close()
        return _Child(self._config.deadline_seconds + _GRACE_SECONDS, torchcodec=torchcodec)

    def _give_back(self, child: _Child, healthy: bool) -> None:
        with self._lock:
            keep = healthy and not self._closed and child.requests < _REQUESTS_PER_CHILD
            if keep:
                self._idle.append(child)
        if not keep:
            child.close()


class _FileError(Exception):
    """An error that the child reported about the file: the child itself is well."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Child:
    """One decoding process and the socket to it."""

    def __init__(self, alarm_seconds: float, *, torchcodec: bool) -> None:
        self.torchcodec = torchcodec
        self.requests = 0
        self.sock, theirs = socket.socketpair()
        command = [sys.executable, "-m", "verl_videomtr.video.decode_worker"]
        preload = ["torchcodec.decoders"] if torchcodec else []
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(alarm_seconds), *preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=worker_environment(torchcodec),
            )

    def kill(self) -> int:
        """End the process now and return its exit code."""
        self._process.kill()
        self.sock.close()
        return self._process.wait()

    def close(self) -> None:
        """Let the process end by itself, and see to it that it does."""
        self.sock.close()
        try:
            self._process.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def shared_workers() -> DecodeWorkers:
    """The workers that this process shares among its pools; started on first use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = DecodeWorkers()
            atexit.register(_shared.close)
        return _shared


_shared: DecodeWorkers | None = None
_shared_lock = threading.Lock()


def _forget_after_fork() -> None:
    global _shared, _shared_lock, _ffmpeg_links
    _shared, _shared_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)


def worker_environment(torchcodec: bool) -> dict[str, str]:
    """The environment of a decoding process: this package importable and, where wanted, FFmpeg for torchcodec."""
    root = str(Path(verl_videomtr.__file__).parents[1])
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    if torchcodec:
        found = (_ffmpeg_of_pyav(), environment.get("LD_LIBRARY_PATH"))
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, found))
    return environment


_ffmpeg_links: tempfile.TemporaryDirectory[str] | None = None


def _ffmpeg_of_pyav() -> str | None:
    """Make the FFmpeg inside PyAV's wheel loadable by torchcodec, which ships none: links under the usual names.

    Returns:
        What to put on the loader's search path; None where PyAV was built against the system's FFmpeg.
    """
    global _ffmpeg_links
    import av

    libraries = Path(av.__file__).parents[1] / "av.libs"
    if not libraries.is_dir():
        return None
    with _shared_lock:
        if _ffmpeg_links is None:
            _ffmpeg_links = tempfile.TemporaryDirectory(prefix="videomtr-ffmpeg-")
            for library in libraries.iterdir():
                name, _, version = library.name.partition(".so.")
                if name.startswith(("libav", "libsw")) and version:
                    link = Path(_ffmpeg_links.name) / f"{name.rsplit('-', 1)[0]}.so.{version.split('.')[0]}"
                    link.symlink_to(library)
        return os.pathsep.join((_ffmpeg_links.name, str(libraries)))
