"""Configuration: what the groups compose to, and what is refused before a worker starts."""

from __future__ import annotations

import dataclasses

import pytest
from hydra import compose, initialize_config_module
from omegaconf import open_dict

from verl_videomtr.episode import EpisodeConfig
from verl_videomtr.verl_plugin.checks import check_config
from verl_videomtr.verl_plugin.settings import CreditConfig, Settings, load_settings


def compose_config(*overrides):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


def test_paper_group_is_the_dataclasses_defaults():
    settings = load_settings(compose_config("+videomtr=paper"))
    assert settings == Settings(video=settings.video)
    assert settings.episode == EpisodeConfig()
    assert settings.credit == CreditConfig()


def test_paper_group_sets_the_papers_training_constants():
    config = compose_config("+videomtr=paper")
    check_config(config, load_settings(config))
    assert config.data.train_batch_size == config.actor_rollout_ref.actor.ppo_mini_batch_size == 32
    assert config.actor_rollout_ref.actor.optim.lr == pytest.approx(1e-6)
    assert config.critic.optim.lr == pytest.approx(1e-5)
    assert (config.actor_rollout_ref.rollout.temperature, config.actor_rollout_ref.rollout.top_p) == (0.7, 0.95)
    assert config.algorithm.kl_ctrl.kl_coef == pytest.approx(0.001)


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
    ],
)
def test_bad_values_name_key_value_and_rule(override, message):
    with pytest.raises(ValueError, match=message):
        load_settings(compose_config("+videomtr=paper", override))


def test_missing_prompt_file_is_found_at_start():
    with pytest.raises(FileNotFoundError, match="neither shipped"):
        load_settings(compose_config("+videomtr=paper", "videomtr.prompts=/no/such.yaml"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("critic.enable=false", r"set critic\.enable=true"),
        ("videomtr.episode.max_turns=6", r"set videomtr\.episode\.window=5"),
        ("actor_rollout_ref.rollout.limit_images=8", r"limit_images=32"),
    ],
)
def test_contradictions_name_the_override_that_mends_them(override, message):
    config = compose_config("+videomtr=paper", override)
    with pytest.raises(ValueError, match=message):
        check_config(config, load_settings(config))


def test_grpo_needs_no_critic():
    config = compose_config("+videomtr=paper", "algorithm.adv_estimator=grpo", "critic.enable=false")
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
