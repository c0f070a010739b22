# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The Hydra groups that recipes are made of: what each changes, and that it changes nothing else."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from verl_videomtr.budget import Needs, largest_frame_tokens, worst_rows
from verl_videomtr.rewards import PRESETS, Baseline, Gate
from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin.checks import check_config
from verl_videomtr.verl_plugin.compose import ComposeError, compose

GROUPS = Path(__file__).parents[2] / "verl_videomtr" / "conf" / "videomtr"
KWARGS = "reward.custom_reward_function.reward_kwargs"


@functools.lru_cache(maxsize=32)
def flat(*overrides):
    """Composed configuration as {dotted key: value}, interpolations resolved; without distillation, which is unused."""
    config = compose(overrides)
    check_config(config, load_settings(config))

    def walk(node, prefix):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    pairs = walk(OmegaConf.to_container(config, resolve=True), "")
    return {key: value for key, value in pairs if not key.startswith("distillation.")}


def changes(base, *overrides):
    """The keys whose value differs, with their new value; a key that is gone has the value None."""
    before, after = flat(*base), flat(*overrides)
    return {key: after.get(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_released_code_departs_from_the_paper_in_these_keys_alone():
    assert changes(("+videomtr=paper",), "+videomtr=released_code") == {
        "videomtr.episode.pool_size": 64,
        "videomtr.video.pool.mode": "rate",
        "videomtr.video.pool.fps": 1.0,
        "videomtr.video.pool.max_tokens": 32,
        "videomtr.credit.gamma_turn": 1.0,
        "videomtr.bootstrap.rate_of": "trajectories",
        "videomtr.bootstrap.stateless": True,
        "data.train_batch_size": 16,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 16,
        "critic.ppo_mini_batch_size": 16,
        "actor_rollout_ref.rollout.n": 2,
        "actor_rollout_ref.actor.rollout_n": 2,
        "actor_rollout_ref.ref.rollout_n": 2,
        "critic.rollout_n": 2,
        f"{KWARGS}.preset": "released_code",
    }
    assert PRESETS["released_code"] == {
        "accuracy_decay": 0.1,
        "drop_penalty": 0.0,
        "baseline": Baseline.PREVIOUS,
        "gate": Gate.RELEASED_CODE,
    }


def test_released_code_plays_as_many_episodes_a_step_as_the_paper():
    for group in ("paper", "released_code"):
        config = flat(f"+videomtr={group}")
        assert config["data.train_batch_size"] * config["actor_rollout_ref.rollout.n"] == 32


MODELS = sorted(path.stem for path in (GROUPS / "model").glob("q*.yaml"))
RECIPES = sorted(path.stem for path in (GROUPS / "recipe").glob("*.yaml") if path.stem != "cpu_smoke")


@pytest.mark.parametrize("overrides", [[f"+videomtr/recipe={name}"] for name in RECIPES])
def test_released_code_is_itself_on_every_recipe(overrides):
    """Whatever the other groups set, and whichever comes last."""
    preset = load_settings(compose(["+videomtr=released_code"]))
    settings = load_settings(compose([*overrides, "videomtr=released_code"]))
    assert settings.video.pool.max_tokens == preset.video.pool.max_tokens == 32
    assert dataclasses.replace(settings.video.pool, patch_px=14, num_frames=64) == preset.video.pool
    assert settings.credit == preset.credit
    assert settings.bootstrap.rate_of == "trajectories"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("preset", ["paper", "released_code"])
def test_a_models_group_changes_no_preset(model, preset):
    allowed = ("actor_rollout_ref.model.", "critic.model.", "data.image_patch_size", "videomtr.video.pool.patch_px")
    # verl's actor and engine copy the model's key.
    allowed += ("videomtr.video.pool.merge", "actor_rollout_ref.actor.use_fused_kernels")
    rollout = ("tensor_model_parallel_size", "max_model_len", "prometheus.served_model_name")
    allowed += tuple(f"actor_rollout_ref.rollout.{key}" for key in rollout)
    changed = changes((f"+videomtr={preset}",), f"+videomtr={preset}", f"+videomtr/model={model}")
    assert [key for key in changed if not key.startswith(allowed)] == []


@pytest.mark.parametrize(
    ("early", "base"),
    [
        ("+videomtr/model=qwen3_vl_4b", "+videomtr=released_code"),
        ("+videomtr/budget=b64", "+videomtr=paper"),
        ("+videomtr/ablation=single_turn", "+videomtr/recipe=paper"),
    ],
)
def test_a_group_in_front_of_the_preset_is_refused(early, base):
    """The preset would silently take back what the group set."""
    with pytest.raises(ComposeError, match=re.escape(f"write {base} first")):
        compose([early, base])
    compose([base, early])


def test_presets_do_not_mix():
    with pytest.raises(ComposeError, match="Multiple values for videomtr"):
        compose(["+videomtr=paper", "+videomtr=released_code"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no_gate", {f"{KWARGS}.gate": "none"}),
        ("no_turn_reward", {f"{KWARGS}.turn_level": False}),
        ("accuracy_only", {f"{KWARGS}.accuracy_only": True}),
        ("no_bootstrapping", {"videomtr.bootstrap.enabled": False}),
        ("plain_gae", {"videomtr.credit.form": "plain"}),
        ("literal_credit", {"videomtr.credit.form": "literal"}),
        ("turns_2", {"videomtr.episode.max_turns": 2}),
        (
            "turns_5",
            {
                "videomtr.episode.max_turns": 5,
                "data.max_prompt_length": 4096,
                "actor_rollout_ref.rollout.prompt_length": 4096,
            },
        ),
        (
            "single_turn",
            {
                "videomtr.episode.max_turns": 1,
                "videomtr.bootstrap.enabled": False,
                "data.max_prompt_length": 12544,
                "actor_rollout_ref.rollout.prompt_length": 12544,
                "data.max_response_length": 512,
                "actor_rollout_ref.rollout.response_length": 512,
            },
        ),
        (
            "grpo",
            {
                "algorithm.adv_estimator": "grpo",
                "algorithm.use_kl_in_reward": False,
                "actor_rollout_ref.actor.use_kl_loss": True,
                "critic.enable": False,
                "videomtr.bootstrap.enabled": False,
                "actor_rollout_ref.rollout.n": 8,
                "actor_rollout_ref.actor.rollout_n": 8,
                "actor_rollout_ref.ref.rollout_n": 8,
                "critic.rollout_n": 8,
            },
        ),
    ],
)
def test_an_ablation_is_one_override_and_changes_nothing_else(name, expected):
    assert changes(("+videomtr=paper",), "+videomtr=paper", f"+videomtr/ablation={name}") == expected


def test_ablations_combine():
    both = changes(("+videomtr=paper",), "+videomtr=paper", "+videomtr/ablation=[no_gate,no_bootstrapping]")
    assert both == {f"{KWARGS}.gate": "none", "videomtr.bootstrap.enabled": False}


@pytest.mark.parametrize("budget", [32, 64, 80])
def test_a_single_turn_holds_every_budget_of_the_paper(budget):
    config = flat("+videomtr=paper", f"+videomtr/budget=b{budget}", "+videomtr/ablation=single_turn")
    assert budget * 148 + 600 <= config["data.max_prompt_length"]


@pytest.mark.parametrize("budget", [32, 64, 80, 128, 256, 512])
def test_a_budgets_longest_episode_fits_the_micro_batches(budget):
    config = flat("+videomtr=paper", f"+videomtr/budget=b{budget}", "+videomtr/model=qwen2_5_vl_7b")
    longest = config["data.max_prompt_length"] + config["data.max_response_length"]
    looks = budget // 2 * 148 + 2 * 600
    assert 0 <= config["data.max_prompt_length"] - (budget // 2 * 148 + 600) < 256
    assert 0 <= config["data.max_response_length"] - (3 * 512 + looks) < 256
    parallel = config["actor_rollout_ref.actor.ulysses_sequence_parallel_size"]
    assert (
        parallel
        == config["actor_rollout_ref.ref.ulysses_sequence_parallel_size"]
        == {128: 2, 256: 4, 512: 4}.get(budget, 1)
    )
    assert max(parallel, 1) == config["critic.fsdp.ulysses_sequence_parallel_size"]
    for key in ("actor_rollout_ref.actor.ppo_max_token_len_per_gpu", "critic.ppo_infer_max_token_len_per_gpu"):
        assert config[key] * parallel >= longest, key
    assert config["actor_rollout_ref.rollout.limit_images"] == budget


@pytest.mark.parametrize(
    ("name", "path", "patch"),
    [
        ("qwen2_5_vl_3b", "Qwen/Qwen2.5-VL-3B-Instruct", 14),
        ("qwen2_5_vl_7b", "Qwen/Qwen2.5-VL-7B-Instruct", 14),
        ("qwen3_vl_4b", "Qwen/Qwen3-VL-4B-Instruct", 16),
        ("qwen3_vl_8b", "Qwen/Qwen3-VL-8B-Instruct", 16),
    ],
)
def test_a_models_frames_have_at_most_128_visual_tokens(name, path, patch):
    config = flat("+videomtr=paper", f"+videomtr/model={name}")
    assert config["actor_rollout_ref.model.path"] == config["critic.model.path"] == path
    assert config["data.image_patch_size"] == patch
    pool = load_settings(compose(["+videomtr=paper", f"+videomtr/model={name}"])).video.pool
    assert (pool.max_tokens, pool.max_pixels) == (128, 128 * (2 * patch) ** 2)


@pytest.mark.parametrize(
    "base",
    [["+videomtr=paper", "+videomtr/model={}"], ["+videomtr/recipe=paper", "videomtr/model={}"]],
    ids=["preset", "recipe"],
)
@pytest.mark.parametrize("name", sorted(path.stem for path in (GROUPS / "model").glob("*.yaml") if path.stem != "tiny"))
def test_a_models_group_is_a_few_lines_and_holds_its_longest_episode(name, base):
    assert len((GROUPS / "model" / f"{name}.yaml").read_text().splitlines()) <= 20
    config = compose([each.format(name) for each in base])
    settings = load_settings(config)
    check_config(config, settings)
    assert config.critic.model.path == config.actor_rollout_ref.model.path
    frame = largest_frame_tokens(settings.video.pool)
    needs = Needs.of(worst_rows(settings.episode, frame_tokens=frame, max_response_tokens=512))
    assert needs.prompt_tokens <= config.data.max_prompt_length
    assert needs.response_tokens <= config.data.max_response_length


def test_one_override_moves_actor_and_critic_to_another_copy():
    config = flat("+videomtr=paper", "+videomtr/model=qwen2_5_vl_7b", "actor_rollout_ref.model.path=/models/mine")
    assert config["critic.model.path"] == "/models/mine"


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_tiny_model_runs_on_one_device(device):
    """Through the demo: verl's default of two GPUs a vLLM server stopped it on a machine with one."""
    found = flat("+videomtr=paper", f"+videomtr/device={device}", "+videomtr/model=tiny", "trainer.n_gpus_per_node=1")
    assert found["actor_rollout_ref.rollout.tensor_model_parallel_size"] == 1
