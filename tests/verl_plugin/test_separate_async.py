# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`video_mtr_separate_async` as far as one process goes: verl's trainer object, and what verl refuses it.

verl ships engines for moving weights to other devices for GPUs, NPUs and RDMA only (verl/checkpoint_engine); whole
steps, with an engine of the tests' own, are in test_async_modes.py.
"""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_module

SEPARATE = [
    "trainer.v1.trainer_mode=video_mtr_separate_async",
    "trainer.v1.separate_async.parameter_sync_step=2",
    "data.train_batch_size=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
]


def make_trainer(*overrides):
    from verl.trainer.ppo.v1 import get_trainer_cls

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+videomtr=paper", *SEPARATE, *overrides])
    return get_trainer_cls("video_mtr_separate_async")(config)


def test_trainer_is_verls_own_under_its_own_name():
    trainer = make_trainer()
    # verl compares this string, and picks the replay buffer and the checkpoint's contents by it.
    assert trainer.trainer_mode == "separate_async"
    assert trainer.parameter_sync_step == 2
    assert type(trainer.replay_buffer).__name__ == "ReplayBufferAsync"
    # The interval tells verl how idle the trainer was, so it stays verl's.
    assert trainer.replay_buffer.poll_interval == 2.0
    assert trainer.schedule.bootstrap.config.max_turns == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("actor_rollout_ref.rollout.checkpoint_engine.backend=naive", "please use nccl/nixl/mooncake"),
        ("data.train_batch_size=8", "parameter_sync_step \\* ppo_mini_batch_size"),
        ("actor_rollout_ref.rollout.nnodes=0", "nnodes must be > 0"),
    ],
)
def test_verl_refuses(override, message):
    with pytest.raises(AssertionError, match=message):
        make_trainer(override)
