"""Do the parts of the configuration agree? verl's own checks, the plugin's, and the trainer's constructor."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from verl_videomtr.verl_plugin.checks import check_config
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, ok, refused
from verl_videomtr.verl_plugin.launch_check import check_launch

WORKER_SECTIONS = ("actor_rollout_ref.rollout", "actor_rollout_ref.ref")
"""Sections that verl turns into dataclasses in its workers only; validate_config does so with the others."""


def check_agreement(case: Case) -> Iterator[Finding]:
    """The first thing that the plugin, verl or the trainer itself refuses."""
    for check, where, judge in (
        ("config.plugin", "the trainer and every agent-loop worker refuse it", _plugin),
        ("config.launch", "the start of main_ppo refuses it", _launch),
        ("config.verl", "main_ppo calls it before Ray starts", _validate),
        ("config.workers", "verl's workers refuse it", _make_worker_configs),
        ("config.trainer", "main_ppo makes this object first", _make_trainer),
        ("config.reward", "every agent-loop worker loads it", _load_reward),
    ):
        try:
            judge(copy.deepcopy(case.config), case)
        except Exception as refusal:  # whatever verl raises is the finding
            yield refused(check, refusal, why=where, is_own=check in ("config.plugin", "config.launch"))
            if check == "config.plugin":
                return  # the others ask the same question
            continue
        yield ok(check, _PASSED[check](case.config))


_PASSED: dict[str, Any] = {
    "config.plugin": lambda config: "budgets, window, estimator, bonus, rewards and image limit agree",
    "config.launch": lambda config: "estimator, trainer mode and the data's ground truth agree",
    "config.verl": lambda config: "verl's validate_config accepts it",
    "config.workers": lambda config: "rollout and reference settings are ones that verl knows",
    "config.trainer": lambda config: (
        f"{config.trainer.v1.trainer_mode} with {config.algorithm.adv_estimator}, critic.enable={config.critic.enable}"
    ),
    "config.reward": lambda config: f"{config.reward.custom_reward_function.path or 'verl_videomtr.rewards'} loads",
}


def _plugin(config: DictConfig, case: Case) -> None:
    from verl_videomtr.settings import load_settings

    check_config(config, load_settings(config))


def _launch(config: DictConfig, case: Case) -> None:
    check_launch(config)


def _validate(config: DictConfig, case: Case) -> None:
    """Call verl's function; the models' files, which it would fetch for the critic, are `model`'s part."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    with open_dict(config.critic):
        config.critic.pop("model", None)
    if case.elsewhere:  # vLLM, which it asks about LoRA, may be another one there
        config.actor_rollout_ref.model.lora_rank = 0
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))


def _make_worker_configs(config: DictConfig, case: Case) -> None:
    from verl.utils.config import omega_conf_to_dataclass

    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    reference = config.actor_rollout_ref.ref
    with open_dict(reference):  # as verl's worker renames them
        for name in ("micro_batch_size", "micro_batch_size_per_gpu", "max_token_len_per_gpu"):
            reference[f"ppo_{name}"] = reference.pop(f"log_prob_{name}", None)
        reference.use_dynamic_bsz = reference.pop("log_prob_use_dynamic_bsz", False)
        reference.ppo_mini_batch_size = config.actor_rollout_ref.actor.ppo_mini_batch_size
    if OmegaConf.select(config, "algorithm.use_kl_in_reward") or config.actor_rollout_ref.actor.use_kl_loss:
        omega_conf_to_dataclass(reference)


def _make_trainer(config: DictConfig, case: Case) -> None:
    from verl.trainer.ppo.v1 import get_trainer_cls

    get_trainer_cls(config.trainer.v1.trainer_mode)(config=config)


def _load_reward(config: DictConfig, case: Case) -> None:
    from verl.trainer.ppo.reward import get_custom_reward_fn

    get_custom_reward_fn(config)
