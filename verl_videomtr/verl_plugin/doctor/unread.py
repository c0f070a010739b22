# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What is set and read by nothing: keys without effect under this trainer, and keys that occur nowhere in verl.

A key is looked at where it differs from verl's own configuration.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_videomtr.verl_plugin.checks import BONUS_ESTIMATOR
from verl_videomtr.verl_plugin.compose import compose
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, ok, warning

ACTOR, ROLLOUT, REF = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
FREE = (
    *("videomtr", "hydra", "ray_kwargs.ray_init", "data.videomtr", "data.apply_chat_template_kwargs"),
    *("data.mm_processor_kwargs", "global_profiler", "distillation", "transfer_queue", "skip"),
)
FREE_NAMES = {
    *("engine_kwargs", "override_config", "override_optimizer_config", "reward_kwargs", "custom", "_target_"),
    *("sampler_kwargs", "layer_name_map", "profiler", "megatron", "turbo_config", "lora"),
}
"""Sections whose keys are handed on as they are, to packages that judge them themselves."""


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A key, or all keys that begin so, and when nothing reads it."""

    key: str
    why: str
    """What is so instead."""
    instead: str
    """What to set in its place, an override where it has a `=`; empty where nothing does it."""
    when: Callable[[Case], bool] = lambda case: True
    follows: bool = False
    """It follows another key in verl's configuration: set at all, it is set in vain."""


def _bi_level(case: Case) -> bool:
    return str(case.get("algorithm.adv_estimator")) == BONUS_ESTIMATOR


def _no_kl_loss(case: Case) -> bool:
    return not case.get(f"{ACTOR}.use_kl_loss")


def _no_kl_reward(case: Case) -> bool:
    return not case.get("algorithm.use_kl_in_reward")


def _by_tokens(case: Case) -> bool:
    return bool(case.get(f"{ACTOR}.use_dynamic_bsz"))


def _own_loop(case: Case) -> bool:
    return case.uses_own_loop


def _two_sizes(case: Case) -> bool:
    sizes = [case.get(f"{section}.ulysses_sequence_parallel_size") for section in ("critic", "critic.fsdp")]
    return sizes[0] != sizes[1]


def _samples_all_the_same(case: Case) -> bool:
    section = f"{ROLLOUT}.val_kwargs"
    return not case.get(f"{section}.do_sample") and bool(case.get(f"{section}.temperature"))


_CREDIT = "the estimator bi_level_gae has discounts of its own"
_NO_KL = "no KL penalty enters the reward"
_GRPO = "there are no values, so no discounts"
_FILLED = "micro-batches are filled by tokens"
_CRITIC_FILLED = "verl's V1 trainer fills the critic's micro-batches by critic.ppo_infer_max_token_len_per_gpu"
_LOOP_SCORES = "the agent loop scores its episodes itself, with reward.custom_reward_function"
_LOOP_PLAYS = "the agent loop video_mtr has its own turns and actions"

