# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The `videomtr` part of verl's configuration, read once and checked: DictConfig in, frozen dataclasses out."""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from verl_videomtr.bootstrapping import BootstrapConfig
from verl_videomtr.credit import CreditConfig
from verl_videomtr.episode import EpisodeConfig
from verl_videomtr.model_shapes import find_grid
from verl_videomtr.prompts import Prompts
from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.cache_entry import FORMS
from verl_videomtr.video.decode_workers import WorkerConfig
from verl_videomtr.video.pool import PoolConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """The frame cache on disk, shared by all workers that see the directory."""

    dir: str | None = None
    """Directory; None decodes frames each time they are asked for."""
    form: str = "raw"
    """`raw` (exact, about 32 MiB a video at 224 x 392) or `jpeg` (a seventh to a fifth of it, recorded as such)."""
    max_gib: float | None = None
    """Bound on the directory's size; least recently used videos go first. None is no bound."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"videomtr.video.cache.form={self.form!r}; expected one of {', '.join(FORMS)}")
        if self.max_gib is not None and not self.max_gib > 0:
            raise ValueError(f"videomtr.video.cache.max_gib={self.max_gib}; expected a positive number, or null")

    def open(self) -> PoolCache | None:
        """Open the cache, or return None where none is configured."""
        if self.dir is None:
            return None
        return PoolCache(
            self.dir, form=self.form, max_bytes=None if self.max_gib is None else int(self.max_gib * 2**30)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """Where videos lie and how their frames are served."""

    root: str | None = None
    """Directory that relative video paths are resolved in, and that no path may leave; None takes paths as they are."""
    open_pools: int = 512
    """Videos that one agent-loop worker keeps open."""
    max_unreadable_share: float = 0.2
    """A training step that loses a larger share of its trajectories to unreadable videos stops the run."""
    pool: PoolConfig = dataclasses.field(default_factory=PoolConfig)
    """How the candidate pool is built; its num_frames is episode.pool_size."""
    workers: WorkerConfig = dataclasses.field(default_factory=WorkerConfig)
    """How many videos one agent-loop worker decodes at once, and how long one may take."""
    cache: CacheConfig = dataclasses.field(default_factory=CacheConfig)
    """Where decoded frames are kept."""

    def __post_init__(self) -> None:
        if self.open_pools < 1:
            raise ValueError(f"videomtr.video.open_pools={self.open_pools}; expected at least 1")
        if not 0.0 <= self.max_unreadable_share <= 1.0:
            raise ValueError(f"videomtr.video.max_unreadable_share={self.max_unreadable_share}; expected 0 to 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DumpConfig:
    """Which trajectories are written out, turn by turn."""

    dir: str | None = None
    """Directory of the JSONL files, one per training step; None writes none."""
    share: float = 1.0
    """Share of a step's trajectories to write, drawn by chance."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"videomtr.dump.share={self.share}; expected 0 to 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """All of `videomtr.*`."""

    episode: EpisodeConfig = dataclasses.field(default_factory=EpisodeConfig)
    credit: CreditConfig = dataclasses.field(default_factory=CreditConfig)
    video: VideoConfig = dataclasses.field(default_factory=VideoConfig)
    bootstrap: BootstrapConfig = dataclasses.field(default_factory=BootstrapConfig)
    """Exploration bootstrapping; its max_turns is episode.max_turns."""
    dump: DumpConfig = dataclasses.field(default_factory=DumpConfig)
    log_val_episodes: int = 0
    """Episodes of each validation that go to verl's loggers as a table with pictures; 0: none."""
    prompts: str = "default"
    """A shipped prompt set's name, or the path of a YAML file."""
    max_response_tokens: int = 512
    """Most tokens of one response; the episode's total is data.max_response_length."""
    reward_timeout_seconds: float = 300.0
    """Most seconds that the reward function may take for one episode; a longer call loses the trajectory."""
    poll_seconds: float = 0.1
    """How often the trainer looks for finished trajectories; verl's own 2.0 rounds every small rollout up."""
    stall_minutes: float | None = 30.0
    """A run that waits for episodes, and in which none ends for so long, ends; None sets no limit."""
    phase_minutes: float | None = 120.0
    """A run in which any other part of a step (an update, a checkpoint) takes so long ends; None sets no limit."""
    max_rollout_difference: float | None = 0.05
    """Largest mean difference, at the first step, of the engine's and the actor's probabilities; None: any."""
    device_patches: bool = True
    """Rows carry frames as bytes, and patches are made on the training device; False: rows carry float32 patches."""

    def __post_init__(self) -> None:
        if self.max_response_tokens < 1:
            raise ValueError(f"videomtr.max_response_tokens={self.max_response_tokens}; expected at least 1")
        if self.log_val_episodes < 0:
            raise ValueError(f"videomtr.log_val_episodes={self.log_val_episodes}; expected 0 or more")
        for name in ("poll_seconds", "reward_timeout_seconds"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"videomtr.{name}={getattr(self, name)}; expected a positive number")
        for name in ("stall_minutes", "phase_minutes"):
            minutes = getattr(self, name)
            if minutes is not None and not 0.0 < minutes < math.inf:
                raise ValueError(f"videomtr.{name}={minutes}; expected a positive number, or null")
        if self.max_rollout_difference is not None and not 0.0 < self.max_rollout_difference <= 1.0:
            raise ValueError(
                f"videomtr.max_rollout_difference={self.max_rollout_difference}; expected above 0 to 1, or null"
            )


