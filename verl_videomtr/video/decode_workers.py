# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding in child processes that live on from file to file and are killed when a file holds them up.

A decoder that hangs, crashes or leaks takes its child with it and nothing else; the common case pays a round trip
instead of a process start. The children are fresh programs, never forks, so threads and locks of the parent cannot
follow them. What may be the machine's fault is tried once more, in a fresh child, before it is called anybody's.

    the child ...                                     what that is                    then
    answers, or reports an error of the file          the file's                      it is kept for the next file
    computes, without a byte or packet for too long   the file's: VideoTimeoutError   it is killed
    takes longer than the deadline, moving on         the file's: VideoTimeoutError   it is killed
    waits for bytes for too long, or does not start   perhaps the machine's           once more in a fresh child, then
    dies                                              perhaps the machine's           MachineFaultError, or, where it
                                                                                      crashed twice, DamagedVideoError

Between parent and child goes one socket: (number, operation, arguments) there; back (number, kind, value) with kind
"tick", "result" or "error", and behind the result of a decoding the frames as plain bytes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import verl_videomtr
from verl_videomtr.video.decode_worker import receive_into, receive_message, send_message
from verl_videomtr.video.errors import DamagedVideoError, MachineFaultError, VideoError, VideoTimeoutError
from verl_videomtr.video.forks import begin_anew_after_fork
from verl_videomtr.video.plan import PoolConfig, PoolPlan

_GRACE_SECONDS = 5.0
_STARTUP_SECONDS = 60.0
_LOOK_SECONDS = 0.5
"""How often a child that says nothing is looked at."""
_REQUESTS_PER_CHILD = 512
"""A child is replaced after this many requests, which bounds what a leaking decoder can gather."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How many files decode at once, and how long one may take."""

    num_processes: int = 2
    """Most children of this process."""
    stall_seconds: float = 8.0
    """Longest time without progress, which is a byte read or a packet decoded; a single frame must fit."""
    deadline_seconds: float = 600.0
    """Longest time for one request, however busy."""
    memory_gib: float = 2.0
    """Most memory that a child may take for one request, beside the frames asked for."""

    def __post_init__(self) -> None:
        for name in ("num_processes", "stall_seconds", "deadline_seconds", "memory_gib"):
            if getattr(self, name) <= 0:
                raise ValueError(f"videomtr.video.workers.{name}={getattr(self, name)}; expected a positive number")