UNREAD = (
    Unread(key="algorithm.gamma", why=_CREDIT, instead="videomtr.credit.gamma_turn", when=_bi_level),
    Unread(key="algorithm.lam", why=_CREDIT, instead="videomtr.credit.lam_turn", when=_bi_level),
    Unread(
        key="videomtr.credit",
        why=_GRPO,
        instead="algorithm.adv_estimator=bi_level_gae",
        when=lambda case: not _bi_level(case),
    ),
    Unread(
        key="algorithm.norm_adv_by_std_in_grpo",
        why="the estimator is not GRPO",
        instead="",
        when=lambda case: str(case.get("algorithm.adv_estimator")) != "grpo",
    ),
    Unread(key="algorithm.use_pf_ppo", why="only verl's estimator gae knows it", instead="", when=_bi_level),
    Unread(key="algorithm.pf_ppo", why="only verl's estimator gae knows it", instead="", when=_bi_level),
    Unread(key="algorithm.kl_ctrl", why=_NO_KL, instead="algorithm.use_kl_in_reward=true", when=_no_kl_reward),
    Unread(key="algorithm.kl_penalty", why=_NO_KL, instead="algorithm.use_kl_in_reward=true", when=_no_kl_reward),
    Unread(
        key="algorithm.filter_groups.max_num_gen_batches",
        why="verl's V1 replay buffer bounds what is in flight",
        instead="algorithm.filter_groups.max_inflight_gen_batches",
    ),
    Unread(
        key=f"{ACTOR}.kl_loss_", why="no KL term enters the loss", instead=f"{ACTOR}.use_kl_loss=true", when=_no_kl_loss
    ),
    Unread(
        key=f"{ACTOR}.freeze_vision_tower",
        why="verl's FSDP engine trains the vision tower all the same",
        instead="actor_rollout_ref.model.exclude_modules, with a lora_rank",
    ),
    Unread(key=f"{ACTOR}.grad_clip", why="the engine clips by its optimizer's key", instead=f"{ACTOR}.optim.clip_grad"),
    Unread(key="critic.grad_clip", why="the engine clips by its optimizer's key", instead="critic.optim.clip_grad"),
    Unread(
        key=f"{ACTOR}.ppo_micro_batch_size", why=_FILLED, instead=f"{ACTOR}.ppo_max_token_len_per_gpu", when=_by_tokens
    ),
    Unread(
        key=f"{ROLLOUT}.log_prob_micro_batch_size",
        why=_FILLED,
        instead=f"{ROLLOUT}.log_prob_max_token_len_per_gpu",
        when=lambda case: bool(case.get(f"{ROLLOUT}.log_prob_use_dynamic_bsz")),
    ),
    Unread(
        key=f"{REF}.log_prob_micro_batch_size",
        why=_FILLED,
        instead=f"{REF}.log_prob_max_token_len_per_gpu",
        when=lambda case: bool(case.get(f"{REF}.log_prob_use_dynamic_bsz")),
    ),
    Unread(key="critic.use_dynamic_bsz", why=_CRITIC_FILLED, instead="", follows=True),
    Unread(key="critic.ppo_micro_batch_size", why=_CRITIC_FILLED, instead="critic.ppo_infer_max_token_len_per_gpu"),
    Unread(key="critic.forward_", why=_CRITIC_FILLED, instead="critic.ppo_infer_max_token_len_per_gpu"),
    Unread(
        key="critic.ulysses_sequence_parallel_size",
        why="the critic's engine reads its own key",
        instead="critic.fsdp.ulysses_sequence_parallel_size",
        when=_two_sizes,
    ),
    Unread(key="trainer.balance_batch", why="the V1 trainer always deals rows out by length", instead=""),
    Unread(key="trainer.esi_redundant_time", why="only verl's old trainer reads it", instead="trainer.save_freq"),
    Unread(
        key=f"{ROLLOUT}.val_kwargs.do_sample",
        why="the V1 trainer validates with val_kwargs.temperature and top_p",
        instead=f"{ROLLOUT}.val_kwargs.temperature=0",
        when=_samples_all_the_same,
        follows=True,
    ),
    Unread(key=f"{ROLLOUT}.do_sample", why="the V1 trainer samples by temperature and top_p", instead=""),
    Unread(key=f"{ROLLOUT}.over_sample_rate", why="only SGLang's old rollout reads it", instead=""),
    Unread(key=f"{ROLLOUT}.repetition_penalty", why="the V1 trainer always sends 1.0", instead=""),
    Unread(key=f"{ROLLOUT}.multi_turn.", why=_LOOP_PLAYS, instead="videomtr.episode", when=_own_loop),
    Unread(key="reward.reward_manager.", why=_LOOP_SCORES, instead="reward.custom_reward_function", when=_own_loop),
    Unread(key="reward.sandbox_fusion.", why=_LOOP_SCORES, instead="reward.custom_reward_function", when=_own_loop),
    Unread(key="skip.rollout.enable", why="only verl's old trainer reads it", instead=""),
    Unread(key="skip.async_rollout.enable", why="only verl's old trainer reads it", instead=""),
    Unread(
        key="videomtr.dump.",
        why="verl's own trainer modes write no trajectories",
        instead="trainer.v1.trainer_mode=video_mtr_sync",
        when=lambda case: not str(case.get("trainer.v1.trainer_mode")).startswith("video_mtr"),
    ),
)
"""Held against verl's sources by tests/verl_plugin/doctor/test_unread.py."""


def check_unread(case: Case) -> Iterator[Finding]:
    """Warn of each key that is set in vain."""
    changed = _changed(case.config)
    found = [*_without_effect(case, changed), *_unknown(changed)]
    yield from found
    if not found:
        yield ok("config.unread", f"{len(changed)} keys differ from verl's own, and each is read")


