# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration: what the groups compose to, and what is refused before a worker starts."""

from __future__ import annotations

import contextlib
import copy
import dataclasses

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from verl_videomtr.episode import EpisodeConfig
from verl_videomtr.settings import CreditConfig, Settings, load_settings
from verl_videomtr.verl_plugin.checks import check_config


def compose_config(*overrides):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


@pytest.fixture(scope="module")
def paper():
    """Make the paper group's configuration with values overridden; composing anew takes Hydra seconds each time."""
    base = compose_config("+videomtr=paper")

    def override(*overrides):
        config = copy.deepcopy(base)
        for item in OverridesParser.create().parse_overrides(list(overrides)):
            with contextlib.nullcontext() if not item.is_add() else open_dict(config):
                OmegaConf.update(config, item.key_or_group, item.value(), merge=False, force_add=item.is_add())
        return config

    return override


def test_paper_group_is_the_dataclasses_defaults():
    settings = load_settings(compose_config("+videomtr=paper"))
    assert settings == Settings()
    assert settings.episode == EpisodeConfig()
    assert settings.credit == CreditConfig()


def _field_tree(instance):
    return {
        field.name: _field_tree(value) if dataclasses.is_dataclass(value := getattr(instance, field.name)) else None
        for field in dataclasses.fields(instance)
    }


def _key_tree(section):
    return {key: _key_tree(value) if isinstance(value, dict) else None for key, value in section.items()}


def test_every_setting_is_a_key_of_the_paper_group():
    fields = _field_tree(Settings())
    del fields["video"]["pool"]["num_frames"], fields["bootstrap"]["max_turns"]  # both come from episode
    assert _key_tree(OmegaConf.to_container(compose_config("+videomtr=paper").videomtr)) == fields


@pytest.mark.parametrize(("budget", "prompt", "response"), [(32, 3072, 5120), (64, 5376, 7680), (80, 6656, 8704)])
def test_budget_groups_set_lengths_that_hold_the_frames(budget, prompt, response):
    config = compose_config("+videomtr=paper", f"+videomtr/budget=b{budget}")
    settings = load_settings(config)
    check_config(config, settings)
    episode = settings.episode
    assert (config.data.max_prompt_length, config.data.max_response_length) == (prompt, response)
    assert episode.frame_budget == config.actor_rollout_ref.rollout.limit_images == budget
    assert 0 <= prompt - (episode.overview_frames * 148 + 600) < 256
    looks = (episode.max_turns - 1) * (episode.frames_per_retrieval * 148 + 600)
    assert 0 <= response - (episode.max_turns * settings.max_response_tokens + looks) < 256


def test_paper_group_sets_the_papers_training_constants():
    config = compose_config("+videomtr=paper")
    check_config(config, load_settings(config))
    assert config.data.train_batch_size == config.actor_rollout_ref.actor.ppo_mini_batch_size == 32
    assert config.actor_rollout_ref.actor.optim.lr == pytest.approx(1e-6)
    assert config.critic.optim.lr == pytest.approx(1e-5)
    assert (config.actor_rollout_ref.rollout.temperature, config.actor_rollout_ref.rollout.top_p) == (0.7, 0.95)
    assert config.algorithm.kl_ctrl.kl_coef == pytest.approx(0.001)
    assert config.trainer.total_epochs == 1


def test_values_on_the_command_line_reach_the_dataclasses():
    settings = load_settings(
        compose_config(
            "+videomtr=paper", "videomtr.episode.max_turns=2", "videomtr.credit.gamma_turn=0.5", "videomtr.prompts=tiny"
        )
    )
    assert settings.episode.frames_per_retrieval == 16
    assert settings.credit.gamma_turn == 0.5
    assert settings.bootstrap.max_turns == 2
    assert settings.video.pool.num_frames == 128


