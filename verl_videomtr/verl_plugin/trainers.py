# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""verl's trainers with the method's credit assignment and bootstrapping: one for each of verl's modes.

The mixin adds to verl's steps and replaces none: verl's own `_compute_advantage` runs, inside a context from which the
registered estimator reads the critic's values, the turns and the bonus.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf, open_dict
from verl.trainer.ppo.v1 import (
    PPOTrainerColocateAsync,
    PPOTrainerSeparateAsync,
    PPOTrainerSync,
    register_trainer,
)

from verl_videomtr.losses import Losses, Partition
from verl_videomtr.settings import load_settings
from verl_videomtr.trajectory import Trajectory, summarize
from verl_videomtr.verl_plugin.batch_rows import (
    TRAJECTORY_KEY,
    TrajectoryRow,
    distinct_trajectories,
    real_rows,
)
from verl_videomtr.verl_plugin.checks import BONUS_ESTIMATOR, check_config
from verl_videomtr.verl_plugin.counted_run import CountedRun
from verl_videomtr.verl_plugin.episode_table import EpisodeTable
from verl_videomtr.verl_plugin.estimators import batch_context, make_batch_context
from verl_videomtr.verl_plugin.frame_counters import FrameCounters
from verl_videomtr.verl_plugin.kept_checkpoints import KeptCheckpoints
from verl_videomtr.verl_plugin.mini_batches import mini_batches_of_rows, row_multiple
from verl_videomtr.verl_plugin.ranks import common_ranks, sequence_parallel
from verl_videomtr.verl_plugin.recorder import Recorder, with_credit
from verl_videomtr.verl_plugin.rollout_agreement import AgreementCheck
from verl_videomtr.verl_plugin.run_description import describe_run
from verl_videomtr.verl_plugin.schedule import Schedule
from verl_videomtr.verl_plugin.store import read_fields

logger = logging.getLogger(__name__)


