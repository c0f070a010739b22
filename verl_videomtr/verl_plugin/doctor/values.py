# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Values with which a run goes on and learns nothing, or stops late: bounds, and settings that exclude each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, error, ok, warning

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
CORRECTION = "algorithm.rollout_correction"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a number must be."""

    rule: str
    holds: Callable[[float], bool]


POSITIVE = Bound(rule="more than 0", holds=lambda value: 0 < value < math.inf)
RATE = Bound(rule="more than 0 and less than 0.1", holds=lambda value: 0 < value < 0.1)
NOT_NEGATIVE = Bound(rule="0 or more", holds=lambda value: 0 <= value < math.inf)
COUNT = Bound(rule="a whole number of at least 1", holds=lambda value: value >= 1 and value == int(value))
SEED = Bound(rule="a whole number of 0 or more", holds=lambda value: value >= 0 and value == int(value))
SHARE = Bound(rule="more than 0 and at most 1", holds=lambda value: 0 < value <= 1)
TOP_K = Bound(
    rule="-1 (all tokens) or a whole number of at least 1",
    holds=lambda value: value in (-1, 0) or COUNT.holds(value),
)
SAMPLED = Bound(
    rule="-1 (all tokens) or a whole number of at least 2",
    holds=lambda value: value != 1 and TOP_K.holds(value),
)

STATES = ("model", "optimizer", "extra")
"""What a run goes on from."""
LONG = 20
"""Steps of a run that is more than a trial."""

_STILL = "no update changes the model: the run trains on nothing"
_RATE = "the model stays as it was, or AdamW's first step leaves nothing of it"
_GREEDY = "all responses to a prompt are the same, and verl divides the logits by it: log-probabilities are not numbers"
_VLLM = "vLLM refuses every request, and every episode is lost"
_NOTHING = "the run does no step, or divides by it"
_START = "verl's workers or vLLM refuse it at their start"

BOUNDS: tuple[tuple[str, Bound, str, str], ...] = (
    (f"{ACTOR}.optim.lr", RATE, _RATE, "1e-6"),
    ("critic.optim.lr", RATE, _RATE, "1e-5"),
    (f"{ACTOR}.optim.clip_grad", POSITIVE, _STILL, "1.0"),
    ("critic.optim.clip_grad", POSITIVE, _STILL, "1.0"),
    (f"{ACTOR}.clip_ratio", POSITIVE, _STILL, "0.2"),
    (f"{ACTOR}.clip_ratio_low", POSITIVE, _STILL, "0.2"),
    (f"{ACTOR}.clip_ratio_high", POSITIVE, _STILL, "0.2"),
    ("critic.cliprange_value", POSITIVE, _STILL, "0.5"),
    (f"{ACTOR}.kl_loss_coef", NOT_NEGATIVE, "a negative penalty rewards leaving the reference", "0.001"),
    ("algorithm.kl_ctrl.kl_coef", NOT_NEGATIVE, "a negative penalty rewards leaving the reference", "0.001"),
    (f"{ROLLOUT}.temperature", POSITIVE, _GREEDY, "0.7"),
    (f"{ROLLOUT}.top_p", SHARE, _VLLM, "0.95"),
    (f"{ROLLOUT}.top_k", SAMPLED, "all responses to a prompt are the same, or vLLM refuses the request", "-1"),
    (f"{ROLLOUT}.val_kwargs.temperature", NOT_NEGATIVE, _VLLM, "0.7"),
    (f"{ROLLOUT}.val_kwargs.top_p", SHARE, _VLLM, "0.95"),
    (f"{ROLLOUT}.val_kwargs.top_k", TOP_K, _VLLM, "-1"),
    (f"{ROLLOUT}.n", COUNT, _NOTHING, "1"),
    (f"{ROLLOUT}.val_kwargs.n", COUNT, "validation has no episode", "1"),
    ("data.train_batch_size", COUNT, _NOTHING, "32"),
    ("data.val_batch_size", COUNT, _NOTHING, "128"),
    (f"{ACTOR}.ppo_mini_batch_size", COUNT, _NOTHING, "32"),
    (f"{ACTOR}.ppo_epochs", COUNT, _STILL, "1"),
    ("critic.ppo_mini_batch_size", COUNT, _NOTHING, "32"),
    ("critic.ppo_epochs", COUNT, _STILL, "1"),
    ("trainer.total_epochs", COUNT, _NOTHING, "1"),
    ("trainer.total_training_steps", COUNT, _NOTHING, "null"),
    ("trainer.nnodes", COUNT, _START, "1"),
    ("trainer.n_gpus_per_node", COUNT, _START, "8"),
    ("trainer.max_actor_ckpt_to_keep", COUNT, "verl removes each checkpoint behind its saving", "2"),
    ("trainer.max_critic_ckpt_to_keep", COUNT, "verl removes each checkpoint behind its saving", "2"),
    (f"{ROLLOUT}.gpu_memory_utilization", SHARE, _START, "0.5"),
    (f"{ROLLOUT}.max_num_seqs", COUNT, _START, "256"),
    (f"{ROLLOUT}.tensor_model_parallel_size", COUNT, _START, "1"),
    (f"{ROLLOUT}.agent.num_workers", COUNT, "no worker plays an episode: the run waits for ever", "8"),
    ("reward.num_workers", COUNT, _START, "1"),
    (f"{ROLLOUT}.seed", SEED, _START, "0"),
    ("transfer_queue.backend.SimpleStorage.num_data_storage_units", COUNT, _START, "2"),
    ("data.dataloader_num_workers", NOT_NEGATIVE, "the loader refuses it", "2"),
)
"""Key, what it must be, what happens else, a value that works. Null is the absence of a bound, and fine."""


def check_values(case: Case) -> Iterator[Finding]:
    """Settings that exclude each other; after the data, whose rows say how many steps there are."""
    found = [*_steps(case), *_checkpoints(case), *_sampling(case)]
    yield from found
    if not found:
        yield ok(
            "config.values", "numbers are inside their bounds, steps train the actor, checkpoints can be continued"
        )


def check_bounds(case: Case) -> Iterator[Finding]:
    """Numbers outside their bounds; other checks count with them."""
    for key, bound, why, usual in BOUNDS:
        value = case.get(key)
        # Null is no bound; a critic that is not there trains nothing; one key's fault is said once.
        if value is None or (key.startswith("critic.") and not case.has_critic) or case.follows(key):
            continue
        try:
            is_good = not isinstance(value, bool) and bound.holds(float(value)) and not isinstance(value, str)
        except (TypeError, ValueError):
            is_good = False
        if not is_good:
            yield error("config.values", f"{key}={value}; expected {bound.rule}", why=why, overrides=[f"{key}={usual}"])


def _steps(case: Case) -> Iterator[Finding]:
    """Which of the run's steps train the actor, and with what learning rate."""
    steps = case.num_steps
    warmup = int(case.get("trainer.critic_warmup", 0))
    if steps is not None and warmup > steps:
        yield error(
            "config.steps",
            f"trainer.critic_warmup={warmup} with {steps} steps in all",
            why="the critic alone is trained: the policy stays as it was",
            overrides=["trainer.critic_warmup=0"],
            advice="or more steps",
        )
    yield from _last_step(case)
    for role, section in (("actor", f"{ACTOR}.optim"), ("critic", "critic.optim")):
        if (role == "critic" and not case.has_critic) or steps is None:
            continue
        rising = int(case.get(f"{section}.lr_warmup_steps", -1))
        if rising < 0:
            rising = int(float(case.get(f"{section}.lr_warmup_steps_ratio", 0.0)) * steps)
        if rising >= max(2, steps):
            yield warning(
                "config.steps",
                f"{section} warms up for {rising} steps of {steps}",
                why="the learning rate never reaches its value",
                overrides=[f"{section}.lr_warmup_steps={max(1, steps // 10)}"],
            )
    if case.get("trainer.val_only") and not case.get("trainer.val_before_train", True):
        yield error(
            "config.steps",
            "trainer.val_only=true with trainer.val_before_train=false",
            why="verl looks at val_only behind that validation alone: the run trains",
            overrides=["trainer.val_before_train=true"],
        )
    if case.get("skip.rollout_tq.enable"):
        yield warning(
            "config.steps",
            f"skip.rollout_tq.enable=true: steps are played from {case.get('skip.rollout_tq.dump_dir')}",
            why="episodes of another policy are trained on",
            overrides=["skip.rollout_tq.enable=false"],
        )


