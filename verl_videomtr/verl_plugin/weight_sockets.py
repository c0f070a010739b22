# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A socket of its own for each run's weights on their way into vLLM.

verl 0.9.1 names it by Ray's job id, to tell the runs of a machine apart. But each cluster counts its jobs from one: two
runs that each start Ray have one path, and the later one removes the other's socket. The sender then waits for ever, or
an engine takes the weights of another run, in silence where the models are alike. With the node's id in the name, which
is drawn at random when a cluster starts, each has its own. Imported when verl's vLLM rollout is.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import ray
from wrapt import register_post_import_hook

ROLLOUT = "verl.workers.rollout.vllm_rollout"
JOB_VARIABLE = "VERL_RAY_JOB_ID"
"""What the engine's process makes the name of; the server sets it."""


def own_id() -> str:
    """The job's id and the start of the node's: sender and engine lie on one node."""
    context = ray.get_runtime_context()
    return f"{context.get_job_id()}-{context.get_node_id()[:12]}"


def own_path(path: str) -> str:
    """Put the node's id behind the job's.

    Raises:
        RuntimeError: verl names its socket in another way than 0.9.1 does.
    """
    shared = f"zmq-{ray.get_runtime_context().get_job_id()}-"
    if shared not in path:
        raise RuntimeError(f"verl's socket for weights is {path!r}; expected {shared!r} in it, as in verl 0.9.1")
    return path.replace(shared, f"zmq-{own_id()}-")


def _after_init(cls: type, then: Callable[[Any], None]) -> None:
    init = cls.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        then(self)

    cls.__init__ = __init__  # type: ignore[misc]


def _name_the_senders(module: Any) -> None:
    def rename(adapter: Any) -> None:
        adapter.zmq_handle = own_path(adapter.zmq_handle)

    _after_init(module.ServerAdapter, rename)


def _tell_the_engines(module: Any) -> None:
    def tell(_server: Any) -> None:
        os.environ[JOB_VARIABLE] = own_id()

    _after_init(module.vLLMHttpServer, tell)


register_post_import_hook(_name_the_senders, f"{ROLLOUT}.vllm_rollout")
register_post_import_hook(_tell_the_engines, f"{ROLLOUT}.vllm_async_server")