def _without_effect(case: Case, changed: dict[str, Any]) -> Iterator[Finding]:
    for entry in UNREAD:
        keys = [key for key in changed if _begins(key, entry.key) and not case.follows(key)]
        if entry.follows and not keys and not case.follows(entry.key):
            keys = [entry.key]
        if entry.key.startswith("videomtr."):
            keys = [key for key in keys if key in _own_changes(case)]
        if keys and entry.when(case):
            given = ", ".join(f"{key}={case.get(key)}" for key in keys)
            overrides, advice = _remedy(case, keys, entry)
            yield warning(
                "config.unread",
                f"{given} has no effect: {entry.why}",
                why="the run goes on as if it were not there",
                overrides=overrides,
                advice=advice,
            )


def _remedy(case: Case, keys: list[str], entry: Unread) -> tuple[list[str], str]:
    """What to type, or to leave out where the value is not another one than verl's, or the key not one of verl's."""
    back = [
        f"{key}={_written(default_of(key))}" for key in keys if _has_default(key) and case.get(key) != default_of(key)
    ]
    out = [key for key in keys if not _has_default(key) or case.get(key) == default_of(key)]
    if out and "=" in entry.instead:
        return [entry.instead], ""
    parts = [f"leave {', '.join(out)} out"] if out else []
    parts += [f"say it with {entry.instead}"] if entry.instead else []
    return back, "and " * bool(back and parts) + ", and ".join(parts)


def _has_default(key: str) -> bool:
    return key in _defaults() or key in _preset("paper")


def _unknown(changed: dict[str, Any]) -> Iterator[Finding]:
    """A key that was added with a + and whose name occurs nowhere in verl's code."""
    words: set[str] | None = None
    for key, value in changed.items():
        names = key.split(".")
        if key in _defaults() or key.startswith(tuple(f"{name}." for name in FREE)) or FREE_NAMES & {*names}:
            continue
        words = words or _words_of_verl()
        if names[-1] in words:
            continue
        close = difflib.get_close_matches(key, _defaults(), n=1, cutoff=0.75)
        yield warning(
            "config.unread",
            f"+{key}={value}: the name {names[-1]} occurs nowhere in verl",
            why="nothing reads it",
            overrides=[f"~{key}"],
            advice=f"or {close[0]}={value} if that was meant" if close else "",
        )


def _begins(key: str, start: str) -> bool:
    """`a.b` begins `a.b`, `a.b.c` and, for families of keys, `a.b_per_gpu`."""
    return (
        key == start or key.startswith(f"{start}.") or (start.endswith((".", "_", "_size")) and key.startswith(start))
    )


def _changed(config: DictConfig) -> dict[str, Any]:
    """Keys whose value differs from verl's own configuration, with their value."""
    own = flatten(config)
    return {key: value for key, value in own.items() if key not in _defaults() or value != _defaults()[key]}


def _own_changes(case: Case) -> set[str]:
    """Keys of `videomtr.*` that differ from both presets."""
    presets = [_preset(name) for name in ("paper", "released_code")]
    own = flatten(case.config)
    return {key for key, value in own.items() if all(preset.get(key) != value for preset in presets)}


def default_of(key: str) -> Any:
    """What verl's own configuration, or else the paper's, has for a key."""
    return _defaults().get(key, _preset("paper").get(key))


def flatten(config: DictConfig) -> dict[str, Any]:
    """Dotted key -> value, interpolations resolved."""

    def walk(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in node.items():
            if isinstance(value, dict) and value:
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(walk(OmegaConf.to_container(config, resolve=True), ""))


@functools.cache
def _defaults() -> dict[str, Any]:
    return flatten(compose([]))


@functools.cache
def _preset(name: str) -> dict[str, Any]:
    return flatten(compose([f"+videomtr={name}"]))


@functools.cache
def _words_of_verl() -> set[str]:
    """Every name in the code of verl and of this package."""
    words: set[str] = set()
    for package in ("verl", "verl_videomtr"):
        spec = importlib.util.find_spec(package)
        for file in Path(str(spec and spec.origin)).parent.rglob("*.py"):
            words |= set(re.findall(r"[A-Za-z_]\w*", file.read_text(encoding="utf-8", errors="replace")))
    return words


def _written(value: Any) -> str:
    """A value as Hydra reads it."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
