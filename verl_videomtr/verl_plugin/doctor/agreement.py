# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Do the parts of the configuration agree? verl's own checks, the plugin's, and the trainer's constructor."""

from __future__ import annotations

import contextlib
import copy
import difflib
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict

from verl_videomtr.verl_plugin.checks import check_config
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, ok, refused
from verl_videomtr.verl_plugin.launch_check import check_launch

WORKER_SECTIONS = ("actor_rollout_ref.rollout", "actor_rollout_ref.ref")
"""Sections that verl turns into dataclasses in its workers only; validate_config does so with the others."""
STRATEGIES = {"fsdp": "", "fsdp2": "", "megatron": "megatron", "veomni": "veomni", "torchtitan": "torchtitan"}
"""verl's training engines, and the package that each needs beside torch."""


def check_agreement(case: Case) -> Iterator[Finding]:
    """The first thing that the plugin, verl or the trainer itself refuses."""
    for check, where, judge in (
        ("config.plugin", "the trainer and every agent-loop worker refuse it", _plugin),
        ("config.launch", "the start of main_ppo refuses it", _launch),
        ("config.verl", "main_ppo calls it before Ray starts", _validate),
        ("config.workers", "verl's workers refuse it", _make_worker_configs),
        ("config.trainer", "main_ppo makes this object first", _make_trainer),
        ("config.learning", "the first step that comes by it stops", _call_functions),
        ("config.optimizer", "verl's engines make it behind the start of all workers", _make_optimizers),
        ("config.dtypes", "verl's engines read them behind the start of all workers", _read_dtypes),
        ("config.classes", "verl loads them behind the start of all workers", _load_classes),
        ("config.ray", "ray.init refuses it, as the run's first act", _bind_ray),
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
    "config.learning": lambda config: "estimator, policy loss, KL forms and training engine have known names",
    "config.optimizer": lambda config: f"{config.actor_rollout_ref.actor.optim.optimizer} with its settings",
    "config.dtypes": lambda config: "number formats have known names",
    "config.classes": lambda config: "classes and files that the configuration names load",
    "config.ray": lambda config: "ray.init takes ray_kwargs.ray_init",
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


def _call_functions(config: DictConfig, case: Case) -> None:
    """Find what a step computes with by its names, and compute with it once."""
    import torch
    from verl.trainer.ppo.core_algos import compute_value_loss, get_adv_estimator_fn, get_policy_loss_fn, kl_penalty
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask
    from verl.utils.config import omega_conf_to_dataclass

    actor = config.actor_rollout_ref.actor
    get_adv_estimator_fn(str(config.algorithm.adv_estimator))
    loss = get_policy_loss_fn(actor.policy_loss.loss_mode)
    zero: Any = torch.zeros(1, 2)
    mask = torch.ones(1, 2)
    with contextlib.suppress(InstantiationException):  # validate_config says so
        loss(zero, zero, zero, mask, actor.loss_agg_mode, omega_conf_to_dataclass(actor))
    if case.has_critic:
        compute_value_loss(zero, zero, zero, mask, config.critic.cliprange_value, config.critic.loss_agg_mode)
    correction = config.algorithm.get("rollout_correction") or {}
    compute_rollout_correction_and_rejection_mask(
        zero, zero, mask,
        **{name: correction[name] for name in (
            "rollout_is", "rollout_is_threshold", "rollout_is_batch_normalize", "rollout_rs", "rollout_rs_threshold"
        ) if name in correction},
    )  # fmt: skip
    for is_used, name in (
        (config.algorithm.use_kl_in_reward, config.algorithm.kl_penalty),
        (actor.use_kl_loss, actor.kl_loss_type),
    ):
        if is_used:
            try:
                kl_penalty(zero, zero, name)
            except NotImplementedError:
                raise ValueError(f"verl knows no KL form {name!r}; expected kl, abs, mse, low_var_kl or full") from None
    for section in ("actor_rollout_ref.actor", *(["critic"] if case.has_critic else [])):
        strategy = str(case.get(f"{section}.strategy"))
        if strategy not in STRATEGIES:
            raise ValueError(f"{section}.strategy={strategy}; expected one of {', '.join(STRATEGIES)}")
        if (package := STRATEGIES[strategy]) and not case.elsewhere and importlib.util.find_spec(package) is None:
            raise ValueError(f"{section}.strategy={strategy} needs the package {package}, which is not installed")


def _make_optimizers(config: DictConfig, case: Case) -> None:
    import torch
    from verl.utils.config import omega_conf_to_dataclass
    from verl.utils.torch_functional import get_cosine_schedule_with_warmup
    from verl.workers.config.optimizer import build_optimizer

    if not case.is_fsdp:
        return
    for section in (config.actor_rollout_ref.actor.optim, *([config.critic.optim] if case.has_critic else [])):
        try:
            settings = omega_conf_to_dataclass(section)
        except InstantiationException:
            continue  # validate_config says so
        optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], settings)
        if settings.lr_scheduler_type == "cosine":
            get_cosine_schedule_with_warmup(
                optimizer, 0, num_training_steps=1, min_lr_ratio=settings.min_lr_ratio, num_cycles=settings.num_cycles
            )


