# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Which models a step trains or asks, and among how many ranks each divides the rows.

Models that spread a row over different numbers of GPUs (Ulysses sequence parallelism) have different numbers of
data-parallel ranks.
"""

from __future__ import annotations

import math

from omegaconf import DictConfig, OmegaConf


def sequence_parallel(config: DictConfig) -> dict[str, int]:
    """GPUs over which each FSDP model (actor, ref, critic) spreads one row; the critic's key is `critic.fsdp`'s."""

    def size(section: str, key: str = "ulysses_sequence_parallel_size") -> int:
        return int(OmegaConf.select(config, f"{section}.{key}") or 1)

    def outer_or_inner(section: str) -> int:
        outer = size(section)
        return outer if outer > 1 else size(section, "fsdp_config.ulysses_sequence_parallel_size")

    sizes = {"actor": outer_or_inner("actor_rollout_ref.actor")}
    if has_reference(config):
        sizes["ref"] = outer_or_inner("actor_rollout_ref.ref")
    if OmegaConf.select(config, "critic.enable"):
        sizes["critic"] = size("critic.fsdp")
    return sizes


def has_lora(config: DictConfig) -> bool:
    """Whether adapters are trained."""
    model = config.actor_rollout_ref.model
    rank = (model.get("lora") or {}).get("rank", 0) or model.get("lora_rank", 0)
    return bool(rank > 0 or model.get("lora_adapter_path") is not None)


def has_reference(config: DictConfig) -> bool:
    """Whether a reference model is loaded of its own: with adapters it is the actor without them."""
    asked = OmegaConf.select(config, "algorithm.use_kl_in_reward") or config.actor_rollout_ref.actor.use_kl_loss
    return bool(asked) and not has_lora(config)


def common_ranks(config: DictConfig, *, num_gpus: int) -> int:
    """The least number that the ranks of every model divide: the rows of a step must be a multiple of it."""
    return math.lcm(*(max(1, num_gpus // size) for size in sequence_parallel(config).values()))