T = TypeVar("T")


def load_settings(config: DictConfig) -> Settings:
    """Read `videomtr.*` of a composed configuration.

    Raises:
        ValueError: the part is missing, holds an unknown key, or a value breaks its rule; the message names the key.
    """
    section = OmegaConf.select(config, "videomtr")
    if section is None:
        raise ValueError("the configuration has no `videomtr` part; expected one; add +videomtr=paper to the command")
    raw = _mapping(OmegaConf.to_container(section, resolve=True), "videomtr")
    episode = _build(EpisodeConfig, raw.pop("episode", {}), "videomtr.episode")
    video_raw = _mapping(raw.pop("video", {}), "videomtr.video")
    pool_raw = _mapping(video_raw.pop("pool", {}), "videomtr.video.pool")
    bootstrap_raw = _mapping(raw.pop("bootstrap", {}), "videomtr.bootstrap")
    video_parts = {
        "pool": _build(
            PoolConfig,
            {**_with_grid(pool_raw, config), "num_frames": episode.pool_size},
            "videomtr.video.pool",
        ),
        "workers": _build(WorkerConfig, video_raw.pop("workers", {}), "videomtr.video.workers"),
        "cache": _build(CacheConfig, video_raw.pop("cache", {}), "videomtr.video.cache"),
    }
    parts = {
        "episode": episode,
        "video": _build(VideoConfig, {**video_raw, **video_parts}, "videomtr.video"),
        "credit": _build(CreditConfig, raw.pop("credit", {}), "videomtr.credit"),
        "bootstrap": _build(BootstrapConfig, {**bootstrap_raw, "max_turns": episode.max_turns}, "videomtr.bootstrap"),
        "dump": _build(DumpConfig, raw.pop("dump", {}), "videomtr.dump"),
    }
    settings = _build(Settings, {**raw, **parts}, "videomtr")
    Prompts.load(settings.prompts)
    return settings


def _with_grid(pool: dict[Any, Any], config: DictConfig) -> dict[Any, Any]:
    """Fill in the grid of a frame, where the configuration leaves it to the model."""
    names = ("patch_px", "merge")
    if all(pool.get(name, 0) is not None for name in names):
        return pool
    found = find_grid(str(OmegaConf.select(config, "actor_rollout_ref.model.path")))
    return pool | {name: value for name, value in zip(names, found, strict=True) if pool.get(name, 0) is None}


def check_types(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Compare plain values with the annotations of a dataclass.

    Raises:
        ValueError: an unknown key, or a value of another type than its field; the message names the key.
    """
    known = [field.name for field in dataclasses.fields(cls)]
    if unknown := sorted(map(str, set(values) - set(known))):
        raise ValueError(f"{where} has unknown keys {unknown}; expected some of {known}")
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if not _fits(value, hints[key]):
            raise ValueError(f"{where}.{key}={value!r}; expected {_describe(hints[key])}")


def _build(cls: type[T], values: Any, where: str) -> T:
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in _mapping(values, where).items()}
    check_types(cls, given, where)
    return cls(**given)


def _mapping(values: Any, where: str) -> dict[Any, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}={values!r}; expected a mapping of keys to values; leave {where} as the group has it")
    return dict(values)


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        return isinstance(value, tuple) and len(value) == len(items) and all(map(_fits, value, items))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"a list of {len(typing.get_args(hint))} whole numbers"
    if issubclass(hint, enum.Enum):
        return f"one of {[member.value for member in hint]}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(hint) or str(hint.__name__)
