# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Ends the command of a run whose Ray cluster has stopped answering.

Ray carries logs, deaths and results through its GCS. Where that process is stopped, the trainer's own watchdog ends the
trainer, but the command never hears of it: so the command looks at the GCS itself. Where the node's raylet is stopped,
the command hears of it within a minute or so, fails, and then waits for that raylet in `ray.shutdown`, for ever. Where
one of the two is dead, Ray ends the command, in part after a minute, and without a word on the run.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import Any, NoReturn

import psutil
import ray
from omegaconf import DictConfig, OmegaConf

from verl_videomtr.checkpoints import say_how_to_resume
from verl_videomtr.watchdog import LOOK_SECONDS, IdleClock

ANSWER_SECONDS = 5.0
"""What the GCS has to answer one question; it takes under a millisecond."""
PROCESSES = {"gcs_server": "GCS", "raylet": "raylet"}
"""Ray's names of its own processes on a node, and what they are called in its pages."""
SHUTDOWN_SECONDS = 60.0
"""What Ray has to shut down when the program ends; it takes some seconds."""


class ClusterWatch:
    """A thread beside the command of a run."""

    def __init__(self, limit_seconds: float, root: str) -> None:
        self._limit_seconds = limit_seconds
        self._root = root
        self._leaving = threading.Event()
        self.has_failed = True
        """Until the run says that it is complete."""

    def start(self) -> None:
        # The thread exists before the program leaves: Python starts none while it does.
        threading.Thread(target=self._watch, name="videomtr-cluster-watch", daemon=True).start()
        # Ray's own way out was registered where Ray was imported; the last one registered is called first.
        atexit.register(self._leaving.set)

    def _watch(self) -> None:
        # A look may itself take as long as an answer may.
        clock = IdleClock(most_seconds=2 * (LOOK_SECONDS + ANSWER_SECONDS))
        while clock.seconds < self._limit_seconds:
            if self._leaving.wait(LOOK_SECONDS):
                self._wait_for_shutdown()
            if name := _find_dead():
                _end(f"Ray's {PROCESSES[name]} died ({_say_where(name)}); {say_how_to_resume(self._root)}")
            if not ray.is_initialized() or _answers():
                clock.reset()
            else:
                clock.tick()
        _end(
            f"Ray's GCS ({_say_where('gcs_server')}) has not answered for {clock.seconds:.0f} s; without it nothing of "
            f"this run can start, end or report; {say_how_to_resume(self._root)}"
        )

    def _wait_for_shutdown(self) -> NoReturn:
        threading.Event().wait(SHUTDOWN_SECONDS)
        advice = say_how_to_resume(self._root) if self.has_failed else "the run itself was complete"
        _end(
            f"Ray has not shut down within {SHUTDOWN_SECONDS:.0f} s, as where its raylet ({_say_where('raylet')}) is "
            f"stopped; its processes are ended; {advice}",
            code=int(self.has_failed),
        )


def watch_cluster(config: DictConfig) -> ClusterWatch | None:
    """Watch the Ray cluster of this process from a thread, for as long as `videomtr.stall_minutes` allows.

    Returns: the watch; None where there is no limit.
    """
    minutes = OmegaConf.select(config, "videomtr.stall_minutes")
    if minutes is None:
        return None
    watch = ClusterWatch(60.0 * float(minutes), str(OmegaConf.select(config, "trainer.default_local_dir")))
    watch.start()
    return watch


def _end(message: str, *, code: int = 1) -> NoReturn:
    """End this process and those below it without Ray, whose own way out asks the cluster."""
    sys.stderr.write(f"verl_videomtr: {message}\n")
    sys.stderr.flush()
    # Where the cluster was started by somebody else, there are no children.
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(code)


def _find_dead() -> str | None:
    """Find a process of Ray's that this one started and that has ended before it was asked to."""
    node = _worker()._global_node if ray.is_initialized() else None
    started = {name: node.all_processes.get(name) for name in PROCESSES} if node is not None else {}
    return next((name for name, infos in started.items() if infos and infos[0].process.poll() is not None), None)


def _answers() -> bool:
    try:
        _worker().global_worker.gcs_client.internal_kv_exists(b"videomtr", namespace=None, timeout=ANSWER_SECONDS)
    except ray.exceptions.RpcError:
        return False
    except Exception:  # Ray is starting or ending in another thread, or this is one of its clients: nothing is known
        pass
    return True


def _say_where(process: str) -> str:
    """Say the pid and log of one of `PROCESSES`, where this process started it; else the cluster's address."""
    node = _worker()._global_node
    if node is None:
        return "of a cluster that is gone"
    started = node.all_processes.get(process)
    log = os.path.join(node.get_logs_dir_path(), f"{process}.out")
    return f"pid {started[0].process.pid}, its log: {log}" if started else f"at {node.gcs_address}, its log is there"


def _worker() -> Any:
    import ray._private.worker

    return ray._private.worker
