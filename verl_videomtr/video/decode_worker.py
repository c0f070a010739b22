# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The child process that opens and decodes files.

    python -m verl_videomtr.video.decode_worker FD SECONDS BYTES [MODULE]

It says when it is ready, then answers requests on one socket until the other end closes; each answer repeats the
number of its request. While it works it sends a tick at most every `TICK_SECONDS`, so that the parent can tell slow
from stuck. Its own alarm, handled by the kernel, ends it where a request outlives SECONDS, even inside a library that
never returns and even if the parent is gone. A request may take BYTES of memory beside the frames that it asks for.
MODULE is imported before it is ready: torch takes longer to import than a decoder may stand still.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import math
import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import psutil

from verl_videomtr.video import decoders, plan
from verl_videomtr.video.content_hash import content_hash
from verl_videomtr.video.errors import DamagedVideoError, MachineFaultError, UnsupportedVideoError, VideoError

TICK_SECONDS = 0.25
ORPHAN_CHECK_SECONDS = 5.0
NICENESS = 5
"""Decoding gives way to the process that serves frames that are there already."""
READY = (0, "ready", None)
_LENGTH = struct.Struct("!I")
_CHECKED_FRAMES = 16
"""Frames decoded at once where they are looked at and not returned."""
_MACHINE_ERRORS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EREMOTEIO})


def send_message(sock: socket.socket, message: Any, array: np.ndarray | None = None) -> None:
    """Send one pickled message, then an array's bytes as they are."""
    payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    sock.sendall(_LENGTH.pack(len(payload)) + payload)
    if array is not None:
        sock.sendall(array.data.cast("B"))


def receive_message(sock: socket.socket) -> Any:
    """Receive one pickled message.

    Raises:
        EOFError: the other end is closed.
    """
    length = bytearray(_LENGTH.size)
    receive_into(sock, memoryview(length))
    payload = bytearray(_LENGTH.unpack(length)[0])
    receive_into(sock, memoryview(payload))
    return pickle.loads(payload)


def receive_into(sock: socket.socket, buffer: memoryview) -> None:
    """Fill `buffer`; EOFError where the other end closes first."""
    while len(buffer):
        count = sock.recv_into(buffer)
        if not count:
            raise EOFError("the other end closed the connection")
        buffer = buffer[count:]


def serve(sock: socket.socket, deadline_seconds: float, memory_bytes: int) -> None:
    """Answer requests until the other end closes or the parent is gone."""
    parent = os.getppid()
    send_message(sock, READY)
    while True:
        while not select.select([sock], [], [], ORPHAN_CHECK_SECONDS)[0]:
            if os.getppid() != parent:
                return
        try:
            number, operation, arguments = receive_message(sock)
        except (EOFError, ConnectionError):
            return
        signal.setitimer(signal.ITIMER_REAL, deadline_seconds)
        _bound_memory(memory_bytes + _answer_bytes(operation, arguments))
        _answer(partial(_send, sock, number), operation, arguments, memory_bytes)
        signal.setitimer(signal.ITIMER_REAL, 0)


def check_pool(path: str, config: plan.PoolConfig, *, tick: Callable[[], None]) -> plan.PoolPlan:
    """Decode every frame of the pool of `path`, keep none, and return the plan.

    Raises:
        VideoError: see `make_plan` and `decode`.
    """
    made = plan.make_plan(path, config, tick=tick)
    decoder = config.decoder
    for start in range(0, made.num_frames, _CHECKED_FRAMES):
        rows = np.arange(start, min(start + _CHECKED_FRAMES, made.num_frames))
        _, used = decoders.decode(made, rows, decoder, tick=tick)
        decoder = used if used == "pyav-full" else decoder
    return made


def _send(sock: socket.socket, number: int, kind: str, result: Any, array: np.ndarray | None = None) -> None:
    send_message(sock, (number, kind, result), array)


def _answer(send: Callable[..., None], operation: str, arguments: tuple[Any, ...], memory_bytes: int) -> None:
    last = time.monotonic()

    def tick() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= TICK_SECONDS:
            last = now
            send("tick", None)

    path = arguments[0].path if operation == "decode" else arguments[0]
    try:
        if operation == "decode":
            frames, decoder = decoders.decode(*arguments, tick=tick)
            send("result", (frames.shape, decoder), frames)
        else:
            send("result", _OPERATIONS[operation](*arguments, tick=tick))
    except VideoError as error:
        send("error", error)
    except MemoryError:
        reason = f"needs more than {memory_bytes / 2**30:.3g} GiB of memory to be decoded"
        remedy = "raise videomtr.video.workers.memory_gib, or re-encode it at a smaller size"
        send("error", UnsupportedVideoError(reason, path=path, remedy=remedy))
    except (RuntimeError, ValueError, OverflowError, OSError) as error:
        if operation == "hash":
            send("error", error)
        elif isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
            send("error", MachineFaultError(f"cannot be read ({error})", path=path, remedy="check the storage"))
        else:
            # A damaged file can make a decoder's binding fail in ways of its own; the file is still what is wrong.
            send("error", DamagedVideoError(f"made the decoder fail ({type(error).__name__}: {error})", path=path))


_OPERATIONS: dict[str, Callable[..., Any]] = {"plan": plan.make_plan, "check": check_pool, "hash": content_hash}


def _answer_bytes(operation: str, arguments: tuple[Any, ...]) -> int:
    """Bytes of the frames that a request asks for."""
    if operation == "decode":
        return 3 * len(arguments[1]) * int(math.prod(arguments[0].size))
    return 0


def _bound_memory(more: int) -> None:
    """Let this process allocate `more` bytes from now on; allocations beyond that fail."""
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = psutil.Process().memory_info().data + more
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


if __name__ == "__main__":
    os.nice(NICENESS)
    # A program inherits which signals are ignored or held back: the alarm must be neither.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    for module in sys.argv[4:]:
        with contextlib.suppress(ImportError, OSError, RuntimeError):  # The decoder says what is missing.
            importlib.import_module(module)
    serve(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]), int(sys.argv[3]))