def _read_dtypes(config: DictConfig, case: Case) -> None:
    from verl.utils.torch_dtypes import PrecisionType

    engines = {
        "actor_rollout_ref.actor.fsdp_config": True,
        "actor_rollout_ref.ref.fsdp_config": case.has_reference,
        "critic.fsdp": case.has_critic,
    }
    for section in [name for name, is_used in engines.items() if is_used]:
        for key in ("model_dtype", "dtype", *(f"mixed_precision.{of}_dtype" for of in ("param", "reduce", "buffer"))):
            value = case.get(f"{section}.{key}")
            if value is not None:
                try:
                    PrecisionType.to_dtype(value)
                except RuntimeError:
                    raise ValueError(f"{section}.{key}={value}; expected bf16, fp16 or fp32") from None


def _load_classes(config: DictConfig, case: Case) -> None:
    """Everything that a key names by its path: modules, classes, files of settings."""
    from transfer_queue.storage.bootstrap.provider import StorageBootstrapProvider
    from verl.checkpoint_engine import CheckpointEngineRegistry
    from verl.utils.import_utils import (
        import_external_libs,
        load_class_from_fqn,
        load_extern_object,
        resolve_config_path,
    )

    from verl_videomtr.sample import AGENT_NAME

    rollout = config.actor_rollout_ref.rollout
    for key in ("actor_rollout_ref.model", *(["critic.model"] if case.has_critic else [])):
        import_external_libs(case.get(f"{key}.external_lib"))
    if manager := rollout.agent.get("agent_loop_manager_class"):
        load_class_from_fqn(manager, "agent_loop_manager_class")
    sampler = OmegaConf.select(config, "trainer.v1.sampler.custom_sampler") or {}
    if sampler.get("path") and sampler.get("name"):
        load_extern_object(sampler["path"], sampler["name"])
    if not case.elsewhere:  # other engines need packages that may be there
        import_external_libs(rollout.checkpoint_engine.get("custom_backend_module") or None)
        CheckpointEngineRegistry.get(rollout.checkpoint_engine.backend)
    backend = config.transfer_queue.backend.storage_backend
    if StorageBootstrapProvider.get_provider(backend) is None:
        raise ValueError(f"TransferQueue knows no transfer_queue.backend.storage_backend={backend}")
    for key in ("agent.agent_loop_config_path", "multi_turn.tool_config_path"):
        path = OmegaConf.select(rollout, key)
        if path and not Path(resolve_config_path(path)).is_file():
            raise FileNotFoundError(f"actor_rollout_ref.rollout.{key}={path} is no file")
    loop, own = str(rollout.agent.default_agent_loop), rollout.agent.get("agent_loop_config_path")
    if not own and loop not in (AGENT_NAME, "single_turn_agent", "tool_agent"):
        raise ValueError(
            f"actor_rollout_ref.rollout.agent.default_agent_loop={loop}; expected {AGENT_NAME}, or verl's "
            "single_turn_agent or tool_agent, or one of an agent_loop_config_path"
        )


def _bind_ray(config: DictConfig, case: Case) -> None:
    import ray

    given = OmegaConf.select(config, "ray_kwargs.ray_init") or {}
    known = inspect.signature(ray.init).parameters
    for name in map(str, given):
        if name not in known and not name.startswith("_"):
            close = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"ray_kwargs.ray_init.{name} is no argument of ray.init; expected one of its own"
                             + (f"; set ray_kwargs.ray_init.{close[0]}" if close else ""))  # fmt: skip
