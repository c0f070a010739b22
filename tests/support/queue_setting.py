# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A real TransferQueue on a real Ray, and between them verl's trainer and one of its workers in this process.

Only the language model's words are given.
"""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest
import ray
import transfer_queue as tq
from omegaconf import OmegaConf, open_dict
from plugin_setting import ScriptedEngine, make_sample
from rollout_setting import ANSWER

MOST_REFILLS = 20


@pytest.fixture(scope="module")
def queue():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    yield
    tq.close()
    ray.shutdown()


class QueuedTrainer:
    """A trainer and one worker in this process, with the hand-out of prompts between them."""

    def __init__(self, setting, mode: str, *overrides: str) -> None:
        from verl.trainer.ppo.v1 import get_trainer_cls

        from verl_videomtr.verl_plugin.loop_workers import LoopManager, LoopWorker

        composed = setting._composed.config("data.train_batch_size=4", *overrides)
        with open_dict(composed):
            composed.trainer.v1.trainer_mode = mode
        self.trainer = get_trainer_cls(mode)(composed)
        setting.loop(composed, [])  # gives the loop's class a worker whose frames are made on the spot
        self.manager = LoopManager(composed, llm_client=None)
        self.manager.agent_loop_workers = []
        self.trainer.agent_loop_manager = self.manager
        self.trainer.global_steps = 1
        self.worker = LoopWorker(composed, ScriptedEngine(setting.tokenizer, [ANSWER] * 100), None, None)
        self.uids = (f"{id(self)}u{number}" for number in itertools.count())
        self.num_refills = 0
        self.loop = asyncio.Runner()  # a worker has one loop for all its life
        self.trainer.replay_buffer.refill_fn = self._refill

    def _refill(self, count: int) -> None:
        self.num_refills += 1
        assert self.num_refills < MOST_REFILLS, "a run that loses everything is refilled for ever"
        self.hand_out(["/videos/broken.mp4"] * count)

    def hand_out(self, videos: list[str], *, partition: str = "train", agent: str = "video_mtr") -> None:
        """Ask for one prompt a video, as the trainer does, and play to the end."""
        from verl.utils import tensordict_utils as tu

        from verl_videomtr.verl_plugin.loop_workers import list_asked

        rows = [make_sample(video=video, sample_id=video, index=place).to_row() for place, video in enumerate(videos)]
        for row in rows:
            row["raw_prompt"] = row.pop("prompt")
            row["agent_name"] = agent
            row["index"] = row["extra_info"]["index"]
            if row["extra_info"]["video"] == "schema":
                row["extra_info"]["answer"] = None
        uids = [next(self.uids) for _ in rows]
        columns = {name: np.array([*(row[name] for row in rows), None], dtype=object)[:-1] for name in rows[0]}
        batch = tu.get_tensordict({**columns, "uid": np.array(uids, dtype=object)})
        tu.assign_non_tensor_data(batch, "global_steps", 1)
        if partition == "val":
            tu.assign_non_tensor_data(batch, "validate", True)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": 1} for _ in rows]
        tq.kv_batch_put(keys=uids, partition_id=partition, tags=tags)
        self.manager.ledger.ask(list_asked(batch, rollout=self.manager.rollout_config))

        async def play() -> None:
            await self.worker.generate_sequences(batch)
            while self.worker.background_tasks:
                await asyncio.gather(*self.worker.background_tasks)
            self.manager._take(0, await self.worker.pulse(0))

        self.loop.run(play())

    def sample(self, count: int = 4, partition: str = "train"):
        batch, _ = self.trainer.replay_buffer.sample(global_steps=1, partition_id=partition, batch_size=count)
        tq.kv_clear(keys=batch.keys, partition_id=partition)
        return batch


@pytest.fixture
def make_run(queue, setting):
    runs = []

    def make(mode: str, *overrides: str) -> QueuedTrainer:
        runs.append(QueuedTrainer(setting, mode, *overrides))
        return runs[-1]

    yield make
    for run in runs:
        run.loop.close()
    for partition, items in (tq.kv_list() or {}).items():
        if items:
            tq.kv_clear(keys=list(items), partition_id=partition)
