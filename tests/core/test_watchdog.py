# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The watchdog ends a wait that will not end by itself, and says what it knows; its processes are real ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from verl_videomtr.watchdog import Health, IdleClock, RunEndedError, Watchdog


class Child:
    """A real process, looked at through the operating system."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.popen = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def look(self) -> Health:
        if self.popen.poll() is not None:
            return Health(state="dead", cause=f"exit code {self.popen.returncode}")
        stopped = psutil.Process(self.popen.pid).status() == psutil.STATUS_STOPPED
        return Health(state="silent" if stopped else "answers")

    def where(self) -> str:
        return f"pid {self.popen.pid}, its log: /tmp/{self.name}.err"


@pytest.fixture
def children():
    found = [Child("worker 0"), Child("server 1")]
    yield found
    for child in found:
        child.popen.kill()
        child.popen.wait()


@pytest.fixture
def make_watchdog(children):
    before = signal.getsignal(signal.SIGUSR1)
    made = []

    def make(stall_seconds: float | None, *, phase_seconds: float | None = None, **changes) -> Watchdog:
        made.append(
            Watchdog(
                stall_seconds=stall_seconds,
                phase_seconds=phase_seconds,
                find=lambda: children,
                waiting=lambda: "2 episodes of samples 'a', 'b'",
                advice=lambda: "the last checkpoint is step 3 in /runs; start the run again",
                **{"look_seconds": 0.05, **changes},
            )
        )
        made[-1].start()
        return made[-1]

    yield make
    for watchdog in made:
        watchdog.dismiss()
    signal.signal(signal.SIGUSR1, before)


def no_patience(_error: Exception) -> float:
    return 0.0


def wait_for_ever() -> None:
    time.sleep(60)
    pytest.fail("nothing ended the wait")


def test_a_killed_process_ends_the_wait_with_its_name_its_log_and_what_was_waited_for(make_watchdog, children):
    watchdog = make_watchdog(None)
    children[1].popen.kill()
    with (
        pytest.raises(RunEndedError) as caught,
        watchdog.guard(patience_seconds=no_patience),
        watchdog.during("the rollout"),
    ):
        wait_for_ever()
    assert str(caught.value) == (
        f"server 1 died (pid {children[1].popen.pid}, its log: /tmp/server 1.err) during the rollout: exit code -9; "
        "waited for 2 episodes of samples 'a', 'b'; the last checkpoint is step 3 in /runs; start the run again"
    )


def test_a_stopped_process_ends_it_after_the_limit_and_is_named(make_watchdog, children):
    watchdog = make_watchdog(1.0)
    children[0].popen.send_signal(signal.SIGSTOP)
    message = r"nothing has moved for 1 s during validation, the rollout; .*do not answer: worker 0 \(pid"
    with (
        pytest.raises(RunEndedError, match=message),
        watchdog.guard(patience_seconds=no_patience),
        watchdog.during("validation"),
        watchdog.during("the rollout", of_episodes=True),
    ):
        wait_for_ever()


def test_the_silence_is_told_before_the_end_and_whoever_moves_is_left_alone(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr("verl_videomtr.watchdog.time.monotonic", lambda: now[0])
    watchdog = Watchdog(
        stall_seconds=None, phase_seconds=600, find=list, waiting=lambda: "2 episodes", advice=str, look_seconds=100
    )
    found = []
    for seconds in (100, 200, 300, 400, 500):
        now[0] = seconds
        found.append(watchdog._look())
    assert found == [None] * 5
    assert caplog.text.count("nothing has moved for 5 min during the start; waited for 2 episodes") == 1
    watchdog.moved()
    now[0] = 700
    assert watchdog._look() is None
    for seconds in (900, 1100):
        now[0] = seconds
        found.append(watchdog._look())
    assert found[-1].startswith("nothing has moved for 10 min")


@pytest.mark.parametrize(
    ("phases", "allowed", "key"),
    [
        ([], 600, "phase_minutes"),
        ([("the policy's update", False)], 600, "phase_minutes"),
        ([("validation", False)], 600, "phase_minutes"),
        ([("validation", False), ("the rollout", True)], 100, "stall_minutes"),
    ],
)
def test_a_long_update_is_not_taken_for_a_rollout_that_stands_still(monkeypatch, phases, allowed, key):
    now = [0.0]
    monkeypatch.setattr("verl_videomtr.watchdog.time.monotonic", lambda: now[0])
    watchdog = Watchdog(
        stall_seconds=100, phase_seconds=600, find=list, waiting=str, advice=lambda: "start again", look_seconds=10
    )
    with contextlib.ExitStack() as stack:
        for phase, of_episodes in phases:
            stack.enter_context(watchdog.during(phase, of_episodes=of_episodes))
        for seconds in range(10, allowed, 10):
            now[0] = seconds
            assert watchdog._look() is None
        now[0] = allowed
        assert watchdog._look().endswith(f"start again, with a larger videomtr.{key} if it was busy")


def test_the_limit_holds_where_the_processes_cannot_be_looked_at(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr("verl_videomtr.watchdog.time.monotonic", lambda: now[0])

    def refuse():
        raise OSError("no connection")

    watchdog = Watchdog(
        stall_seconds=None, phase_seconds=30, find=refuse, waiting=str, advice=lambda: "start again", look_seconds=10
    )
    found = []
    for seconds in (10, 20, 30):
        now[0] = seconds
        found.append(watchdog._look())
    assert found[:2] == [None, None]
    assert found[2].startswith("nothing has moved for 30 s")
    assert "no connection" in caplog.text


def test_the_rollout_behind_a_long_phase_has_its_whole_limit(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("verl_videomtr.watchdog.time.monotonic", lambda: now[0])
    watchdog = Watchdog(stall_seconds=100, phase_seconds=600, find=list, waiting=str, advice=str, look_seconds=10)
    with watchdog.during("the checkpoint"):
        for seconds in range(10, 500, 10):
            now[0] = seconds
            assert watchdog._look() is None
    with watchdog.during("the rollout", of_episodes=True):
        for seconds in range(490, 580, 10):
            now[0] = seconds
            assert watchdog._look() is None


def test_a_dead_process_is_told_in_place_of_the_error_that_it_caused(make_watchdog, children):
    watchdog = make_watchdog(None, look_seconds=60)
    children[0].popen.kill()
    with (
        pytest.raises(RunEndedError, match=r"worker 0 died .*during the policy's update") as caught,
        watchdog.guard(patience_seconds=lambda _: 5),
        watchdog.during("the policy's update"),
    ):
        raise ValueError("a shape is wrong")
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_of_healthy_processes_stays_itself(make_watchdog):
    with pytest.raises(ValueError, match="a shape"), make_watchdog(None).guard(patience_seconds=no_patience):
        raise ValueError("a shape is wrong")


def test_a_pause_of_the_watching_process_itself_is_no_silence():
    clock = IdleClock(most_seconds=0.1)
    time.sleep(0.5)
    assert clock.tick() == pytest.approx(0.1)


@pytest.mark.parametrize("wait", ["plain", "event loop", "swallowed once", "told anew", "as an error"])
def test_the_end_arrives_wherever_the_wait_stands(make_watchdog, wait):
    watchdog = make_watchdog(None, phase_seconds=0.4, unwind_seconds=20)

    def wait_somewhere() -> None:
        if wait == "event loop":
            asyncio.run(asyncio.sleep(60))
        if wait == "swallowed once":
            with contextlib.suppress(BaseException):
                wait_for_ever()
        try:
            wait_for_ever()
        except KeyboardInterrupt as interrupt:
            if wait == "told anew":  # as Ray's own code does
                raise KeyboardInterrupt from None
            if wait == "as an error":
                raise OSError("cancelled") from interrupt
            raise

    with pytest.raises(RunEndedError, match="every process answers"), watchdog.guard(patience_seconds=no_patience):
        wait_somewhere()


def test_where_no_exception_arrives_the_process_is_ended_from_the_thread():
    # The wait stands in C code that does not come back, as in a library that swallows what is raised in it.
    code = textwrap.dedent("""
        import time
        from verl_videomtr.watchdog import Watchdog
        dog = Watchdog(stall_seconds=None, phase_seconds=0.3, find=list, waiting=lambda: "2 episodes",
                       advice=lambda: "start it again", look_seconds=0.05, unwind_seconds=0.3)
        dog.start()
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert done.returncode == 1
    assert "waited for 2 episodes" in done.stderr
