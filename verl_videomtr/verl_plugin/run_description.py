# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a training run's lines were made with: verl's configuration in, the content of `run.json` out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_videomtr.prompts import Prompts
from verl_videomtr.reward_function import describe_reward
from verl_videomtr.versions import installed_versions

PACKAGES = ("verl-videomtr", "verl", "torch", "vllm", "transformers", "av", "torchcodec", "decord", "pillow", "numpy")


def describe_run(config: DictConfig) -> dict[str, Any]:
    """Collect what a reader needs to score the run's lines anew, to draw them, and to repeat the run."""
    section: Any = OmegaConf.to_container(config.videomtr, resolve=True)
    templates = Prompts.load(section["prompts"]).templates
    rollout = config.actor_rollout_ref.rollout
    files = [
        {"role": role, **_describe_file(path)}
        for role in ("train", "val")
        for path in _as_list(config.data.get(f"{role}_files"))
    ]
    reward: Any = OmegaConf.to_container(config.reward.custom_reward_function, resolve=True)
    return {
        "kind": "train",
        "videomtr": section,
        "reward": describe_reward(reward),
        "algorithm": {"adv_estimator": str(config.algorithm.adv_estimator), "n": int(rollout.n)},
        "sampling": {name: rollout.get(name) for name in ("temperature", "top_p", "top_k")},
        "val_sampling": {name: rollout.val_kwargs.get(name) for name in ("temperature", "top_p", "top_k", "n")},
        "prompts": {"name": section["prompts"], "sha256": _hash(templates), "templates": templates},
        "model": config.actor_rollout_ref.model.path,
        "critic_model": OmegaConf.select(config, "critic.model.path"),
        "data": files,
        "video_root": section["video"]["root"],
        "packages": installed_versions(PACKAGES),
    }


def _describe_file(path: str) -> dict[str, Any]:
    """Name a data file with its hash; None for one that is not on this machine."""
    file = Path(path)
    return {"path": str(path), "sha256": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None}


def _as_list(files: Any) -> list[str]:
    return [] if files is None else [files] if isinstance(files, str) else [str(file) for file in files]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