def test_missing_part_names_the_override():
    with pytest.raises(ValueError, match=r"add \+videomtr=paper"):
        load_settings(compose_config())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+videomtr.episode.budget=3", r"videomtr\.episode has unknown keys \['budget'\]"),
        ("+videomtr.frames=3", r"videomtr has unknown keys \['frames'\]"),
        ("videomtr.episode.frame_budget=0", r"videomtr\.episode\.frame_budget=0; expected at least 1"),
        ("videomtr.episode.frame_budget=2", r"frame_budget=2 leaves no frame for each of the 2 retrievals"),
        ("videomtr.episode.unit=minutes", r"unit='minutes'; expected 'index' or 'seconds'"),
        ("videomtr.credit.gamma_turn=1.5", r"videomtr\.credit\.gamma_turn=1\.5; expected 0 to 1"),
        ("videomtr.max_response_tokens=0", r"max_response_tokens=0; expected at least 1"),
        ("videomtr.max_response_tokens=many", r"videomtr\.max_response_tokens='many'; expected a whole number"),
        ("videomtr.poll_seconds=0", r"videomtr\.poll_seconds=0; expected a positive number"),
        ("videomtr.credit.gamma_turn=high", r"videomtr\.credit\.gamma_turn='high'; expected a number"),
        ("videomtr.credit.form=flat", r"videomtr\.credit\.form='flat'; expected one of \['bi_level'"),
        ("videomtr.episode=null", r"videomtr\.episode=None; expected a mapping"),
        ("videomtr.video.pool=3", r"videomtr\.video\.pool=3; expected a mapping"),
        ("videomtr.episode.max_turns=2.5", r"videomtr\.episode\.max_turns=2\.5; expected a whole number"),
        ("videomtr.episode.max_turns=true", r"videomtr\.episode\.max_turns=True; expected a whole number"),
        ("videomtr.bootstrap.enabled=perhaps", r"bootstrap\.enabled='perhaps'; expected true or false"),
        ("videomtr.bootstrap.rate_of=frames", r"bootstrap\.rate_of='frames'; expected one of \['turns'"),
        ("videomtr.video.pool.size=[28]", r"pool\.size=\(28,\); expected a list of 2 whole numbers or null"),
        ("videomtr.video.open_pools=0", r"videomtr\.video\.open_pools=0; expected at least 1"),
        ("videomtr.video.max_unreadable_share=20", r"max_unreadable_share=20; expected 0 to 1"),
        ("videomtr.video.cache.form=png", r"videomtr\.video\.cache\.form='png'; expected one of raw, jpeg"),
        ("videomtr.video.cache.max_gib=0", r"videomtr\.video\.cache\.max_gib=0; expected a positive number"),
        ("videomtr.dump.share=-0.5", r"videomtr\.dump\.share=-0\.5; expected 0 to 1"),
    ],
)
def test_bad_values_name_key_value_and_rule(paper, override, message):
    with pytest.raises(ValueError, match=message):
        load_settings(paper(override))


def test_missing_prompt_file_is_found_at_start(paper):
    with pytest.raises(FileNotFoundError, match="neither shipped"):
        load_settings(paper("videomtr.prompts=/no/such.yaml"))


