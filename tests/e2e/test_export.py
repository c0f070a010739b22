# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Exports of checkpoints that verl's own trainer has written: two ranks, a critic, LoRA adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from trainer_runs import build_model, make_data, train
from transformers import AutoConfig, AutoModelForImageTextToText

from verl_videomtr.cli import main
from verl_videomtr.export.checkpoints import read_model
from verl_videomtr.verl_plugin.value_heads import load_value_model

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]

RANK, ALPHA = 4, 12


@pytest.fixture(scope="module")
def base() -> Path:
    return build_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("export") / "data", num_train=8)


def run(folder: Path, base: Path, data: Path, *overrides: str) -> Path:
    train(
        folder, "data.train_batch_size=8", "trainer.total_training_steps=1", "trainer.save_freq=1", *overrides,
        data=data, model=base, probe="stock_probe",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    contents = "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]"
    return run(tmp_path_factory.mktemp("ranks"), base, data, "trainer.n_gpus_per_node=2", contents)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    return run(
        tmp_path_factory.mktemp("lora"), base, data,
        f"actor_rollout_ref.model.lora_rank={RANK}", f"actor_rollout_ref.model.lora_alpha={ALPHA}",
        "actor_rollout_ref.model.target_modules=all-linear", "actor_rollout_ref.model.exclude_modules=.*visual.*",
        "actor_rollout_ref.rollout.load_format=safetensors", "actor_rollout_ref.actor.optim.lr=1e-2",
    )  # fmt: skip


def load(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").state_dict()


def test_actor_of_two_ranks_is_what_verl_itself_gathers(two_ranks, base, tmp_path):
    assert main(["export", str(two_ranks), "--out", str(tmp_path / "actor")]) == 0
    exported = load_file(tmp_path / "actor" / "model.safetensors")
    gathered = load_file(two_ranks / "checkpoints/global_step_1/actor/huggingface/model.safetensors")
    assert exported.keys() == gathered.keys()
    assert all(torch.equal(exported[name], gathered[name]) for name in gathered)
    before = load(base)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in load(tmp_path / "actor").items())


def test_critic_of_two_ranks_loads_as_a_critic(two_ranks, tmp_path):
    assert main(["export", str(two_ranks), "--role", "critic", "--out", str(tmp_path / "critic")]) == 0
    config = AutoConfig.from_pretrained(tmp_path / "critic")
    critic = load_value_model(str(tmp_path / "critic"), torch.float32, config, False)
    trained = read_model(two_ranks / "checkpoints/global_step_1/critic")
    assert all(torch.equal(tensor, critic.state_dict()[name]) for name, tensor in trained.items())
    assert trained["score.weight"].any()


def test_adapters_are_merged_as_peft_merges_them(lora, base, tmp_path):
    """peft itself, from the checkpoint's own tensors, is the judge."""
    assert main(["export", str(lora), "--out", str(tmp_path / "out")]) == 0
    exported, before = load(tmp_path / "out"), load(base)
    changed = [name for name in before if not torch.equal(exported[name], before[name])]
    assert len(changed) > 10
    assert not [name for name in changed if "visual" in name]

    state = read_model(lora / "checkpoints/global_step_1/actor")
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", exclude_modules=".*visual.*", task_type="CAUSAL_LM"
    )
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32), config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing
    assert not unexpected
    merged = model.merge_and_unload().state_dict()
    for name, tensor in merged.items():
        torch.testing.assert_close(exported[name], tensor, atol=1e-6, rtol=1e-5)