class DecodeWorkers:
    """Children that plan pools and decode frames. Safe to call from several threads; each call has a child alone.

    After a fork, parent and child have children of their own.
    """

    def __init__(self, config: WorkerConfig | None = None) -> None:
        self._config = config or WorkerConfig()
        self._idle: list[_Child] = []
        self._free = threading.Semaphore(self._config.num_processes)
        self._lock = threading.Lock()
        self._closed = False
        begin_anew_after_fork(self)

    def plan(self, path: str | Path, config: PoolConfig) -> PoolPlan:
        """Probe `path` in a child and choose its candidate frames.

        Raises:
            VideoError: see `make_plan`; also VideoTimeoutError and MachineFaultError.
        """
        result: PoolPlan = self._call(_Request("plan", (str(path), config), path))
        return result

    def decode(self, plan: PoolPlan, rows: np.ndarray, decoder: str) -> tuple[np.ndarray, str]:
        """Decode the pool frames `rows` (rising) in a child: ((n, H, W, 3) uint8, name of the decoder that did it).

        Raises:
            VideoError: see `decoders.decode`; also VideoTimeoutError and MachineFaultError.
        """
        request = _Request("decode", (plan, rows, decoder), plan.path, torchcodec=decoder == "torchcodec")
        result: tuple[np.ndarray, str] = self._call(request)
        return result

    def check(self, path: str | Path, config: PoolConfig) -> PoolPlan:
        """Decode every frame that the pool of `path` would hold, in a child that keeps none, and return its plan.

        What passes can be read in training; opening alone shows no damage behind the first frame.

        Raises:
            VideoError: as `plan` and `decode`.
        """
        request = _Request("check", (str(path), config), path, torchcodec=config.decoder == "torchcodec")
        result: PoolPlan = self._call(request)
        return result

    def hash_file(self, path: str | Path) -> str:
        """Hash the bytes of `path` in a child, so that storage which hangs holds up no thread of this process.

        Raises:
            OSError: it cannot be read.
            VideoError: MachineFaultError or VideoTimeoutError.
        """
        return str(self._call(_Request("hash", (str(path),), path)))

    def close(self) -> None:
        """End the idle children; a busy one ends with its request."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    def begin_after_fork(self) -> None:
        """Leave the children to the process that started them."""
        for child in self._idle:
            child.disown()
        self._idle = []
        self._free = threading.Semaphore(self._config.num_processes)
        self._lock = threading.Lock()

    def _call(self, request: _Request) -> Any:
        with self._free:
            try:
                return self._call_once(request)
            except _MayBeMachineError:
                pass
            try:
                return self._call_once(request, fresh=True)
            except _MayBeMachineError as error:
                raise error.verdict from error.__cause__

    def _call_once(self, request: _Request, *, fresh: bool = False) -> Any:
        child = self._take(request.torchcodec, fresh)
        healthy = False
        try:
            result = child.ask(request, self._config)
            healthy = True
            return result
        except _FileError as error:
            healthy = True
            raise error.cause from None
        finally:
            self._give_back(child, healthy)

    def _take(self, torchcodec: bool, fresh: bool) -> _Child:
        with self._lock:
            # The child that worked last comes first: its pages are warm. torchcodec needs a loader path of its own.
            for position in range(len(self._idle) - 1, -1, -1):
                if self._idle[position].torchcodec == torchcodec and not fresh:
                    return self._idle.pop(position)
            surplus = self._idle.pop(0) if len(self._idle) >= self._config.num_processes else None
        if surplus is not None:
            surplus.close()
        return _Child(self._config, torchcodec=torchcodec)

    def _give_back(self, child: _Child, healthy: bool) -> None:
        with self._lock:
            keep = healthy and not self._closed and child.requests < _REQUESTS_PER_CHILD
            if keep:
                self._idle.append(child)
        if not keep:
            child.close()


@dataclass(frozen=True)
class _Request:
    operation: str
    arguments: tuple[Any, ...]
    path: str | Path
    torchcodec: bool = False


class _FileError(Exception):
    """An error that the child reported about the file: the child itself is well."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _MayBeMachineError(Exception):
    """A failure that a fresh child may not meet again; `verdict` is what to say where it does."""

    def __init__(self, verdict: VideoError) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


