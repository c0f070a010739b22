# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Batches and ranks: each finding beside the code of verl that fails as it says, and both silent once fixed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from doctor_setting import ACTOR, REF, ROLLOUT, bad, only, unwrapped

from verl_videomtr.verl_plugin.doctor import agreement, batches
from verl_videomtr.verl_plugin.doctor.findings import Level

pytest_plugins = ["doctor_setting"]


# Batches and ranks.


def mesh(case, role):
    """Lay out the ranks of a model as verl's FSDP engine does, seen from the last rank."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    size, gpus = case.sequence_parallel[role], case.num_gpus
    dist.init_process_group("fake", store=FakeStore(), rank=gpus - 1, world_size=gpus)
    try:
        engine = SimpleNamespace(
            engine_config=SimpleNamespace(fsdp_size=-1, ulysses_sequence_parallel_size=size),
            get_data_parallel_size=lambda: gpus // size,
        )
        FSDPEngine._init_device_mesh(engine)
        engine.ulysses_device_mesh["sp"].get_local_rank()
    finally:
        dist.destroy_process_group()


def test_sequence_parallelism_that_does_not_divide_the_gpus(composed):
    fault = ["trainer.n_gpus_per_node=8", f"{ACTOR}.ulysses_sequence_parallel_size=3"]
    case = composed.case(*fault)
    finding = only(batches.check_batches(case), "batches.sp")
    with pytest.raises((RuntimeError, IndexError)):
        mesh(case, "actor")
    fixed = composed.case(*fault, *finding.overrides)
    assert not [f for f in batches.check_batches(fixed) if f.check == "batches.sp"]
    mesh(fixed, "actor")


def build_worker(case, role):
    """Build verl's worker up to where it asserts on its configuration."""
    from verl.workers.engine_workers import ActorRolloutRefWorker

    worker_class = unwrapped(ActorRolloutRefWorker)
    worker = object.__new__(worker_class)
    worker.config, worker.role, worker._world_size = case.config.actor_rollout_ref, role, case.num_gpus
    worker.distillation_enabled, worker._omega_profiler_config = False, None

    def built(config):
        raise InterruptedError("past the assertions")

    worker.actor_worker_cls = built
    worker_class.init_model(worker)


def test_tensor_parallelism_that_does_not_divide_the_gpus(composed):
    fault = ["trainer.n_gpus_per_node=3", f"{ROLLOUT}.tensor_model_parallel_size=2"]
    case = composed.case(*fault)
    finding = only(batches.check_batches(case), "batches.tp")
    with pytest.raises(AssertionError, match="is not divisible by infer_world_size"):
        build_worker(case, "rollout")
    fixed = composed.case(*fault, *finding.overrides)
    assert not [f for f in batches.check_batches(fixed) if f.check == "batches.tp"]
    with pytest.raises(ValueError, match=r"Default process group has not been initialized|environment variable"):
        build_worker(fixed, "rollout")  # the next thing it does is to look for its peers


def first_update(case, role):
    from verl.utils import tensordict_utils as tu
    from verl.workers.engine_workers import TrainingWorker

    section = case.config.critic if role == "critic" else case.config.actor_rollout_ref.actor
    rows = tu.get_tensordict(
        {"x": torch.zeros(8, 1)}, {"mini_batch_size": section.ppo_mini_batch_size * case.rollout.n}
    )
    ranks = case.num_gpus // case.sequence_parallel[role]
    engine = SimpleNamespace(get_data_parallel_size=lambda: ranks, get_data_parallel_rank=lambda: 1 / 0)
    unwrapped(TrainingWorker).train_mini_batch(SimpleNamespace(engine=engine), rows)


@pytest.mark.parametrize(("role", "section"), [("actor", ACTOR), ("critic", "critic")])
def test_mini_batches_that_do_not_divide_over_the_ranks(composed, role, section):
    fault = ["trainer.n_gpus_per_node=8", f"{ROLLOUT}.n=2", f"{section}.ppo_mini_batch_size=6"]
    case = composed.case(*fault)
    finding = next(f for f in bad(batches.check_batches(case)) if f"{section}.ppo" in f.what)
    assert (finding.check, finding.level) == ("batches.mini", Level.ERROR)
    with pytest.raises(AssertionError, match="mini_batch_size=12"):
        first_update(case, role)
    fixed = composed.case(*fault, *finding.overrides)
    assert not [f for f in batches.check_batches(fixed) if f.check == "batches.mini"]
    with pytest.raises(ZeroDivisionError):  # past the assertion
        first_update(fixed, role)


