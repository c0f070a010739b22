"""Contradictions in a configuration, found before a worker starts: config in, one clear error out."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from verl_videomtr.verl_plugin.settings import Settings

CRITIC_ESTIMATORS = ("bi_level_gae",)


def check_config(config: DictConfig, settings: Settings) -> None:
    """Raise ValueError for the first contradiction; the message names the override that mends it."""
    estimator = str(config.algorithm.adv_estimator)
    if estimator in CRITIC_ESTIMATORS and not config.critic.get("enable"):
        raise ValueError(
            f"algorithm.adv_estimator={estimator} with critic.enable={config.critic.get('enable')}; expected a critic, "
            "whose values the estimator needs (verl starts none by itself for a registered estimator); "
            "set critic.enable=true, or algorithm.adv_estimator=grpo"
        )
    if settings.episode.slides:
        raise ValueError(
            f"videomtr.episode.max_turns={settings.episode.max_turns} with window={settings.episode.window}: the "
            f"context would slide; expected max_turns <= window + 1; set videomtr.episode.window="
            f"{settings.episode.max_turns - 1}"
        )
    rollout = config.actor_rollout_ref.rollout
    limit = OmegaConf.select(rollout, "engine_kwargs.vllm.limit_mm_per_prompt.image")
    limit = rollout.get("limit_images") if limit is None else limit
    if limit is not None and limit < settings.episode.frame_budget:
        raise ValueError(
            f"vLLM may take {limit} images per prompt, fewer than videomtr.episode.frame_budget="
            f"{settings.episode.frame_budget}; an episode's last turn would be refused; "
            f"set +actor_rollout_ref.rollout.limit_images={settings.episode.frame_budget}"
        )
