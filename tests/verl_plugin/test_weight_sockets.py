# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Two runs on one machine, each with a Ray of its own, hand their weights over by paths of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from verl_videomtr.verl_plugin import weight_sockets

RUN = """
import os
from types import SimpleNamespace
import ray
import verl_videomtr.verl_plugin.register
from verl.workers.rollout.vllm_rollout import vllm_async_server, vllm_rollout
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

# What their __init__ does beside needs a GPU or a CPU worker; the names are made as verl makes them.
def sender(self):
    job_id = ray.get_runtime_context().get_job_id()
    self.zmq_handle = f"ipc:///tmp/rl-colocate-zmq-{job_id}-replica-0-rank-0.sock"

def server(self):
    os.environ["VERL_RAY_JOB_ID"] = ray.get_runtime_context().get_job_id()

def init_of(cls):
    return cls.__init__.__closure__

for cls, made in ((vllm_rollout.ServerAdapter, sender), (vllm_async_server.vLLMHttpServer, server)):
    (cell,) = [cell for cell in init_of(cls) if getattr(cell.cell_contents, "__name__", "") == "__init__"]
    cell.cell_contents = made
for _ in range(2):
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
    adapter = vllm_rollout.ServerAdapter()
    vllm_async_server.vLLMHttpServer()
    worker = SimpleNamespace(model_runner=None, local_rank=0)
    print("PATHS", adapter.zmq_handle, vLLMColocateWorkerExtension._get_zmq_handle(worker))
    ray.shutdown()
"""


def test_each_cluster_has_a_path_that_both_ends_know():
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "RAY_USAGE_STATS_ENABLED": "0"}
    result = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("PATHS")]
    assert first[0] == first[1]
    assert second[0] == second[1]
    assert first[0] != second[0]
    assert max(map(len, first)) < len("ipc://") + 108  # a socket's path on Linux


def test_another_name_is_refused(monkeypatch):
    class Context:
        get_job_id, get_node_id = staticmethod(lambda: "01000000"), staticmethod(lambda: "ab" * 28)

    monkeypatch.setattr(weight_sockets.ray, "get_runtime_context", Context)
    renamed = weight_sockets.own_path("ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-1.sock")
    assert renamed == "ipc:///tmp/rl-colocate-zmq-01000000-abababababab-replica-0-rank-1.sock"
    with pytest.raises(RuntimeError, match="expected 'zmq-01000000-' in it"):
        weight_sockets.own_path("ipc:///tmp/weights-of-replica-0.sock")
