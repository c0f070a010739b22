# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Ends the command of a run whose Ray cluster has stopped answering.

Ray carries logs, deaths and results through its GCS. Where that process is stopped, the trainer's own watchdog ends the
trainer, but the command never hears of it: so the command looks at the GCS itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import Any

import psutil
import ray
from omegaconf import DictConfig, OmegaConf

from verl_videomtr.checkpoints import say_how_to_resume
from verl_videomtr.watchdog import LOOK_SECONDS, IdleClock

ANSWER_SECONDS = 5.0
"""What the GCS has to answer one question; it takes under a millisecond."""


def watch_cluster(config: DictConfig) -> None:
    """Begin to watch the Ray cluster of this process from a thread, for as long as `videomtr.stall_minutes` allows."""
    minutes = OmegaConf.select(config, "videomtr.stall_minutes")
    if minutes is None:
        return
    root = str(OmegaConf.select(config, "trainer.default_local_dir"))
    thread = threading.Thread(
        target=_watch, args=(60.0 * float(minutes), root), name="videomtr-cluster-watch", daemon=True
    )
    thread.start()


def _watch(limit_seconds: float, root: str) -> None:
    # A look may itself take as long as an answer may.
    clock = IdleClock(most_seconds=2 * (LOOK_SECONDS + ANSWER_SECONDS))
    while clock.seconds < limit_seconds:
        time.sleep(LOOK_SECONDS)
        if not ray.is_initialized() or _answers():
            clock.reset()
        else:
            clock.tick()
    sys.stderr.write(
        f"verl_videomtr: Ray's GCS ({_say_where()}) has not answered for {clock.seconds:.0f} s; without it "
        f"nothing of this run can start, end or report; {say_how_to_resume(root)}\n"
    )
    sys.stderr.flush()
    # Ray's own way out asks the GCS. Where the cluster was started by somebody else, there are no children.
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


def _answers() -> bool:
    try:
        _worker().global_worker.gcs_client.internal_kv_exists(b"videomtr", namespace=None, timeout=ANSWER_SECONDS)
    except ray.exceptions.RpcError:
        return False
    except Exception:  # Ray is starting or ending in another thread, or this is one of its clients: nothing is known
        pass
    return True


def _say_where() -> str:
    """Say the GCS's address; and its pid and log, where this process started it."""
    worker = _worker()
    node = worker._global_node
    if node is None:
        return "of a cluster that is gone"
    started = node.all_processes.get("gcs_server")
    log = os.path.join(node.get_logs_dir_path(), "gcs_server.out")
    return f"pid {started[0].process.pid}, its log: {log}" if started else f"at {node.gcs_address}, its log is there"


def _worker() -> Any:
    import ray._private.worker

    return ray._private.worker
