"""verl's trainers with the method's credit assignment and bootstrapping: `video_mtr_sync` and its asynchronous kin.

The mixin adds to verl's steps and replaces none: verl's own `_compute_advantage` runs, inside a context from which the
registered estimator reads the critic's values, the turns and the bonus.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import random
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
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

from verl_videomtr.bootstrapping import ExplorationBootstrap, count_batch
from verl_videomtr.settings import load_settings
from verl_videomtr.trajectory import Trajectory, summarize
from verl_videomtr.verl_plugin.agent_loop import FRAMES_FIELD, LOST_PARTITION, ROW_FIELD, TRAJECTORY_FIELD
from verl_videomtr.verl_plugin.checks import BONUS_ESTIMATOR, check_config
from verl_videomtr.verl_plugin.estimators import TrajectoryRow, batch_context, make_batch_context

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

STATE_FILE = "videomtr_state.json"
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
        self.bootstrap = ExplorationBootstrap(self.videomtr.bootstrap)
        self._frames_counted: dict[str, dict[str, float]] = {}
        self._frames_before = Counter[str]()
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
        multiples = [self._num_mini_batches(role) for role in self._trained_roles()]
        return dp_size * self.config.actor_rollout_ref.rollout.n * math.lcm(1, *multiples)

    def _trained_roles(self) -> list[Any]:
        """Find the configurations of the models that this step trains."""
        actor = self.config.actor_rollout_ref.actor
        trains_actor = self.config.trainer.critic_warmup <= self.global_steps
        return ([self.config.critic] if self.use_critic else []) + ([actor] if trains_actor else [])

    def _num_mini_batches(self, role: DictConfig) -> int:
        """How many optimizer steps the configuration asks for per batch and epoch, in trajectories as in rows."""
        if self.base_mode == "separate_async":  # there verl trains one mini-batch at a time
            return 1
        return max(1, self.config.data.train_batch_size // role.ppo_mini_batch_size)

    @contextlib.contextmanager
    def _mini_batches_of_rows(self, role: DictConfig, num_rows: int) -> Iterator[None]:
        """Let verl cut as many mini-batches from the rows as it would from their trajectories."""
        if not self.videomtr.episode.slides:
            yield
            return
        configured = role.ppo_mini_batch_size
        rows = num_rows // self._num_mini_batches(role)
        with open_dict(role):
            role.ppo_mini_batch_size = rows // self.config.actor_rollout_ref.rollout.n
        try:
            yield
        finally:
            role.ppo_mini_batch_size = configured

    def _update_critic(self, batch: Any, metrics: dict) -> Any:
        with self._mini_batches_of_rows(self.config.critic, len(batch)):
            return super()._update_critic(batch, metrics)

    def _update_actor(self, batch: Any, metrics: dict) -> Any:
        with self._mini_batches_of_rows(self.config.actor_rollout_ref.actor, len(batch)):
            return super()._update_actor(batch, metrics)

    def _compute_advantage(self, batch: Any, metrics: dict) -> Any:
        fields = ["extra_fields", "response_mask"] + (["values"] if self.use_critic else [])
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        extra_fields = data.pop("extra_fields").tolist()
        rows = self._real_rows(batch, extra_fields)
        trajectories = [row.trajectory for row in rows if row.number == 0]
        self._report(trajectories, metrics)
        self._report_frames([extra_fields[row.place][FRAMES_FIELD] for row in rows], metrics)
        if self.config.algorithm.adv_estimator != BONUS_ESTIMATOR:
            return super()._compute_advantage(batch, metrics)
        bonus = self._bootstrap(trajectories, metrics)
        padded = data.to_padded_tensor()
        context = make_batch_context(
            rows, keys=batch.keys, values=padded["values"].float(), bonus=bonus, credit=self.videomtr.credit
        )
        with batch_context(context):
            return super()._compute_advantage(batch, metrics)

    def _real_rows(self, batch: Any, extra_fields: Sequence[dict[str, Any]]) -> list[TrajectoryRow]:
        """Read the records of the batch's rows, those of padding left out."""
        rows = []
        for place, (tag, extra) in enumerate(zip(batch.tags, extra_fields, strict=True)):
            if tag.get("is_padding", False):
                continue
            if TRAJECTORY_FIELD not in extra:
                raise RuntimeError(
                    f"trainer.v1.trainer_mode=video_mtr_{self.base_mode} got trajectories of another agent loop than "
                    f"video_mtr; expected the plugin's; set trainer.v1.trainer_mode={self.base_mode}, or the rows' "
                    "agent_name to video_mtr"
                )
            trajectory = Trajectory.from_dict(extra[TRAJECTORY_FIELD])
            rows.append(TrajectoryRow(place=place, number=extra[ROW_FIELD], trajectory=trajectory))
        return rows

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
        """Log the step's metrics, stop where too many trajectories are lost, and write the others out."""
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
        if self.videomtr.dump.dir:
            self._dump(trajectories, Path(self.videomtr.dump.dir))
        metrics["videomtr/seconds/report"] = time.monotonic() - started

    def _report_frames(self, reports: Sequence[dict[str, Any]], metrics: dict) -> None:
        """Log what the workers' frame services did since the step before; each report counts from a worker's start."""
        for report in reports:
            latest = self._frames_counted.setdefault(report["worker"], {})
            for name, count in report["counted"].items():
                is_level = name.endswith("open_pools")
                latest[name] = count if is_level else max(count, latest.get(name, 0.0))
        now = Counter[str]()
        for latest in self._frames_counted.values():
            now.update(latest)
        for name, count in now.items():
            metrics[name] = count - (0.0 if name.endswith("open_pools") else self._frames_before[name])
        self._frames_before = now

    def _dump(self, trajectories: Sequence[Trajectory], directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # By chance, not the first ones: verl has sorted the batch by length.
        num_kept = round(self.videomtr.dump.share * len(trajectories))
        kept = random.Random(self.global_steps).sample(trajectories, num_kept)
        lines = [
            json.dumps({"step": self.global_steps, **trajectory.to_dict()}, ensure_ascii=False) + "\n"
            for trajectory in kept
        ]
        # A step that is trained again after a resumption replaces what it wrote before.
        mode = "w" if self.local_trigger_step == 0 else "a"
        with open(directory / f"step_{self.global_steps:06d}.jsonl", mode, encoding="utf-8") as file:
            file.writelines(lines)

    def _validate(self) -> dict[str, float]:
        before = len(self._drain_lost(keep=True))
        try:
            metrics = super()._validate()
        except ValueError as error:
            # verl asks TransferQueue for no keys at all where a validation batch has no trajectory.
            if len(self._drain_lost(keep=True)) > before:
                raise RuntimeError(self._say_all_lost("a validation batch")) from error
            raise
        metrics["videomtr/val/lost"] = float(len(self._drain_lost()) - before)
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
