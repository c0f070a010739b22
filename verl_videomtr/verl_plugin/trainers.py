"""verl's trainers with the method's credit assignment and bootstrapping: `video_mtr_sync` and its asynchronous kin.

The mixin adds to verl's steps and replaces none: verl's own `_compute_advantage` runs, inside a context from which the
registered estimator reads the critic's values, the turns and the bonus.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1 import (
    PPOTrainer,
    PPOTrainerColocateAsync,
    PPOTrainerSeparateAsync,
    PPOTrainerSync,
    register_trainer,
)

from verl_videomtr.bootstrapping import ExplorationBootstrap, count_batch
from verl_videomtr.trajectory import Trajectory, summarize
from verl_videomtr.verl_plugin.agent_loop import TRAJECTORY_FIELD, UNREADABLE_PARTITION
from verl_videomtr.verl_plugin.checks import check_config
from verl_videomtr.verl_plugin.estimators import BatchContext, batch_context
from verl_videomtr.verl_plugin.settings import load_settings

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

STATE_FILE = "videomtr_state.json"


class VideoMTRMixin(PPOTrainer):
    """What every trainer mode of the plugin adds to verl's."""

    base_mode: ClassVar[str]
    """verl's own name of the trainer below: verl compares its configuration with these strings."""

    def __init__(self, config: DictConfig) -> None:
        self.videomtr = load_settings(config)
        check_config(config, self.videomtr)
        with open_dict(config):
            config.trainer.v1.trainer_mode = self.base_mode
        self.bootstrap = ExplorationBootstrap(self.videomtr.bootstrap)
        super().__init__(config)

    def _build_replay_buffer(self) -> Any:
        replay_buffer = super()._build_replay_buffer()
        replay_buffer.poll_interval = self.videomtr.poll_seconds
        return replay_buffer

    def _balance_batch(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if not batch.keys:
            unreadable = self._drain_unreadable()
            raise RuntimeError(
                f"step {self.global_steps} has no trajectory at all ({len(unreadable)} unreadable videos: "
                f"{_name_some(unreadable)}); expected at least one; the agent-loop workers logged why each failed"
            )
        return super()._balance_batch(batch, *args, **kwargs)

    def _compute_advantage(self, batch: Any, metrics: dict) -> Any:
        real = [i for i, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
        fields = ["extra_fields", "response_mask"] + (["values"] if self.use_critic else [])
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        records = [fields[TRAJECTORY_FIELD] for fields in data.pop("extra_fields").tolist()]
        trajectories = [Trajectory.from_dict(records[i]) for i in real]
        self._report(trajectories, metrics)
        bonus = self._bootstrap(trajectories, metrics)
        if not self.use_critic:
            return super()._compute_advantage(batch, metrics)

        padded = data.to_padded_tensor()
        mask = padded["response_mask"]
        turn_ids = torch.full(mask.shape, -1, dtype=torch.long)
        bonus_tokens = torch.zeros(mask.shape, dtype=torch.float32)
        accuracy = torch.zeros(len(batch.keys), dtype=torch.float32)
        for row, trajectory in zip(real, trajectories, strict=True):
            accuracy[row] = trajectory.components.get("acc", float(trajectory.correct))
            for turn, (start, end) in enumerate(trajectory.turn_spans):
                turn_ids[row, start:end] = turn
                if end > start and trajectory.episode["actions"][turn] == "retrieve":
                    bonus_tokens[row, end - 1] = bonus
        context = BatchContext(
            values=padded["values"].float(),
            turn_ids=turn_ids,
            trajectory_ids=torch.arange(len(batch.keys)),
            bonus=bonus_tokens,
            accuracy_rewards=accuracy,
            credit=self.videomtr.credit,
        )
        with batch_context(context):
            return super()._compute_advantage(batch, metrics)

    def _bootstrap(self, trajectories: Sequence[Trajectory], metrics: dict) -> float:
        counted = count_batch(
            self.bootstrap.config.rate_of,
            num_retrievals=[trajectory.num_retrievals for trajectory in trajectories],
            turn_rewards=[trajectory.turn_rewards for trajectory in trajectories],
        )
        bonus = self.bootstrap.update(*counted)
        metrics["videomtr/bootstrap/bonus"] = bonus
        metrics["videomtr/bootstrap/stage"] = float(list(type(self.bootstrap.stage)).index(self.bootstrap.stage))
        metrics["videomtr/bootstrap/good_batches"] = float(self.bootstrap.num_good_batches)
        return bonus

    def _report(self, trajectories: Sequence[Trajectory], metrics: dict) -> None:
        """Log the step's metrics, stop on too many unreadable videos, and write the trajectories out."""
        metrics.update(summarize(trajectories))
        unreadable = self._drain_unreadable()
        share = len(unreadable) / (len(unreadable) + len(trajectories))
        metrics["videomtr/video/unreadable"] = float(len(unreadable))
        if share > self.videomtr.video.max_unreadable_share:
            raise RuntimeError(
                f"{len(unreadable)} of {len(unreadable) + len(trajectories)} trajectories of step {self.global_steps} "
                f"had unreadable videos ({share:.0%}); expected at most "
                f"videomtr.video.max_unreadable_share={self.videomtr.video.max_unreadable_share}; "
                f"{_name_some(unreadable)}; mend the files, or check them with python -m data_prep.check"
            )
        if self.videomtr.dump.dir:
            self._dump(trajectories, Path(self.videomtr.dump.dir))

    def _dump(self, trajectories: Sequence[Trajectory], directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        kept = trajectories[: round(self.videomtr.dump.share * len(trajectories))]
        lines = [
            json.dumps({"step": self.global_steps, **trajectory.to_dict()}, ensure_ascii=False) + "\n"
            for trajectory in kept
        ]
        with open(directory / f"step_{self.global_steps:06d}.jsonl", "a", encoding="utf-8") as file:
            file.writelines(lines)

    def _validate(self) -> dict[str, float]:
        self._drain_unreadable()
        metrics = super()._validate()
        metrics["videomtr/val/unreadable_videos"] = float(len(self._drain_unreadable()))
        return metrics

    @staticmethod
    def _drain_unreadable() -> list[dict[str, Any]]:
        """Take the workers' reports of videos that could not be read since the last call."""
        reports = (tq.kv_list(UNREADABLE_PARTITION) or {}).get(UNREADABLE_PARTITION, {})
        if reports:
            tq.kv_clear(keys=list(reports), partition_id=UNREADABLE_PARTITION)
        return list(reports.values())

    def _save_checkpoint(self) -> None:
        # Before verl's own: it announces the checkpoint as complete at its end.
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{STATE_FILE}.tmp"
        beside.write_text(json.dumps({"bootstrap": self.bootstrap.state_dict()}), encoding="utf-8")
        os.replace(beside, folder / STATE_FILE)
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps == 0:
            return
        trainer = self.config.trainer
        folder = Path(trainer.default_local_dir) / f"global_step_{self.global_steps}"
        if trainer.resume_mode == "resume_path":
            folder = Path(trainer.resume_from_path)
        path = folder / STATE_FILE
        if not path.is_file():
            logger.warning("%s is missing: exploration bootstrapping starts anew at step %d", path, self.global_steps)
            return
        self.bootstrap.load_state_dict(json.loads(path.read_text(encoding="utf-8"))["bootstrap"])


def _name_some(unreadable: Sequence[dict[str, Any]], most: int = 3) -> str:
    return "; ".join(f"sample {report.get('sample_id')!r}: {report.get('error')}" for report in unreadable[:most])


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
