# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Weights from trainer to rollout through a file: verl's own engines for separate devices need GPUs, NPUs or RDMA.

Registered as `file` through verl's `rollout.checkpoint_engine.custom_backend_module`, in the trainer and in every
worker. For tests on one machine: the whole model goes through memory-backed storage at once.
"""

import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry

DEADLINE_SECONDS = 120


@CheckpointEngineRegistry.register("file")
class FileCheckpointEngine(CheckpointEngine):
    def __init__(self, bucket_size, is_master=False):
        self.folder, self.is_sender = None, False

    def prepare(self):
        return tempfile.mkdtemp(prefix="videomtr_weights_", dir="/dev/shm")

    @classmethod
    def build_topology(cls, actor_wg_world_size, rollout_world_size, metadata):
        folder, *unused = metadata
        for name in unused:
            shutil.rmtree(name, ignore_errors=True)
        senders = {
            "folder": [folder] * actor_wg_world_size,
            "is_sender": [rank == 0 for rank in range(actor_wg_world_size)],
        }
        return senders, {"folder": [folder] * rollout_world_size, "is_sender": [False] * rollout_world_size}

    def init_process_group(self, folder, is_sender):
        self.folder, self.is_sender = Path(folder), is_sender

    def finalize(self):
        if self.is_sender:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def send_weights(self, weights, global_steps=None):
        # Every rank takes part in gathering each tensor; one writes.
        tensors = {name: weight.detach().cpu().clone() for name, weight in weights}
        if self.is_sender:
            torch.save(tensors, self.folder / "part")
            os.replace(self.folder / "part", self.folder / "weights")
        return {}

    async def receive_weights(self, global_steps=None):
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (self.folder / "weights").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no weights in {self.folder} after {DEADLINE_SECONDS} seconds")
            await asyncio.sleep(0.05)
        for name, weight in torch.load(self.folder / "weights").items():
            yield name, weight
