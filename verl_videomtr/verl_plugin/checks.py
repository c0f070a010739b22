# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Contradictions in a configuration, found before a worker starts: config in, one clear error out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_videomtr.budget import TextTokens, largest_frame_tokens, round_up
from verl_videomtr.rewards import RewardConfig
from verl_videomtr.sample import AGENT_NAME
from verl_videomtr.settings import Settings, check_types
from verl_videomtr.verl_plugin.compose import check_group_names

BONUS_ESTIMATOR = "bi_level_gae"
"""The one estimator that reads the critic's values and pays the exploration bonus."""
OLD_REWARD_SECTIONS = ("custom_reward_function", "reward_model", "sandbox_fusion")
"""Sections at the top level that verl keeps for its old trainer."""
ROW_AWARE_ESTIMATORS = (BONUS_ESTIMATOR, "grpo")
"""Estimators that take several rows for one trajectory; verl's own GRPO is the only other one."""


class ContradictionError(ValueError):
    """A configuration that contradicts itself; its message ends with the overrides that end it."""

    def __init__(self, what: str, *, overrides: list[str], advice: str = "") -> None:
        super().__init__(f"{what}; set {' '.join(overrides)}" + (f", {advice}" if advice else ""))
        self.what = what
        self.overrides = overrides
        self.advice = advice


def check_config(config: DictConfig, settings: Settings) -> None:
    """Raise ContradictionError, or another ValueError, for the first contradiction."""
    check_group_names(config)
    _check_old_keys(config)
    _check_trainer(config)
    _check_credit(config, settings)
    _check_window(config, settings)
    _check_lengths(config, settings)
    _check_image_limit(config, settings)
    _check_reward(config)
    root = settings.video.root
    if root is not None and not Path(root).is_dir():
        raise ValueError(
            f"videomtr.video.root={root!r} is no directory on the trainer's machine; expected one that it and all "
            "agent-loop workers see; set videomtr.video.root to the folder of the videos, or to null where the rows "
            "hold absolute paths"
        )


def _check_old_keys(config: DictConfig) -> None:
    """The keys of verl before 0.8 still compose; its V1 trainer reads none of them."""
    given = [pair for section in OLD_REWARD_SECTIONS for pair in _values(config.get(section), section)]
    if given:
        today = [f"{_todays_key(key)}={value}" for key, value in given] + [f"{key}=null" for key, _ in given]
        raise ContradictionError(
            f"{', '.join(f'{key}={value}' for key, value in given)}: keys of verl before 0.8, which verl 0.9 accepts "
            "and ignores; expected today's",
            overrides=today,
        )