REWARD = "reward.custom_reward_function.reward_kwargs"
NO_BONUS = "videomtr.bootstrap.enabled=false"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["critic.enable=false"], r"set critic\.enable=true"),
        (
            ["videomtr.episode.max_turns=6", "algorithm.adv_estimator=rloo", "videomtr.bootstrap.enabled=false"],
            r"the context slides.*adv_estimator=rloo would judge each.*bi_level_gae, grpo.*window=5",
        ),
        (
            ["videomtr.episode.max_turns=6", "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent"],
            r"default_agent_loop=tool_agent knows no window.*set videomtr\.episode\.window=5",
        ),
        (["videomtr.episode.max_turns=1"], r"no retrieval to pay.*set videomtr\.bootstrap\.enabled=false"),
        (["algorithm.adv_estimator=grpo"], r"adv_estimator=grpo with.*set videomtr\.bootstrap\.enabled=false"),
        (["actor_rollout_ref.rollout.limit_images=8"], r"set actor_rollout_ref\.rollout\.limit_images=32"),
        (["videomtr.episode.frame_budget=64"], r"32 frames.*set data\.max_prompt_length=5376"),
        (["videomtr.video.pool.size=[448,448]"], r"16 frames of up to 256 .*set data\.max_prompt_length=5120"),
        (["actor_rollout_ref.rollout.max_model_len=3072"], r"set actor_rollout_ref\.rollout\.max_model_len=8192"),
        (["videomtr.video.root=/no/such/folder"], r"videomtr\.video\.root='/no/such/folder' is no directory"),
        ([f"+{REWARD}.preset=papre"], r"reward_kwargs: preset='papre'; expected one of"),
        ([f"+{REWARD}.gates=none"], r"reward_kwargs has unknown keys \['gates'\]"),
        ([f"+{REWARD}.gate=closed"], r"reward_kwargs\.gate='closed'; expected one of \['accuracy'"),
        ([f"+{REWARD}.drop_penalty=-1"], r"reward_kwargs: drop_penalty=-1; expected a finite number"),
    ],
)
def test_contradictions_name_the_override_that_mends_them(paper, overrides, message):
    config = paper(*overrides)
    with pytest.raises(ValueError, match=message):
        check_config(config, load_settings(config))


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.adv_estimator=grpo", "critic.enable=false", "videomtr.bootstrap.enabled=false"],
        ["videomtr.episode.max_turns=1", "videomtr.bootstrap.enabled=false", "data.max_prompt_length=5376"],
        ["videomtr.episode.frame_budget=64", "data.max_prompt_length=5376"],
        ["videomtr.video.pool.size=[448,448]", "data.max_prompt_length=5120"],
        ["videomtr.episode.max_turns=6", "videomtr.episode.window=5", "algorithm.adv_estimator=rloo", NO_BONUS],
        ["videomtr.episode.max_turns=6", "algorithm.adv_estimator=grpo", NO_BONUS],
        ["videomtr.episode.max_turns=6"],
        [f"+{REWARD}.preset=released_code", f"+{REWARD}.gate=none", f"+{REWARD}.drop_penalty=1"],
        ["reward.custom_reward_function.path=mine.py", f"+{REWARD}.my_switch=1"],
        ["videomtr.video.root=/"],
    ],
)
def test_mended_configurations_pass(paper, overrides):
    config = paper(*overrides)
    check_config(config, load_settings(config))


def test_misspelt_group_is_found_and_the_groups_are_named():
    config = compose_config("+videomtr=paper", "+videomtr/modle=tiny")
    with pytest.raises(ValueError, match=r"\+videomtr/modle=tiny chose no.*budget=b64.*\+videomtr/model=tiny"):
        check_config(config, load_settings(config))


def test_the_tiny_model_on_a_cpu_passes():
    config = compose_config("+videomtr=paper", "+videomtr/device=cpu", "+videomtr/model=tiny")
    check_config(config, load_settings(config))


def test_the_engines_own_image_limit_counts_only_without_verls(paper):
    engine = "+actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt={image:8}"
    config = paper(engine)
    check_config(config, load_settings(config))
    config = paper(engine, "actor_rollout_ref.rollout.limit_images=null")
    with pytest.raises(ValueError, match=r"limit_mm_per_prompt\.image=8.*set actor_rollout_ref"):
        check_config(config, load_settings(config))
    with open_dict(config):
        del config.actor_rollout_ref.rollout.limit_images
    with pytest.raises(ValueError, match=r"set \+actor_rollout_ref\.rollout\.limit_images=32"):
        check_config(config, load_settings(config))


def test_settings_are_hashable_and_frozen():
    settings = load_settings(compose_config("+videomtr=paper", "+videomtr/model=tiny"))
    hash(settings.video)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.prompts = "other"
    config = compose_config("+videomtr=paper")
    with open_dict(config):
        config.videomtr.video.pool.size = [28, 56]
    assert load_settings(config).video.pool.size == (28, 56)
