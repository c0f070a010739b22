# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The doctor is quiet on every shipped recipe and on plausible variations: one that cries wolf is not read."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib.metadata import distributions

import pytest
from doctor_setting import ACTOR, ROLLOUT, Composed, bad

from tests.recipes.test_recipes import RECIPES
from verl_videomtr.sample import read_rows, write_rows
from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin.doctor import examine, model, values
from verl_videomtr.verl_plugin.doctor.case import Case

pytest_plugins = ["doctor_setting"]

MACHINE = {"install.versions", "install.platform"} | {
    f"machine.{name}" for name in ("attention", "cluster", "cpus", "gpus", "shm", "tmp")
}
"""What a test machine without GPUs is rightly told."""
LOOKED_AT = {
    *("install.plug_points", "config.verl", "config.unread", "config.values", "config.reward", "batches"),
    *("data.train", "data.videos", "places", "lengths", "machine.attention"),
}
"""Checks that say so where they find nothing: silence is no proof that they looked."""
ROWS = 64
REWARD = """def compute_score(data_source, solution_str, ground_truth, extra_info=None, **rest):
    return float(f"<answer>{ground_truth}</answer>" in solution_str)
"""


@pytest.fixture(scope="session")
def files(videos, checkpoint, qwen3, tmp_path_factory):
    """What a launch names: rows for a step, a benchmark without segments, models with room for any budget."""

    folder = tmp_path_factory.mktemp("quiet")
    rows = read_rows(videos / "train.parquet")
    many = [
        dataclasses.replace(row, index=index, sample_id=f"row_{index}", question=f"{row.question} ({index})")
        for index, row in ((index, rows[index % len(rows)]) for index in range(ROWS))
    ]
    write_rows(folder / "train.parquet", many)
    write_rows(folder / "benchmark.parquet", [dataclasses.replace(row, segments=None) for row in many])
    for name, source in (("qwen2_5_vl", checkpoint), ("qwen3_vl", qwen3)):
        shutil.copytree(source, folder / name)
        config = json.loads((folder / name / "config.json").read_text())
        config["text_config"]["max_position_embeddings"] = 131_072
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "reward.py").write_text(REWARD)
    return folder


@pytest.fixture(scope="session")
def recipe(files, videos):
    """Composes each recipe once, with the files of the test."""
    made: dict[str, Composed] = {}

    def make(name: str) -> Composed:
        if name not in made:
            groups = ["+videomtr/recipe=paper", "+videomtr/ablation=no_gate"]
            groups = groups if name == "ablations" else [f"+videomtr/recipe={name}"]
            model = files / ("qwen3_vl" if name == "qwen3_vl" else "qwen2_5_vl")
            made[name] = Composed(
                [
                    *groups,
                    f"data.train_files={files / 'train.parquet'}",
                    f"data.val_files={videos / 'val.parquet'}",
                    f"videomtr.video.root={videos}",
                    f"actor_rollout_ref.model.path={model}",
                    f"critic.model.path={model}",
                    f"trainer.default_local_dir={files / 'checkpoints'}",
                ]
            )
        return made[name]

    return make


@pytest.fixture(scope="session")
def complaints(recipe):
    """Every check of the doctor but the fresh process; what it says of this machine is left out."""
    measured: dict[str, Case] = {}

    def look(name: str, *overrides: str) -> list[str]:
        config = recipe(name).config(*overrides)
        case, checks = Case.of(config, load_settings(config)), examine._checks(None)
        if name in measured:  # the variations keep their recipe's model, which takes the longest to look at
            case.model, case.measured = measured[name].model, measured[name].measured
            checks.remove(model.check_model)
        found = list(values.check_bounds(case))
        found += [finding for check in checks for finding in examine._run(check, case)]
        assert case.measured is not None
        looked = {finding.check for finding in found}
        assert looked >= LOOKED_AT, LOOKED_AT - looked
        measured.setdefault(name, case)
        # With adapters verl asks vLLM for its version, which the CPU build has under another name.
        has_vllm = any(each.name == "vllm" for each in distributions())
        left_out = MACHINE if has_vllm or not case.has_lora else MACHINE | {"config.verl"}
        return [finding.line() for finding in bad(found) if finding.check not in left_out]

    return look


