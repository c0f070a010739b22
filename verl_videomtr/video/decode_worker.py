"""The child process that opens and decodes files: `python -m verl_videomtr.video.decode_worker FD SECONDS [MODULE]`.

It answers requests on one socket until the other end closes. While it works it sends a tick at most every
`TICK_SECONDS`, so that the parent can tell slow from stuck. Its own alarm, handled by the kernel, ends it where a
request outlives its deadline, even inside a library that never returns and even if the parent is gone. MODULE is
imported before the first request is answered: torch takes longer to import than a decoder may stand still.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

import numpy as np

from verl_videomtr.video.errors import DamagedVideoError, VideoError

TICK_SECONDS = 0.25
ORPHAN_CHECK_SECONDS = 5.0
NICENESS = 5
"""Decoding gives way to the process that serves frames that are there already."""
_LENGTH = struct.Struct("!I")


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


def serve(sock: socket.socket, deadline_seconds: float) -> None:
    """Answer requests until the other end closes or the parent is gone."""
    parent = os.getppid()
    while True:
        while not select.select([sock], [], [], ORPHAN_CHECK_SECONDS)[0]:
            if os.getppid() != parent:
                return
        try:
            operation, arguments = receive_message(sock)
        except (EOFError, ConnectionError):
            return
        signal.setitimer(signal.ITIMER_REAL, deadline_seconds)
        _answer(sock, operation, arguments)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(sock: socket.socket, operation: str, arguments: tuple[Any, ...]) -> None:
    last = time.monotonic()

    def tick() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= TICK_SECONDS:
            last = now
            send_message(sock, ("tick", None))

    try:
        if operation == "plan":
            from verl_videomtr.video.plan import make_plan

            send_message(sock, ("plan", make_plan(*arguments, tick=tick)))
        else:
            from verl_videomtr.video.decoders import decode

            frames, decoder = decode(*arguments, tick=tick)
            send_message(sock, ("frames", (frames.shape, decoder)), frames)
    except VideoError as error:
        send_message(sock, ("error", error))
    except (MemoryError, RuntimeError, ValueError, OverflowError, OSError) as error:
        # A damaged file can make a decoder's binding fail in ways of its own; the file is still what is wrong.
        path = arguments[0] if operation == "plan" else arguments[0].path
        reason = f"made the decoder fail ({type(error).__name__}: {error})"
        send_message(sock, ("error", DamagedVideoError(reason, path=path)))


if __name__ == "__main__":
    os.nice(NICENESS)
    # A program inherits which signals are ignored or held back: the alarm must be neither.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    for module in sys.argv[3:]:
        with contextlib.suppress(ImportError, OSError, RuntimeError):  # The decoder says what is missing.
            importlib.import_module(module)
    serve(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]))
