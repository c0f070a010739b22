# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Ends a run that cannot go on: a process that it needs is dead, or nothing moves for too long.

The trainer waits in its main thread, mostly inside libraries that know no time limit. A thread of its own looks at the
processes every few seconds, and ends the wait with an exception in the main thread that says what was waited for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks at the processes."""
SILENT_SECONDS = 10.0
"""A process that has not answered for so long is named as silent."""
UNWIND_SECONDS = 60.0
"""What the main thread has to end after its exception; it may stand where no exception reaches it."""


class RunEndedError(RuntimeError):
    """The run cannot go on; the message says what was waited for, which process is at fault and where its log is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Health:
    """What one look at a process found."""

    state: Literal["answers", "silent", "dead"]
    cause: str = ""
    """Of a dead one."""


class Process(Protocol):
    """A process that the run needs."""

    name: str
    """As a person calls it: `agent-loop worker 3`."""

    def look(self) -> Health:
        """Look at it without waiting."""
        ...

    def where(self) -> str:
        """Say its pid, its node and its log, as far as they are known."""
        ...


class IdleClock:
    """Seconds since something moved, as this process lived them: a pause of the process itself does not count."""

    def __init__(self, *, most_seconds: float = 2 * LOOK_SECONDS) -> None:
        """
        Args:
            most_seconds: what one tick may add; a process that was stopped finds a longer gap.
        """
        self._most = most_seconds
        self._last = time.monotonic()
        self.seconds = 0.0

    def tick(self) -> float:
        """Add the time since the last tick; return the sum."""
        now = time.monotonic()
        self.seconds += min(now - self._last, self._most)
        self._last = now
        return self.seconds

    def reset(self) -> None:
        """Something moved."""
        self._last = time.monotonic()
        self.seconds = 0.0


