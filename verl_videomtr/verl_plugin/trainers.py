"""verl's trainers with the method's credit assignment and bootstrapping: `video_mtr_sync` and its asynchronous kin.

The mixin adds to verl's steps and replaces none: verl's own `_compute_advantage` runs, inside a context from which the
registered estimator reads the critic's values, the turns and the bonus.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1 import (
    PPOTrainer,
    PPOTrainerColocateAsync,
    PPOTrainerSeparateAsync,
    PPOTrainerSync,
    register_trainer,
)

from verl_videomtr.settings import load_settings
from verl_videomtr.trajectory import Trajectory, summarize
from verl_videomtr.verl_plugin.agent_loop import LOST_PARTITION
from verl_videomtr.verl_plugin.batch_rows import (
    FRAMES_FIELD,
    TRAJECTORY_KEY,
    TrajectoryRow,
    distinct_trajectories,
    real_rows,
)
from verl_videomtr.verl_plugin.checks import BONUS_ESTIMATOR, check_config
from verl_videomtr.verl_plugin.estimators import batch_context, make_batch_context
from verl_videomtr.verl_plugin.frame_counters import FrameCounters
from verl_videomtr.verl_plugin.mini_batches import mini_batches_of_rows, row_multiple
from verl_videomtr.verl_plugin.recorder import Recorder, with_credit
from verl_videomtr.verl_plugin.run_description import describe_run
from verl_videomtr.verl_plugin.schedule import Schedule

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

WATCHED_STEPS = 4
"""Steps over which the share of lost trajectories is judged."""


class VideoMTRMixin(PPOTrainer):
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
        self._recent: deque[tuple[int, int]] = deque(maxlen=WATCHED_STEPS)
        super().__init__(config)

    def _build_replay_buffer(self) -> Any:
        replay_buffer = super()._build_replay_buffer()
        if self.base_mode != "separate_async":  # there the interval also tells verl how idle the trainer is
            replay_buffer.poll_interval = self.videomtr.poll_seconds
        return replay_buffer

    def _step_once(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._step_once(*args, **kwargs)
        except RuntimeError as error:
            # verl's own text advises a refill of failed groups, which does not help where every one fails.
            if "no materializable trajectories" in str(error):
                raise RuntimeError(self._say_all_lost(f"step {self.global_steps}")) from error
            raise

    def _balance_batch(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if not batch.keys:
            raise RuntimeError(self._say_all_lost(f"step {self.global_steps}"))
        return super()._balance_batch(batch, *args, **kwargs)

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        if not self.videomtr.episode.slides:
            return super()._get_required_batch_multiple(dp_size)
        return row_multiple(self.config, self._trained_roles(), dp_size=dp_size, base_mode=self.base_mode)

    def _trained_roles(self) -> list[Any]:
        """Find the configurations of the models that this step trains."""
        actor = self.config.actor_rollout_ref.actor
        trains_actor = self.config.trainer.critic_warmup <= self.global_steps
        return ([self.config.critic] if self.use_critic else []) + ([actor] if trains_actor else [])

    def _mini_batches(self, role: DictConfig, num_rows: int) -> contextlib.AbstractContextManager[None]:
        if not self.videomtr.episode.slides:
            return contextlib.nullcontext()
        return mini_batches_of_rows(self.config, role, num_rows=num_rows, base_mode=self.base_mode)

    def _update_critic(self, batch: Any, metrics: dict) -> Any:
        with self._mini_batches(self.config.critic, len(batch)):
            return super()._update_critic(batch, metrics)

    def _update_actor(self, batch: Any, metrics: dict) -> Any:
        with self._mini_batches(self.config.actor_rollout_ref.actor, len(batch)):
            return super()._update_actor(batch, metrics)

    def _compute_advantage(self, batch: Any, metrics: dict) -> Any:
        fields = ["extra_fields", "response_mask"] + (["values"] if self.use_critic else [])
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        extra_fields = data.pop("extra_fields").tolist()
        rows = real_rows(batch.tags, extra_fields, base_mode=self.base_mode)
        trajectories = distinct_trajectories(rows)
        lost = self._report(trajectories, metrics)
        metrics.update(self.frame_counters.since_last(extra_fields[row.place][FRAMES_FIELD] for row in rows))
        values = data.to_padded_tensor()["values"].float() if self.use_critic else None
        bonus = None
        with contextlib.ExitStack() as stack:
            if self.config.algorithm.adv_estimator == BONUS_ESTIMATOR:
                assert values is not None
                bonus = self.schedule.next_bonus(trajectories, metrics)
                context = make_batch_context(
                    rows, keys=batch.keys, values=values, bonus=bonus, credit=self.videomtr.credit
                )
                stack.enter_context(batch_context(context))
            batch = super()._compute_advantage(batch, metrics)
        self._record(batch, rows, lost, metrics, values=values, bonus=bonus)
        return batch

    def _record(
        self,
        batch: Any,
        rows: Sequence[TrajectoryRow],
        lost: Sequence[dict[str, Any]],
        metrics: dict,
        *,
        values: Any,
        bonus: float | None,
    ) -> None:
        """Write the batch's lines, with the credit that has been given."""
        if not self.recorder.is_on:
            return
        started = time.monotonic()
        credit = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["advantages", "returns"]
        )
        trajectories = with_credit(
            rows, bonus=bonus, advantages=credit["advantages"], returns=credit["returns"], values=values
        )
        self.recorder.record_step(trajectories, lost, step=self.global_steps)
        metrics["videomtr/seconds/record"] = time.monotonic() - started

    def _report(self, trajectories: Sequence[Trajectory], metrics: dict) -> list[dict[str, Any]]:
        """Log the step's metrics, stop where too many trajectories are lost, and return the losses."""
        started = time.monotonic()
        metrics.update(summarize(trajectories))
        lost = self._drain_lost()
        metrics["videomtr/video/unreadable"] = float(sum(report["kind"] == "unreadable" for report in lost))
        metrics["videomtr/episode/failed"] = float(sum(report["kind"] == "failed" for report in lost))
        # Over steps, not within one: asynchronous trainers hear of a lost prompt before its batch is trained.
        self._recent.append((len(lost), len(trajectories)))
        num_lost, num_played = (sum(column) for column in zip(*self._recent, strict=True))
        share = num_lost / (num_lost + num_played)
        most = self.videomtr.video.max_unreadable_share
        if num_lost > 1 and share > most:
            raise RuntimeError(
                f"{num_lost} of the last {num_lost + num_played} trajectories were lost ({share:.0%}); expected at "
                f"most videomtr.video.max_unreadable_share={most}; {_name_some(lost)}; "
                "mend the files (python -m data_prep.check lists them) or the reward function"
            )
        metrics["videomtr/seconds/report"] = time.monotonic() - started
        return lost

    def _val_metrics_update(
        self, data_sources: Any, sample_uids: Any, reward_extra_infos_dict: Any, *args: Any, **kwargs: Any
    ) -> dict[str, float]:
        self.recorder.record_validation(reward_extra_infos_dict.get(TRAJECTORY_KEY, ()), step=self.global_steps)
        return super()._val_metrics_update(data_sources, sample_uids, reward_extra_infos_dict, *args, **kwargs)

    def _validate(self) -> dict[str, float]:
        before = len(self._drain_lost(keep=True))
        try:
            metrics = super()._validate()
        except ValueError as error:
            # verl asks TransferQueue for no keys at all where a validation batch has no trajectory.
            if len(self._drain_lost(keep=True)) > before:
                raise RuntimeError(self._say_all_lost("a validation batch")) from error
            raise
        lost = self._drain_lost()[before:]
        self.recorder.record_validation_losses(lost, step=self.global_steps)
        metrics["videomtr/val/lost"] = float(len(lost))
        return metrics

    def _say_all_lost(self, where: str) -> str:
        lost = self._drain_lost()
        return (
            f"{where} has no trajectory at all: {len(lost)} were lost; expected at least one; {_name_some(lost)}; "
            "the agent-loop workers logged each; check videomtr.video.root and the reward function"
        )

    @staticmethod
    def _drain_lost(*, keep: bool = False) -> list[dict[str, Any]]:
        """Take the workers' reports of trajectories that they could not make since the last call."""
        reports = (tq.kv_list(LOST_PARTITION) or {}).get(LOST_PARTITION, {})
        if reports and not keep:
            tq.kv_clear(keys=list(reports), partition_id=LOST_PARTITION)
        return list(reports.values())

    def _save_checkpoint(self) -> None:
        # Before verl's own: it announces the checkpoint as complete at its end.
        self.schedule.save(Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}")
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps == 0:
            return
        trainer = self.config.trainer
        folder = Path(trainer.default_local_dir) / f"global_step_{self.global_steps}"
        self.schedule.load(Path(trainer.resume_from_path) if trainer.resume_mode == "resume_path" else folder)


def _name_some(lost: Sequence[dict[str, Any]], most: int = 3) -> str:
    return "; ".join(f"sample {report.get('sample_id')!r}: {report.get('error')}" for report in lost[:most])


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