def cut(num_rows, size):
    from verl.utils import tensordict_utils as tu
    from verl.workers.engine.utils import prepare_micro_batches

    rows = tu.get_tensordict(
        {"x": torch.zeros(num_rows, 1)}, {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": size}
    )
    return prepare_micro_batches(rows)[0]


FIXED = [
    f"{ACTOR}.use_dynamic_bsz=false",
    f"{ACTOR}.ppo_micro_batch_size_per_gpu=2",
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=2",
    "critic.ppo_micro_batch_size_per_gpu=2",
]


@pytest.mark.parametrize(
    "key", [f"{ACTOR}.ppo_micro_batch_size_per_gpu", f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu"]
)
def test_micro_batches_that_do_not_divide_a_rank_s_rows(composed, key):
    assert not bad(batches.check_batches(composed.case(*FIXED)))
    fault = [*FIXED, f"{key}=3"]
    finding = only(batches.check_batches(composed.case(*fault)), "batches.micro")
    with pytest.raises(AssertionError, match="data size must be divisible"):
        cut(8, 3)
    fixed = composed.case(*fault, *finding.overrides)
    assert not bad(batches.check_batches(fixed))
    assert cut(8, fixed.get(key))


def test_micro_batches_that_only_the_deprecated_key_sets(composed):
    fault = [*FIXED, f"{ACTOR}.ppo_micro_batch_size_per_gpu=null", f"+{ACTOR}.ppo_micro_batch_size=2"]
    case = composed.case(*fault)
    assert not [f for f in bad(agreement.check_agreement(case)) if f.check == "config.verl"]  # verl's own check passes
    finding = only(batches.check_batches(case), "batches.micro")
    with pytest.raises(AssertionError):
        build_worker(case, "actor")
    fixed = composed.case(*fault[:-1], *finding.overrides)
    assert not bad(batches.check_batches(fixed))
    with pytest.raises(InterruptedError):
        build_worker(fixed, "actor")


def test_two_minds_about_filling_micro_batches(composed):
    fault = [f"{ROLLOUT}.log_prob_use_dynamic_bsz=false"]
    case = composed.case(*fault)
    finding = only(batches.check_batches(case), "batches.micro")
    with pytest.raises(AssertionError):
        build_worker(case, "actor")
    fixed = composed.case(*fault, *finding.overrides)
    assert not bad(batches.check_batches(fixed))
    with pytest.raises(InterruptedError):
        build_worker(fixed, "actor")


def test_steps_of_mostly_padding(composed):
    from verl.trainer.ppo.v1 import PPOTrainer

    fault = [f"{ACTOR}.ppo_mini_batch_size=256"]
    case = composed.case(*fault)
    finding = only(batches.check_batches(case), "batches.padding", Level.WARNING)
    assert "8 trajectories a step are padded to 256 rows" in finding.what
    fixed = composed.case(*fault, *finding.overrides)
    assert not bad(batches.check_batches(fixed))
    for made in (case, fixed):
        trainer = SimpleNamespace(use_critic=True, config=made.config, global_steps=1)
        expected = PPOTrainer._get_required_batch_multiple(trainer, made.num_gpus)
        assert batches.step_multiple(made) == expected


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize(("actor", "critic"), [(1, 2), (2, 1), (4, 2)])
def test_rows_divide_among_the_ranks_of_every_model(composed, window, actor, critic):
    """Of 65 row counts verl's assertion broke 32 where the critic has more ranks than the actor."""
    from verl.trainer.ppo.v1 import get_trainer_cls

    case = composed.case(
        "trainer.n_gpus_per_node=8",
        f"videomtr.episode.window={window}",
        f"{ACTOR}.ulysses_sequence_parallel_size={actor}",
        f"critic.fsdp.ulysses_sequence_parallel_size={critic}",
        f"{ACTOR}.ppo_mini_batch_size=4",
        "critic.ppo_mini_batch_size=4",
        f"{ROLLOUT}.n=2",
    )
    trainer = object.__new__(get_trainer_cls("video_mtr_sync"))
    trainer.config, trainer.videomtr, trainer.use_critic, trainer.global_steps = case.config, case.settings, True, 1
    multiple = trainer._get_required_batch_multiple(8 // actor)
    assert multiple == batches.step_multiple(case)
    for num_rows in range(1, 66):
        padded = -(-num_rows // multiple) * multiple
        assert padded % (8 // actor) == padded % (8 // critic) == 0


def test_ranks_that_verl_s_own_trainer_does_not_pad_for(composed):
    given = ["trainer.n_gpus_per_node=8", f"{ACTOR}.use_kl_loss=true", f"{ACTOR}.ulysses_sequence_parallel_size=2"]
    given += [f"{ACTOR}.ppo_mini_batch_size=4", f"{REF}.ulysses_sequence_parallel_size=1"]
    given += ["critic.ppo_mini_batch_size=4", "critic.fsdp.ulysses_sequence_parallel_size=2"]
    stock = composed.case(*given, "trainer.v1.trainer_mode=sync")
    finding = only(batches.check_batches(stock), "batches.roles")
    assert "a multiple of 4, the ref divides them among 8 ranks" in finding.what
    assert not bad(batches._roles(composed.case(*given)))