class Watchdog:
    """Watches the processes of one run from a thread of the trainer's process."""

    def __init__(
        self,
        *,
        stall_seconds: float | None,
        phase_seconds: float | None,
        find: Callable[[], Iterable[Process]],
        waiting: Callable[[], str],
        advice: Callable[[], str],
        look_seconds: float = LOOK_SECONDS,
        unwind_seconds: float = UNWIND_SECONDS,
    ) -> None:
        """
        Args:
            stall_seconds: most time without any movement while episodes are waited for; None sets no limit, and dead
                processes are seen all the same.
            phase_seconds: most time of any other phase, in which nothing moves before its end; None sets no limit.
            find: the processes that are needed now; the same object for the same process.
            waiting: what is waited for, in words.
            advice: where the last checkpoint is and how the run goes on from it, in words.
        """
        self.stall_seconds, self.phase_seconds = stall_seconds, phase_seconds
        self._find, self._waiting, self._advice = find, waiting, advice
        self._look_seconds, self._unwind_seconds = look_seconds, unwind_seconds
        self._clock = IdleClock(most_seconds=2 * look_seconds)
        self._silent: dict[str, IdleClock] = {}
        self._phases: list[tuple[str, bool]] = []
        """Name, and whether episodes are waited for in it; the innermost is the last."""
        self.between_phases = "the start"
        """What goes on while no phase does."""
        self._warned = False
        self._over = threading.Event()
        self._dismissed = threading.Event()
        self._verdict: str | None = None
        """Why the run ends, once it does."""
        self._is_due = False
        """It is still to be raised in the thread that waits."""
        self._guarding = False
        self._thread = threading.Thread(target=self._watch, name="videomtr-watchdog", daemon=True)

    def start(self) -> None:
        """Begin; call it from the thread that waits, which is then interrupted only inside `guard`."""
        self._waiter = threading.current_thread()
        if self._waiter is threading.main_thread():
            signal.signal(signal.SIGUSR1, self._interrupt)
        self._thread.start()

    @contextlib.contextmanager
    def guard(self, *, patience_seconds: Callable[[Exception], float]) -> Iterator[None]:
        """Run what waits; an error that a dead process caused is told as that process's death.

        Args:
            patience_seconds: how long to look for a dead process behind an error.
        Raises:
            RunEndedError: the run cannot go on.
        """
        self._guarding = True
        try:
            yield
        except KeyboardInterrupt:
            if self._verdict is None:
                raise
            # Ray raises one of its own in place of that which a signal raised in its code.
            self.stop()
            raise RunEndedError(self._verdict) from None
        except Exception as error:
            self.stop()
            # A library may have made an error of the interruption.
            message = self._verdict or self.say_dead(patience_seconds=patience_seconds(error))
            if message is not None:
                raise RunEndedError(message) from error
            raise
        finally:
            self._guarding = False

    def stop(self) -> None:
        """End the watch; the process of a run that the watchdog ends has the rest of `unwind_seconds` to leave."""
        self._over.set()

    def dismiss(self) -> None:
        """Take back the end of the process, where its run has ended and it has not."""
        self._over.set()
        self._dismissed.set()

    def moved(self) -> None:
        """Say that something went on."""
        self._clock.reset()
        self._warned = False

    @contextlib.contextmanager
    def during(self, phase: str, *, of_episodes: bool = False) -> Iterator[None]:
        """Name what the trainer does; its begin and its end are movements. An error keeps the name of its phase.

        Args:
            of_episodes: it waits for episodes, each of which is a movement.
        """
        self._phases.append((phase, of_episodes))
        self.moved()
        yield
        self._phases.pop()
        self.moved()

    def say_dead(self, *, patience_seconds: float) -> str | None:
        """Word the end of the run where a process is dead: it may be the cause of another error."""
        deadline = time.monotonic() + patience_seconds
        while True:
            for process in self._find():
                health = process.look()
                if health.state == "dead":
                    return self._say_dead(process, health)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.2)

    def _watch(self) -> None:
        while not self._over.wait(self._look_seconds):
            try:
                message = self._look()
            except Exception:
                logger.exception("the watchdog itself failed; it tries again")
                continue
            if message is not None:
                self._end(message)
                return

    def _look(self) -> str | None:
        """Look at all processes; return the sentence that ends the run, if it must end."""
        limit, key = self._limit()
        silent = []
        try:
            for process in self._find():
                health = process.look()
                if health.state == "dead":
                    return self._say_dead(process, health)
                clock = self._silent.setdefault(process.name, IdleClock(most_seconds=2 * self._look_seconds))
                if health.state == "answers":
                    clock.reset()
                elif clock.tick() >= min(SILENT_SECONDS, (limit or SILENT_SECONDS) / 2):
                    silent.append(process)
        except Exception:  # the limit holds all the same
            logger.exception("the watchdog could not look at the processes of this run; it tries again")
        idle = self._clock.tick()
        if limit is None:
            return None
        if idle >= limit:
            return f"{self._say_idle(idle, silent)}; {self._advice()}, with a larger videomtr.{key} if it was busy"
        if idle >= limit / 2 and not self._warned:
            self._warned = True
            logger.warning("%s; the run ends after %s", self._say_idle(idle, silent), _say_seconds(limit))
        return None

    def _limit(self) -> tuple[float | None, str]:
        """Return the limit of what the trainer does now, and its key."""
        if self._phases and self._phases[-1][1]:
            return self.stall_seconds, "stall_minutes"
        return self.phase_seconds, "phase_minutes"

    def _say_dead(self, process: Process, health: Health) -> str:
        return (
            f"{process.name} died ({process.where()}) during {self._say_phase()}: {health.cause}; "
            f"waited for {self._waiting()}; {self._advice()}"
        )

    def _say_idle(self, idle: float, silent: list[Process]) -> str:
        named = ", ".join(f"{process.name} ({process.where()})" for process in silent)
        return (
            f"nothing has moved for {_say_seconds(idle)} during {self._say_phase()}; waited for {self._waiting()}; "
            + (f"these processes do not answer: {named}" if silent else "every process answers")
        )

    def _say_phase(self) -> str:
        return ", ".join(name for name, _ in self._phases) or self.between_phases

    def _interrupt(self, *_: object) -> None:
        """Raise what event loops, and whoever catches every Exception, let pass."""
        if self._is_due and self._guarding and not self._over.is_set():
            self._is_due = False
            raise KeyboardInterrupt(self._verdict)

    def _end(self, message: str) -> None:
        """Raise in the thread that waits, again where a library swallowed it; at last end the process from here."""
        deadline = time.monotonic() + self._unwind_seconds
        while self._waiter is threading.main_thread() and time.monotonic() < deadline:
            if not self._over.is_set():
                self._verdict, self._is_due = message, True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            if self._dismissed.wait(self._unwind_seconds / 10):
                return
        logger.error("%s", message)
        time.sleep(2 * self._look_seconds)  # Ray forwards the line to the driver
        os._exit(1)


def _say_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