def _last_step(case: Case) -> Iterator[Finding]:
    """The trainer saves and validates at its last step by the number of steps, and ends by that of epochs too."""
    steps, rows = case.get("trainer.total_training_steps"), len(case.samples.get("train", ()))
    each = rows // int(case.config.data.train_batch_size)
    if steps is not None and each and int(steps) > (played := each * int(case.config.trainer.total_epochs)):
        yield warning(
            "config.steps",
            f"trainer.total_training_steps={steps}, and trainer.total_epochs={case.config.trainer.total_epochs} of "
            f"{each} steps end the run after {played}",
            why="the step at which it saves and validates once more never comes: what was trained last is lost",
            overrides=[f"trainer.total_epochs={-(-int(steps) // each)}"],
            advice=f"or trainer.total_training_steps={played}",
        )
    save_freq = int(case.get("trainer.save_freq", -1))
    if save_freq <= 0 and (case.num_steps or 0) >= LONG and not case.get("trainer.val_only"):
        yield warning(
            "config.checkpoint",
            f"trainer.save_freq={save_freq} with {case.num_steps} steps",
            why="no checkpoint is ever saved: nothing of the trained policy is left, at the end or after a crash",
            overrides=["trainer.save_freq=20"],
        )


def _checkpoints(case: Case) -> Iterator[Finding]:
    for section in [ACTOR, *(["critic"] if case.has_critic else [])]:
        yield from _contents(case, f"{section}.checkpoint")
        if case.get(f"{section}.checkpoint.async_save") and case.is_fsdp:
            yield error(
                "config.checkpoint",
                f"{section}.checkpoint.async_save=true with FSDP, which saves at once",
                why="verl then never writes which checkpoint is the latest: a restart begins from nothing",
                overrides=[f"{section}.checkpoint.async_save=false"],
            )
    kept = [case.get(f"trainer.max_{role}_ckpt_to_keep") for role in ("actor", "critic")]
    if case.has_critic and kept[0] != kept[1]:
        yield warning(
            "config.checkpoint",
            f"trainer.max_actor_ckpt_to_keep={kept[0]} and max_critic_ckpt_to_keep={kept[1]}",
            why="the older checkpoints hold one of the two models",
            overrides=[f"trainer.max_critic_ckpt_to_keep={'null' if kept[0] is None else kept[0]}"],
        )
    if case.get("trainer.del_local_ckpt_after_load"):
        yield warning(
            "config.checkpoint",
            "trainer.del_local_ckpt_after_load=true",
            why="a resumed run removes the checkpoint that it came from: killed before its next one, all is lost",
            overrides=["trainer.del_local_ckpt_after_load=false"],
        )