class _Child:
    """One decoding process and the socket to it."""

    def __init__(self, config: WorkerConfig, *, torchcodec: bool) -> None:
        self.torchcodec = torchcodec
        self.requests = 0
        self._is_ready = False
        self._sock, theirs = socket.socketpair()
        command = [sys.executable, "-m", "verl_videomtr.video.decode_worker", str(theirs.fileno())]
        command += [str(config.deadline_seconds + _GRACE_SECONDS), str(int(config.memory_gib * 2**30))]
        with theirs:
            self._process = subprocess.Popen(
                [*command, *(["torchcodec.decoders"] if torchcodec else [])],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=worker_environment(torchcodec),
            )
        self._watch = _Watch(self._process.pid)

    def ask(self, request: _Request, config: WorkerConfig) -> Any:
        """Send a request and return its answer.

        Raises:
            _FileError: what the child found wrong; it is well.
            _MayBeMachineError: it died, or waited in vain; it is ended.
            VideoTimeoutError: the file kept it busy; it is ended.
        """
        try:
            if not self._is_ready:
                # A fresh child says once that its imports are done; they are no part of the file's time.
                self._receive(_STARTUP_SECONDS, time.monotonic() + _STARTUP_SECONDS)
                self._is_ready = True
            self.requests += 1
            self._sock.settimeout(_GRACE_SECONDS)
            send_message(self._sock, (self.requests, request.operation, request.arguments))
            ends = time.monotonic() + config.deadline_seconds
            while (message := self._receive(config.stall_seconds, ends))[1] == "tick":
                pass
            number, kind, result = message
            if number != self.requests:
                raise EOFError("the answer is to another request")
            if kind == "error":
                raise _FileError(result)
            return result if request.operation != "decode" else self._frames(*result)
        except TimeoutError as error:
            raise self._too_slow(request, config) from error
        except (EOFError, ConnectionError) as error:
            self.close()
            raise _MayBeMachineError(_death(self._process.returncode, request.path)) from error

    def _receive(self, patience_seconds: float, ends: float) -> Any:
        """Return the next message; TimeoutError where the child makes no progress for so long, or `ends` passes."""
        self._watch.begin()
        # Woken now and then to look at the child from outside: one that is stuck in C code sends no ticks.
        while not select.select([self._sock], [], [], _LOOK_SECONDS if patience_seconds > 1 else 0.05)[0]:
            self._watch.look()
            if time.monotonic() > ends or self._watch.idle_seconds() > patience_seconds:
                raise TimeoutError
        self._sock.settimeout(patience_seconds)
        return receive_message(self._sock)

    def _frames(self, shape: tuple[int, ...], decoder: str) -> tuple[np.ndarray, str]:
        frames = np.empty(shape, dtype=np.uint8)
        receive_into(self._sock, frames.data.cast("B"))
        return frames, decoder

    def _too_slow(self, request: _Request, config: WorkerConfig) -> Exception:
        idle, was_busy = self._watch.idle_seconds(), self._watch.was_busy()
        self.kill()
        if not self._is_ready:
            verdict = f"was not looked at: its decoding process did not start within {_STARTUP_SECONDS:.0f} s"
            remedy = "check the load, the memory and the storage of this machine"
            return _MayBeMachineError(MachineFaultError(verdict, path=request.path, remedy=remedy))
        if idle <= config.stall_seconds:
            return VideoTimeoutError(
                f"took longer than {config.deadline_seconds:.0f} s in all",
                path=request.path,
                remedy="raise videomtr.video.workers.deadline_seconds, fetch it to faster storage, or drop it",
            )
        if was_busy:
            return VideoTimeoutError(
                f"kept its decoder busy without any progress for {config.stall_seconds:.0f} s",
                path=request.path,
                remedy="drop it or re-encode it",
            )
        verdict = f"gave its decoder nothing to do for {config.stall_seconds:.0f} s, twice"
        remedy = "check the storage and the load of this machine; drop it if no other video does so"
        return _MayBeMachineError(MachineFaultError(verdict, path=request.path, remedy=remedy))

    def kill(self) -> None:
        """End the process now; where it waits for storage the kernel lets it go later."""
        self._process.kill()
        self._sock.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_GRACE_SECONDS)

    def close(self) -> None:
        """Let the process end by itself, and see to it that it does."""
        self._sock.close()
        try:
            self._process.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def disown(self) -> None:
        """Leave the process to the one that started it."""
        self._sock.close()
        self._process.returncode = 0  # Not ours to wait for.


class _Watch:
    """Sees from outside whether a process gets on: by the bytes that it reads, and whether it computes or waits."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.begin()

    def begin(self) -> None:
        """Take now for the last time that it got on."""
        self._since, self._bytes, self._looks, self._busy_looks = time.monotonic(), self._bytes_read(), 0, 0

    def look(self) -> None:
        """Start the wait again if it read bytes meanwhile."""
        if self._bytes_read() != self._bytes:
            self.begin()
        self._looks += 1
        self._busy_looks += self._computes()

    def idle_seconds(self) -> float:
        """Time since it got on."""
        return time.monotonic() - self._since

    def was_busy(self) -> bool:
        """Whether it mostly computed, rather than waited, while it did not get on."""
        return 2 * self._busy_looks > self._looks

    def _bytes_read(self) -> int:
        try:
            return int(self._process.io_counters().read_chars)
        except (psutil.Error, AttributeError, OSError):  # Not every system tells.
            return 0

    def _computes(self) -> bool:
        try:
            return bool(self._process.status() == psutil.STATUS_RUNNING)
        except (psutil.Error, OSError):
            return False


def _death(code: int | None, path: str | Path) -> VideoError:
    if code == -signal.SIGKILL:
        return MachineFaultError(
            "was not decoded: its decoding process was killed twice (signal 9), as happens where memory runs out",
            path=path,
            remedy="free memory, or lower videomtr.video.workers.num_processes or memory_gib",
        )
    what = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return DamagedVideoError(f"ended its decoding process twice ({what})", path=path, remedy="drop it or re-encode it")


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


def _renew_shared_lock() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_shared_lock)


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