@pytest.mark.parametrize("name", RECIPES)
def test_the_doctor_is_quiet_on_a_recipe(complaints, name):
    assert not complaints(name)


VARIATIONS = {
    "a KL term in the loss": (
        "paper",
        ["algorithm.use_kl_in_reward=false", f"{ACTOR}.use_kl_loss=true", f"{ACTOR}.kl_loss_coef=0.01"],
    ),
    "a larger model's memory": (
        "paper",
        [
            f"{ACTOR}.fsdp_config.param_offload=true",
            f"{ACTOR}.fsdp_config.optimizer_offload=true",
            "critic.fsdp.param_offload=true",
            "critic.fsdp.optimizer_offload=true",
            f"{ROLLOUT}.gpu_memory_utilization=0.4",
            f"{ROLLOUT}.tensor_model_parallel_size=2",
        ],
    ),
    "four GPUs and a smaller batch": (
        "paper",
        ["trainer.n_gpus_per_node=4", "data.train_batch_size=16", f"{ACTOR}.ppo_mini_batch_size=16"],
    ),
    "other learning rates, warmed up": (
        "paper",
        [
            f"{ACTOR}.optim.lr=2e-6",
            "critic.optim.lr=5e-6",
            f"{ACTOR}.optim.lr_scheduler_type=cosine",
            f"{ACTOR}.optim.lr_warmup_steps=5",
            "trainer.total_epochs=10",
        ],
    ),
    "other credit": ("paper", ["videomtr.credit.gamma_turn=0.95", "videomtr.credit.lam_turn=0.9"]),
    "a cache, and records": (
        "paper",
        [
            "videomtr.video.cache.dir={files}/cache",
            "videomtr.video.cache.form=jpeg",
            "videomtr.video.cache.max_gib=1",
            "videomtr.dump.dir={files}/records",
        ],
    ),
    "a reward of one's own": (
        "paper",
        [
            "reward.custom_reward_function.path={files}/reward.py",
        ],
    ),
    "a benchmark validated alone": (
        "paper",
        [
            "trainer.val_only=true",
            "data.train_files={files}/benchmark.parquet",
            "data.val_files={files}/benchmark.parquet",
        ],
    ),
    "a short trial": (
        "grpo",
        [
            "trainer.total_training_steps=2",
            "trainer.save_freq=-1",
            "trainer.test_freq=-1",
            "trainer.logger=[console]",
            "trainer.val_before_train=false",
        ],
    ),
    "GRPO with fewer episodes a question": ("grpo", [f"{ROLLOUT}.n=4", f"{ACTOR}.clip_ratio_high=0.28"]),
    "adapters of another rank": ("lora_1gpu", ["actor_rollout_ref.model.lora_rank=16", f"{ACTOR}.optim.lr=1e-5"]),
    "four nodes": (
        "multi_node",
        [
            "trainer.nnodes=4",
            "data.train_batch_size=64",
            f"{ROLLOUT}.agent.num_workers=32",
            "transfer_queue.backend.SimpleStorage.num_data_storage_units=32",
        ],
    ),
    "samples at validation": (
        "qwen3_vl",
        [f"{ROLLOUT}.val_kwargs.n=4", f"{ROLLOUT}.val_kwargs.temperature=0.6", f"{ROLLOUT}.val_kwargs.do_sample=true"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", VARIATIONS)
def test_the_doctor_is_quiet_on_a_variation(complaints, files, title):
    name, overrides = VARIATIONS[title]
    assert not complaints(name, *(item.format(files=files) for item in overrides))
