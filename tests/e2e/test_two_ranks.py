# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Two FSDP ranks and two vLLM replicas on the CPU, against one of each: the same values, advantages and updates.

verl can keep the trajectories of a run and train on them again (skip.rollout_tq). The run with two ranks samples; the
run with one rank gets the same trajectories; from then on everything must agree but for float rounding.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from trainer_runs import build_model, core_advantages, largest_probability_gap, make_data, pad, train, trajectory
from transformers import AutoConfig, AutoModelForImageTextToText

from verl_videomtr.verl_plugin.value_heads import load_value_model

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]

BATCH = 8
LEARNING_RATE = 1e-5
STEPS = (1, 2)
PROBABILITY_BOUND = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def actor() -> Path:
    return build_model()


def load_actor(path: Path) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)


def load_critic(path: Path) -> torch.nn.Module:
    config = AutoConfig.from_pretrained(path)
    config.num_labels, config.classifier_dropout = 1, 0.0
    return load_value_model(str(path), torch.float32, config, False)


@pytest.fixture(scope="module")
def critic(folder: Path, actor: Path) -> Path:
    """A critic with a head of its own: a new one is drawn at random in each run."""
    model = load_critic(actor)
    torch.nn.init.normal_(model.score.weight, std=0.2, generator=torch.Generator().manual_seed(1))
    target = folder / "critic"
    shutil.copytree(actor, target, ignore=shutil.ignore_patterns("model.safetensors"))
    model.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return make_data(folder / "data", num_train=len(STEPS) * BATCH)


def run(folder: Path, num_ranks: int, *, data: Path, actor: Path, critic: Path) -> list[dict]:
    where = folder / f"ranks_{num_ranks}"
    train(
        where,
        f"critic.model.path={critic}",
        f"actor_rollout_ref.actor.optim.lr={LEARNING_RATE}",
        f"critic.optim.lr={LEARNING_RATE}",
        "trainer.save_freq=1",
        f"data.train_batch_size={BATCH}",
        f"trainer.n_gpus_per_node={num_ranks}",
        f"trainer.total_training_steps={len(STEPS)}",
        "skip.rollout_tq.enable=true",
        f"skip.rollout_tq.dump_dir={folder / 'trajectories'}",
        f"skip.rollout_tq.steps={list(STEPS)}".replace(" ", ""),
        data=data,
        model=actor,
        probe="stock_probe",
    )
    return [torch.load(where / f"step_{number}.pt", weights_only=False) for number in STEPS]


@pytest.fixture(scope="module")
def two(folder: Path, data: Path, actor: Path, critic: Path) -> list[dict]:
    return run(folder, 2, data=data, actor=actor, critic=critic)


@pytest.fixture(scope="module")
def one(two: list[dict], folder: Path, data: Path, actor: Path, critic: Path) -> list[dict]:
    return run(folder, 1, data=data, actor=actor, critic=critic)


def by_sample(step: dict) -> dict[str, dict]:
    return {trajectory(row)["sample_id"]: row for row in step["rows"]}


def test_there_were_two_of_each(two, one):
    assert [(step["num_actor_ranks"], step["num_critic_ranks"], step["num_replicas"]) for step in two] == [
        (2, 2, 2)
    ] * 2
    assert [(step["num_actor_ranks"], step["num_critic_ranks"], step["num_replicas"]) for step in one] == [
        (1, 1, 1)
    ] * 2


def test_both_replicas_sample_with_the_actors_weights(two):
    for step in two:
        assert max(largest_probability_gap(row) for row in step["rows"]) < PROBABILITY_BOUND


def test_one_process_computes_the_advantages_of_two_ranks(two):
    """From the rewards, the values and the record of the turns alone."""
    for step in two:
        rows = step["rows"]
        advantages, returns = core_advantages(rows, bonus=step["metrics"]["videomtr/bootstrap/bonus"])
        assert (advantages != 0).sum() > len(rows)
        torch.testing.assert_close(pad(rows, "advantages"), advantages, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pad(rows, "returns"), returns, atol=1e-5, rtol=1e-5)


def test_trajectories_are_the_same(two, one):
    for with_two, with_one in zip(two, one, strict=True):
        with_two, with_one = by_sample(with_two), by_sample(with_one)
        assert len(with_two) == len(with_one) == BATCH
        for sample, row in with_two.items():
            for name in ("prompts", "responses", "response_mask", "rm_scores"):
                assert torch.equal(row[name], with_one[sample][name])
            assert trajectory(row)["turn_spans"] == trajectory(with_one[sample])["turn_spans"]


@pytest.mark.parametrize("step", [0, 1], ids=["first", "after_an_update"])
@pytest.mark.parametrize("name", ["values", "old_log_probs", "advantages", "returns"])
def test_two_ranks_compute_what_one_does(two, one, step, name):
    with_one = by_sample(one[step])
    for sample, row in by_sample(two[step]).items():
        torch.testing.assert_close(row[name], with_one[sample][name], atol=1e-5, rtol=1e-5)


def weights(folder: Path, num_ranks: int, role: str) -> dict[str, torch.Tensor]:
    """Join the ranks' shards of a checkpoint; FSDP2 cuts along the first dimension."""
    place = folder / f"ranks_{num_ranks}/checkpoints/global_step_1/{role}"
    shards = [
        torch.load(place / f"model_world_size_{num_ranks}_rank_{rank}.pt", weights_only=False, map_location="cpu")
        for rank in range(num_ranks)
    ]
    return {name: torch.cat([_local(shard[name]) for shard in shards]) for name in shards[0]}


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return getattr(tensor, "_local_tensor", tensor)


@pytest.mark.parametrize("role", ["actor", "critic"])
def test_two_ranks_take_the_step_that_one_takes(two, one, folder, actor, critic, role):
    before = (load_actor(actor) if role == "actor" else load_critic(critic)).state_dict()
    with_two, with_one = weights(folder, 2, role), weights(folder, 1, role)
    assert with_two.keys() == with_one.keys() == before.keys()
    moved = [(with_one[name] - value).flatten() for name, value in before.items()]
    differ = [(with_two[name] - with_one[name]).flatten() for name in before]
    # Adam's first step has the learning rate's size nearly everywhere.
    assert (torch.cat(moved).abs() > 0.5 * LEARNING_RATE).float().mean() > 0.8
    assert torch.cat(differ).abs().max() < 0.1 * LEARNING_RATE