class VideoMTRMixin(CountedRun, KeptCheckpoints):
    """What every trainer mode of the plugin adds to verl's."""

    base_mode: ClassVar[str]
    """verl's own name of the trainer below: verl compares its configuration with these strings."""

    def __init__(self, config: DictConfig) -> None:
        self.videomtr = load_settings(config)
        check_config(config, self.videomtr)
        with open_dict(config):
            config.trainer.v1.trainer_mode = self.base_mode
        self.schedule = Schedule(self.videomtr.bootstrap)
        self.frame_counters = FrameCounters()
        self.recorder = Recorder(self.videomtr.dump, describe=lambda: describe_run(config))
        self.episode_table = EpisodeTable(
            self.videomtr.log_val_episodes,
            run={"videomtr": OmegaConf.to_container(config.videomtr, resolve=True)},
            workers=self.videomtr.video.workers,
        )
        self.agreement = AgreementCheck(self.videomtr.max_rollout_difference)
        super().__init__(config)

    def _build_replay_buffer(self) -> Any:
        replay_buffer = super()._build_replay_buffer()
        if self.base_mode != "separate_async":  # there the interval also tells verl how idle the trainer is
            replay_buffer.poll_interval = self.videomtr.poll_seconds
        return replay_buffer

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        # verl's own covers the actor's ranks alone; the critic's may be more.
        ranks = common_ranks(self.config, num_gpus=dp_size * sequence_parallel(self.config)["actor"])
        if not self.videomtr.episode.slides:
            return math.lcm(ranks, super()._get_required_batch_multiple(dp_size))
        return row_multiple(self.config, self._trained_roles(), dp_size=ranks, base_mode=self.base_mode)

    def _trained_roles(self) -> list[Any]:
        """Find the configurations of the models that this step trains."""
        actor = self.config.actor_rollout_ref.actor
        trains_actor = self.config.trainer.critic_warmup <= self.global_steps
        return ([self.config.critic] if self.use_critic else []) + ([actor] if trains_actor else [])

    def _mini_batches(self, role: DictConfig, num_rows: int) -> contextlib.AbstractContextManager[None]:
        if not self.videomtr.episode.slides:
            return contextlib.nullcontext()
        return mini_batches_of_rows(self.config, role, num_rows=num_rows, base_mode=self.base_mode)

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_old_log_prob(batch, metrics)
        self.agreement.look(metrics, step=self.global_steps)
        return batch

    def _update_critic(self, batch: Any, metrics: dict[str, Any]) -> Any:
        with self._mini_batches(self.config.critic, len(batch)):
            return super()._update_critic(batch, metrics)

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        with self._mini_batches(self.config.actor_rollout_ref.actor, len(batch)):
            return super()._update_actor(batch, metrics)

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        fields = ["extra_fields", "response_mask"] + (["values"] if self.use_critic else [])
        data = read_fields(batch, fields)
        extra_fields = data.pop("extra_fields").tolist()
        pays_bonus = self.config.algorithm.adv_estimator == BONUS_ESTIMATOR
        rows = real_rows(batch.tags, extra_fields, all_needed=pays_bonus)
        trajectories = distinct_trajectories(rows)
        if trajectories:
            self._report(trajectories, metrics)
        values = data.to_padded_tensor()["values"].float() if self.use_critic else None
        bonus = None
        with contextlib.ExitStack() as stack:
            if pays_bonus:
                assert values is not None
                bonus = self.schedule.next_bonus(trajectories, metrics)
                context = make_batch_context(
                    rows, keys=batch.keys, values=values, bonus=bonus, credit=self.videomtr.credit
                )
                stack.enter_context(batch_context(context))
            batch = super()._compute_advantage(batch, metrics)
        self._record(batch, rows, metrics, values=values, bonus=bonus)
        return batch

    def _record(
        self,
        batch: Any,
        rows: Sequence[TrajectoryRow],
        metrics: dict[str, Any],
        *,
        values: Any,
        bonus: float | None,
    ) -> None:
        """Write the batch's lines, with the credit that has been given."""
        if not self.recorder.is_on:
            return
        started = time.monotonic()
        credit = read_fields(batch, ["advantages", "returns"])
        trajectories = with_credit(
            rows, bonus=bonus, advantages=credit["advantages"], returns=credit["returns"], values=values
        )
        num_real = sum(not tag.get("is_padding", False) for tag in batch.tags)
        self.recorder.record_step(trajectories, [], step=self.global_steps, num_without_record=num_real - len(rows))
        metrics["videomtr/seconds/record"] = time.monotonic() - started

    def _report(self, trajectories: Sequence[Trajectory], metrics: dict[str, Any]) -> None:
        """Log the metrics of what is trained."""
        started = time.monotonic()
        metrics.update(summarize(trajectories))
        metrics["videomtr/seconds/report"] = time.monotonic() - started

    def _val_metrics_update(
        self, data_sources: Any, sample_uids: Any, reward_extra_infos_dict: Any, *args: Any, **kwargs: Any
    ) -> dict[str, float]:
        records = reward_extra_infos_dict.get(TRAJECTORY_KEY, ())
        self.recorder.record_validation(records, step=self.global_steps)
        metrics = super()._val_metrics_update(data_sources, sample_uids, reward_extra_infos_dict, *args, **kwargs)
        return metrics | self.episode_table.log(
            records,
            tracking=self.logger,
            generations=self.validation_generations_logger,
            step=self.global_steps,
        )

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> Any:
        batch = super().step(metrics, timing_raw)
        metrics.update(self.frame_counters.since_last(self.agent_loop_manager.frame_counts()))
        return batch

    def _validate(self) -> dict[str, float]:
        metrics = super()._validate()
        counted = self.frame_counters.since_last(self.agent_loop_manager.frame_counts())
        return {**metrics, **{name.replace("videomtr/", "videomtr/val/", 1): count for name, count in counted.items()}}

    def on_lost(self, partition: Partition, losses: Losses) -> None:
        reports = [report.to_dict() for report in losses.reports]
        if partition == "train":
            self.recorder.record_step([], reports, step=self.global_steps)
        else:
            self.recorder.record_validation_losses(reports, step=self.global_steps)

    def save_beside(self, folder: Path) -> None:
        self.schedule.save(folder)

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps == 0:
            return
        trainer = self.config.trainer
        folder = Path(trainer.default_local_dir) / f"global_step_{self.global_steps}"
        self.schedule.load(Path(trainer.resume_from_path) if trainer.resume_mode == "resume_path" else folder)


@register_trainer("video_mtr_sync")
class VideoMTRSync(VideoMTRMixin, PPOTrainerSync):
    """Rollout and training take turns on the same devices."""

    base_mode = "sync"


@register_trainer("video_mtr_colocate_async")
class VideoMTRColocateAsync(VideoMTRMixin, PPOTrainerColocateAsync):
    """Rollout runs ahead of training on the same devices."""

    base_mode = "colocate_async"


@register_trainer("video_mtr_separate_async")
class VideoMTRSeparateAsync(VideoMTRMixin, PPOTrainerSeparateAsync):
    """Rollout and training run on devices of their own."""

    base_mode = "separate_async"