def _values(section: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(section, DictConfig):
        return
    for name in map(str, section):
        value = section[name]
        if isinstance(value, DictConfig):
            yield from _values(value, f"{prefix}.{name}")
        elif value is not None:
            yield f"{prefix}.{name}", value


def _todays_key(key: str) -> str:
    moved = {
        "reward_model.num_workers": "reward.num_workers",
        "reward_model.reward_manager": "reward.reward_manager.name",
        "reward_model.reward_loop_source": "reward.reward_manager.source",
        "reward_model.reward_loop_module_path": "reward.reward_manager.module.path",
        "reward_model.reward_loop_class_name": "reward.reward_manager.module.name",
        "reward_model.model.path": "reward.reward_model.model_path",
    }
    return moved.get(key, f"reward.{key}")


def _check_trainer(config: DictConfig) -> None:
    if not OmegaConf.select(config, "trainer.use_v1", default=True):
        raise ContradictionError(
            "trainer.use_v1=false takes verl's old trainer, which has neither turn rewards nor the plugin's modes; "
            "expected the V1 trainer",
            overrides=["trainer.use_v1=true"],
        )
    loop = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.default_agent_loop")
    if loop == AGENT_NAME and OmegaConf.select(config, "reward.reward_model.enable"):
        raise ContradictionError(
            "reward.reward_model.enable=true: a reward model on the trainer's GPUs writes its one score over the "
            "rewards of the turns, and one on GPUs of its own is asked by nothing; expected a reward function, which "
            "may ask a model that is served elsewhere",
            overrides=["reward.reward_model.enable=false"],
        )


def _check_credit(config: DictConfig, settings: Settings) -> None:
    estimator = str(config.algorithm.adv_estimator)
    if estimator == BONUS_ESTIMATOR and not config.critic.get("enable"):
        raise ContradictionError(
            f"algorithm.adv_estimator={estimator} with critic.enable={config.critic.get('enable')}; expected a critic, "
            "whose values the estimator needs (verl starts none by itself for a registered estimator)",
            overrides=["critic.enable=true"],
            advice="or algorithm.adv_estimator=grpo videomtr.bootstrap.enabled=false",
        )
    max_turns = settings.episode.max_turns
    if settings.bootstrap.enabled and estimator != BONUS_ESTIMATOR:
        raise ContradictionError(
            f"algorithm.adv_estimator={estimator} with videomtr.bootstrap.enabled=true: the bonus would be computed "
            f"and paid to nobody; expected {BONUS_ESTIMATOR}, the one estimator that pays it",
            overrides=["videomtr.bootstrap.enabled=false"],
        )
    if settings.bootstrap.enabled and max_turns == 1:
        raise ContradictionError(
            "videomtr.episode.max_turns=1 with videomtr.bootstrap.enabled=true: a single turn has no retrieval to "
            "pay; expected at least 2 turns",
            overrides=["videomtr.bootstrap.enabled=false"],
        )


def _check_window(config: DictConfig, settings: Settings) -> None:
    """A context that slides makes several rows of one trajectory; not everything reads them as one."""
    episode = settings.episode
    if not episode.slides:
        return
    where = f"videomtr.episode.max_turns={episode.max_turns} with window={episode.window}: the context slides, and"
    estimator = str(config.algorithm.adv_estimator)
    if estimator not in ROW_AWARE_ESTIMATORS:
        raise ContradictionError(
            f"{where} algorithm.adv_estimator={estimator} would judge each of a trajectory's rows by itself; expected "
            f"one of {', '.join(ROW_AWARE_ESTIMATORS)}",
            overrides=[f"videomtr.episode.window={episode.max_turns - 1}"],
            advice="or such an estimator",
        )
    loop = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.default_agent_loop")
    if loop != AGENT_NAME:
        raise ContradictionError(
            f"{where} actor_rollout_ref.rollout.agent.default_agent_loop={loop} knows no window; expected {AGENT_NAME}",
            overrides=[f"videomtr.episode.window={episode.max_turns - 1}"],
            advice="or that loop",
        )


def _check_lengths(config: DictConfig, settings: Settings) -> None:
    pool, episode = settings.video.pool, settings.episode
    tokens, text = largest_frame_tokens(pool), TextTokens()
    frames = min(episode.overview_frames, episode.pool_size)
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    if frames * tokens >= prompt:
        needed = round_up(frames * (tokens + text.frame) + text.instructions + text.message)
        raise ContradictionError(
            f"an overview of {frames} frames of up to {tokens} visual tokens does not fit "
            f"data.max_prompt_length={prompt}; expected more than {frames * tokens} tokens, and room for the text",
            overrides=[f"data.max_prompt_length={needed}"],
            advice="or add +videomtr/budget=b64 (b80), which sets all lengths",
        )
    longest = config.actor_rollout_ref.rollout.get("max_model_len")
    if longest is not None and longest <= prompt:
        raise ContradictionError(
            f"actor_rollout_ref.rollout.max_model_len={longest} leaves no token for a response behind "
            f"data.max_prompt_length={prompt}; expected the sum of prompt and response",
            overrides=[f"actor_rollout_ref.rollout.max_model_len={prompt + response}"],
        )


def _check_image_limit(config: DictConfig, settings: Settings) -> None:
    rollout = config.actor_rollout_ref.rollout
    # verl's vLLM server replaces the engine's own limit by limit_images wherever that is set.
    limit: Any = rollout.get("limit_images") or None
    key = "limit_images"
    if limit is None:
        key = "engine_kwargs.vllm.limit_mm_per_prompt.image"
        limit = OmegaConf.select(rollout, key)
    if isinstance(limit, int) and limit < settings.episode.frame_budget:
        sign = "" if "limit_images" in rollout else "+"
        raise ContradictionError(
            f"actor_rollout_ref.rollout.{key}={limit} images per prompt, fewer than videomtr.episode.frame_budget="
            f"{settings.episode.frame_budget}; an episode's last turn would be refused",
            overrides=[f"{sign}actor_rollout_ref.rollout.limit_images={settings.episode.frame_budget}"],
        )


def _check_reward(config: DictConfig) -> None:
    reward_config(config)


def reward_config(config: DictConfig) -> RewardConfig | None:
    """Read the constants of the package's own reward function; None where another function is set.

    Raises:
        ValueError: an unknown field or preset, or a value that breaks its rule; the message names the key.
    """
    function = OmegaConf.select(config, "reward.custom_reward_function")
    if function is not None and function.get("path") not in (None, "pkg://verl_videomtr.rewards"):
        return None
    where = "reward.custom_reward_function.reward_kwargs"
    section = None if function is None else function.get("reward_kwargs")
    kwargs: Any = {} if section is None else OmegaConf.to_container(section, resolve=True)
    preset = kwargs.pop("preset", "paper")
    check_types(RewardConfig, kwargs, where)
    try:
        return RewardConfig.preset(preset, **kwargs)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
