# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a run plays and how: overrides and a file of rows in, everything that moves a number out, checked.

The configuration is training's own, composed from the same Hydra groups; sampling is verl's validation sampling
(`actor_rollout_ref.rollout.val_kwargs`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_videomtr.prompts import Prompts
from verl_videomtr.reward_function import describe_reward, load_reward_function
from verl_videomtr.sample import Sample, SampleError, read_rows, resolve_video
from verl_videomtr.settings import Settings, load_settings
from verl_videomtr.verl_plugin.compose import compose

DEFAULT_PRESET = "+videomtr=paper"
SINGLE_TURN = ("videomtr.episode.max_turns=1", "videomtr.episode.initial_frames=null")
"""The uniform baseline: all frames of the budget at once, one answer."""
_PRESETS = ("+videomtr=", "+videomtr/recipe=")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How episodes are played, but for the server."""

    config: DictConfig
    settings: Settings
    prompts: Prompts
    sampling: dict[str, float | int]
    """temperature, top_p, top_k."""
    reward_fn: Callable[..., Any]
    reward: dict[str, Any]
    """Where it comes from: path, name and arguments."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is played."""

    path: Path
    sha256: str
    samples: tuple[Sample, ...]
    has_answers: bool = True
    """False where the answers are known elsewhere."""


def compose_setup(overrides: Sequence[str], *, single_turn: bool = False) -> Setup:
    """Compose and check.

    Args:
        overrides: as for training.
        single_turn: play the uniform baseline at the same budget.
    Raises:
        ValueError: an override or a setting breaks a rule.
    """
    if not any(override.startswith(_PRESETS) for override in overrides):
        overrides = [DEFAULT_PRESET, *overrides]
    config = compose([*overrides, *(SINGLE_TURN if single_turn else ())])
    settings = load_settings(config)
    reward_fn, reward = load_reward(config)
    return Setup(
        config=config,
        settings=settings,
        prompts=Prompts.load(settings.prompts),
        sampling=read_sampling(config),
        reward_fn=reward_fn,
        reward=reward,
    )


def read_questions(path: Path, *, root: str | None, limit: int | None = None) -> Questions:
    """Read a parquet file of rows.

    Args:
        root: the video root.
        limit: take the first rows only.
    Raises:
        ValueError: a row breaks a rule, or not one video is there.
    """
    samples = read_rows(path)[:limit]
    require_videos(samples, root)
    return Questions(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), samples=tuple(samples))


def read_sampling(config: DictConfig) -> dict[str, float | int]:
    """Return what verl's validation samples with.

    Raises:
        ValueError: a value that no server takes.
    """
    where = "actor_rollout_ref.rollout.val_kwargs"
    values = OmegaConf.select(config, where)
    sampling = {"temperature": values.temperature, "top_p": values.top_p, "top_k": values.top_k}
    if not (isinstance(values.temperature, (int, float)) and 0 <= values.temperature < math.inf):
        raise ValueError(f"{where}.temperature={values.temperature}; expected 0 (greedy) or more")
    if not (isinstance(values.top_p, (int, float)) and 0 < values.top_p <= 1):
        raise ValueError(f"{where}.top_p={values.top_p}; expected above 0, at most 1")
    if not (isinstance(values.top_k, int) and (values.top_k == -1 or values.top_k > 0)):
        raise ValueError(f"{where}.top_k={values.top_k}; expected -1 (all) or a number of tokens")
    return sampling


def load_reward(config: DictConfig) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Load the reward function that training is given, without importing verl.

    Raises:
        ValueError: there is no such file, module or function.
    """
    section: Any = OmegaConf.to_container(config.reward.custom_reward_function, resolve=True)
    reward = describe_reward(section)
    return load_reward_function(reward), reward


def require_videos(samples: Sequence[Sample], root: str | None) -> None:
    """Stop before the first request where not one video is there: that is a wrong root, not a hundred failures.

    Raises:
        ValueError: none of the videos exists.
    """
    example = ""
    for video in dict.fromkeys(sample.video for sample in samples):
        try:
            path = resolve_video(video, root)
        except SampleError as error:
            example = example or str(error)
            continue
        if path.exists():
            return
        example = example or f"no such file {path}"
    raise ValueError(
        f"not one of the rows' videos can be opened ({example}); expected them below videomtr.video.root={root}; "
        "give videomtr.video.root=DIR"
    )
