# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A trainer whose checkpoints are kept, counted and resumed over restarts, and survive a failed save."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1 import PPOTrainer

from verl_videomtr import checkpoints

logger = logging.getLogger(__name__)


class KeptCheckpoints(PPOTrainer):
    """Marks a checkpoint while verl writes it, and removes older ones itself, once the new one is complete."""

    def save_beside(self, folder: Path) -> None:
        """Write what belongs to a checkpoint beside the models; called before verl's own saving."""

    def _save_checkpoint(self) -> None:
        root, step = self._checkpoint_root, self.global_steps
        folder = checkpoints.step_folder(root, step)
        if self.config.actor_rollout_ref.actor.get("checkpoint", {}).get("async_save", False):
            self.save_beside(folder)
            super()._save_checkpoint()  # complete at a time of its own: verl keeps the count
            return
        keep = self._numbers_to_keep()
        try:
            checkpoints.mark_saving(root, step)
            self.save_beside(folder)
            with self._verl_keeps_all():
                super()._save_checkpoint()
            checkpoints.mark_complete(root, step)
        except Exception as error:
            message = self._say_unsaved(root, step, error)  # before the half is removed: how full the disk was
            self._remove_everywhere([folder])
            raise RuntimeError(message) from error
        self._remove_everywhere(checkpoints.plan_removal(root, step, keep=keep))

    def _load_checkpoint(self) -> None:
        if self.config.trainer.resume_mode == "auto":
            checkpoints.repair_tracker(self._checkpoint_root, self._checkpoint_parts)
        super()._load_checkpoint()

    def fit(self, agent_loop_manager: Any) -> None:
        if self.global_steps > 0 and "file" in self.config.trainer.logger:
            aside = checkpoints.set_aside(metrics_file(self.config.trainer), self.global_steps)
            if aside is not None:
                logger.info("the metrics of the run before are in %s: verl starts its file again", aside)
        super().fit(agent_loop_manager)

    @property
    def _training_workers(self) -> list[Any]:
        return self.actor_rollout_wg.workers

    @property
    def _checkpoint_root(self) -> Path:
        return Path(self.config.trainer.default_local_dir).absolute()

    @property
    def _checkpoint_parts(self) -> list[str]:
        return ["actor", "critic"] if self.use_critic else ["actor"]

    def _numbers_to_keep(self) -> dict[str, int | None]:
        trainer = self.config.trainer
        if trainer.get("remove_previous_ckpt_in_save", False):
            return dict.fromkeys(self._checkpoint_parts, 1)
        return {part: trainer.get(f"max_{part}_ckpt_to_keep") for part in self._checkpoint_parts}

    @contextlib.contextmanager
    def _verl_keeps_all(self) -> Iterator[None]:
        """verl would drop the older actor as soon as the new one is written, before the rest is."""
        trainer = self.config.trainer
        changed = {
            "max_actor_ckpt_to_keep": None,
            "max_critic_ckpt_to_keep": None,
            "remove_previous_ckpt_in_save": False,
        }
        before = {key: trainer.get(key) for key in changed}
        with open_dict(trainer):
            trainer.update(changed)
        try:
            yield
        finally:
            with open_dict(trainer):
                trainer.update(before)

    def _remove_everywhere(self, paths: list[Path]) -> None:
        """Remove folders on every node: without a common disk each holds a part."""
        if not paths:
            return
        checkpoints.remove(paths)
        # By value: the workers' processes cannot import a trainer's module.
        ray.get([worker.__ray_call__.remote(lambda _: checkpoints.remove(paths)) for worker in self._training_workers])
        logger.info("removed %s", ", ".join(map(str, paths)))

    def _say_unsaved(self, root: Path, step: int, error: Exception) -> str:
        complete = [one for one in checkpoints.list_complete(root, self._checkpoint_parts) if one != step]
        last = f"step {complete[-1]} is complete" if complete else "there is no complete one"
        # Ray puts the worker's traceback before the error itself.
        cause = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        return (
            f"the checkpoint of step {step} could not be saved in {root}, where {_say_free(root)} are free "
            f"({cause[0][:300]}); {last}; make room there, or lower trainer.max_actor_ckpt_to_keep and "
            "max_critic_ckpt_to_keep (one more is on disk while saving), and start the run again with "
            "trainer.resume_mode=auto"
        )


def _say_free(path: Path) -> str:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    return f"{free / 2**30:.1f} GiB" if free >= 2**30 else f"{free / 2**20:.1f} MiB"


def metrics_file(trainer: DictConfig) -> Path:
    """Name the file that verl's `file` logger opens, and empties."""
    named = os.getenv("VERL_FILE_LOGGER_PATH")
    if named is not None:
        return Path(named)
    root = Path(os.getenv("VERL_FILE_LOGGER_ROOT", ".")).expanduser()
    return root / trainer.project_name / f"{trainer.experiment_name}.jsonl"