def _contents(case: Case, section: str) -> Iterator[Finding]:
    """What a checkpoint holds, and what a run that goes on from one reads of it."""
    for key, needed in ((f"{section}.save_contents", STATES), (f"{section}.load_contents", STATES[:1])):
        contents = list(case.get(key, STATES))
        fix = [f"{key}=[{','.join(STATES)}]"]
        if case.follows(key):
            continue
        if wrong := [name for name in contents if name not in (*STATES, "hf_model")]:
            yield error(
                "config.checkpoint",
                f"{key}={contents} has {', '.join(map(str, wrong))}",
                why=f"verl knows {', '.join((*STATES, 'hf_model'))}, and leaves out the rest without a word",
                overrides=fix,
            )
        elif missing := [name for name in needed if name not in contents]:
            yield warning(
                "config.checkpoint",
                f"{key}={contents} is without {', '.join(missing)}",
                why="the run cannot be continued from such a checkpoint as it was",
                overrides=fix,
            )


def _sampling(case: Case) -> Iterator[Finding]:
    """How responses end; log-probabilities of the rollout: whether they are there, and of which distribution."""
    if case.get(f"{ROLLOUT}.ignore_eos"):
        yield error(
            "config.sampling",
            f"{ROLLOUT}.ignore_eos=true",
            why="every response runs to videomtr.max_response_tokens and is cut there: no action counts",
            overrides=[f"{ROLLOUT}.ignore_eos=false"],
        )
    has_them = bool(case.get(f"{ROLLOUT}.calculate_log_probs"))
    if has_them and not (mode := str(case.get(f"{ROLLOUT}.logprobs_mode"))).endswith("logprobs"):
        yield error(
            "config.sampling",
            f"{ROLLOUT}.logprobs_mode={mode}",
            why="vLLM then sends logits, which verl takes for log-probabilities",
            overrides=[f"{ROLLOUT}.logprobs_mode=processed_logprobs"],
        )
    bypass = bool(case.get(f"{CORRECTION}.bypass_mode"))
    corrects = [name for name in ("rollout_is", "rollout_rs") if case.get(f"{CORRECTION}.{name}")]
    asked = f"{CORRECTION}.bypass_mode" if bypass else f"{CORRECTION}.{corrects[0]}" if corrects else ""
    if asked and not has_them:
        yield error(
            "config.correction",
            f"{asked} with {ROLLOUT}.calculate_log_probs=false",
            why="no server sends log-probabilities: the first step stops, or verl corrects nothing and says nothing",
            overrides=[f"{ROLLOUT}.calculate_log_probs=true"],
        )
    elif not has_them and case.get("videomtr.max_rollout_difference") is not None:
        yield warning(
            "config.sampling",
            f"{ROLLOUT}.calculate_log_probs=false with videomtr.max_rollout_difference set",
            why="no first step compares the engine with the actor: if they read different contexts, nothing says so",
            overrides=[f"{ROLLOUT}.calculate_log_probs=true"],
        )
    elif asked and _is_truncated(case) and str(case.get(f"{ROLLOUT}.logprobs_mode")).startswith("proc"):
        cut = " and ".join(
            f"{name}={case.get(f'{ROLLOUT}.{name}')}" for name, off in (("top_p", 1.0), ("top_k", -1))
            if case.get(f"{ROLLOUT}.{name}") not in (off, 0)
        )  # fmt: skip
        yield warning(
            "config.correction",
            f"{ROLLOUT}.{cut} with {asked}",
            why="vLLM's log-probabilities are of the truncated distribution, the trainer's of the whole one: the "
            "weights of long responses go to zero",
            overrides=[f"{ROLLOUT}.top_p=1.0", f"{ROLLOUT}.top_k=-1"],
            advice="or no rollout correction",
        )


def _is_truncated(case: Case) -> bool:
    top_k: Any = case.get(f"{ROLLOUT}.top_k", -1)
    return float(case.get(f"{ROLLOUT}.top_p", 1.0)) < 1.0 or top_k not in (-1, 0)
