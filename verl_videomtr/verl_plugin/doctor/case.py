# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the checks look at: the configuration, and what was loaded or measured for it, each once."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_videomtr.model_shapes import find_shape
from verl_videomtr.planner import GPUS, PlannedRun
from verl_videomtr.sample import AGENT_NAME, Sample
from verl_videomtr.settings import Settings
from verl_videomtr.verl_plugin import ranks
from verl_videomtr.verl_plugin.plan_command import read_run


@dataclasses.dataclass(kw_only=True)
class Case:
    """One configuration under examination."""

    config: DictConfig
    """As composed, interpolations resolved."""
    written: DictConfig
    """The same before: which keys follow which."""
    settings: Settings
    """Its `videomtr.*`."""
    elsewhere: bool = False
    """The run will start on another machine: files and devices of this one say nothing."""
    samples: dict[str, list[Sample]] = dataclasses.field(default_factory=dict)
    """`train` and `val` rows, where they could be read."""
    frame_sizes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """(height, width) at which the videos that were opened are served."""
    model: Any = None
    """verl's HFModelConfig of the policy, where it could be loaded."""
    is_model_refused: bool = False
    """The policy's files are here, and cannot be used."""
    measured: Any = None
    """`model.Measured` lengths, where they could be measured."""

    @classmethod
    def of(cls, config: DictConfig, settings: Settings, *, elsewhere: bool = False) -> Case:
        resolved = copy.deepcopy(config)
        OmegaConf.resolve(resolved)
        return cls(config=resolved, written=config, settings=settings, elsewhere=elsewhere)

    def get(self, key: str, default: Any = None) -> Any:
        """Select a key; the default where it is absent or null."""
        value = OmegaConf.select(self.config, key)
        return default if value is None else value

    def follows(self, key: str) -> bool:
        """Whether a key takes its value from another one."""
        parent, _, leaf = key.rpartition(".")
        section = OmegaConf.select(self.written, parent)
        return isinstance(section, DictConfig) and leaf in section and OmegaConf.is_interpolation(section, leaf)

    @property
    def rollout(self) -> DictConfig:
        return self.config.actor_rollout_ref.rollout

    @property
    def num_gpus(self) -> int:
        """GPUs (or, on the CPU, processes) of all nodes."""
        return int(self.config.trainer.n_gpus_per_node) * int(self.config.trainer.nnodes)

    @property
    def num_steps(self) -> int | None:
        """Steps of the run; None where the rows are not known."""
        steps = self.get("trainer.total_training_steps")
        if steps is not None:
            return int(steps)
        if "train" not in self.samples:
            return None
        size = int(self.config.data.train_batch_size)
        return len(self.samples["train"]) // size * int(self.config.trainer.total_epochs)

    @property
    def is_cpu(self) -> bool:
        return str(self.get("trainer.device")) == "cpu"

    @property
    def uses_own_loop(self) -> bool:
        """Whether rows play in the loop `video_mtr`: they name it themselves, unless another data set rewrites them."""
        loop = str(self.get("actor_rollout_ref.rollout.agent.default_agent_loop"))
        return loop == AGENT_NAME or self.get("data.custom_cls.path") is None

    @property
    def has_critic(self) -> bool:
        return bool(self.get("critic.enable"))

    @property
    def has_reference(self) -> bool:
        return ranks.has_reference(self.config)

    @property
    def has_lora(self) -> bool:
        return ranks.has_lora(self.config)

    @property
    def is_fsdp(self) -> bool:
        return str(self.get("actor_rollout_ref.actor.strategy", "")).startswith("fsdp")

    @functools.cached_property
    def planned(self) -> PlannedRun | None:
        """The sizes of the run, as `videomtr plan` takes them; None where the model's are not known here."""
        try:
            shape, _ = find_shape(str(self.get("actor_rollout_ref.model.path")))
        except ValueError:
            return None
        return read_run(self.config, shape=shape, gpu=next(iter(GPUS.values())))

    @functools.cached_property
    def sequence_parallel(self) -> dict[str, int]:
        return ranks.sequence_parallel(self.config)

    def override(self, key: str, value: Any) -> str:
        """Write the override that sets a key: with a + where the configuration does not have it yet."""
        parent, _, leaf = key.rpartition(".")
        section = OmegaConf.select(self.config, parent)
        exists = isinstance(section, DictConfig) and leaf in section
        return f"{'' if exists else '+'}{key}={value}"

    def files(self, split: str) -> list[str]:
        """Paths of `data.train_files` or `data.val_files`."""
        value = self.get(f"data.{split}_files")
        names = [value] if isinstance(value, str) else list(value or [])
        return [name if "://" in name else str(Path(name).expanduser()) for name in names]
