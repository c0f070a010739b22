# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A trainer that counts what is lost: in every mode, in training and in validation, whoever lost it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from verl_videomtr.losses import Ledger, Losses, Partition, name_some
from verl_videomtr.verl_plugin.watched_run import WatchedRun

if TYPE_CHECKING:
    from verl_videomtr.verl_plugin.loop_workers import LoopManager

logger = logging.getLogger(__name__)

MANAGER_CLASS = "verl_videomtr.verl_plugin.loop_workers.LoopManager"
"""By name: whichever of that module and this is imported first, verl's package imports the other."""


class CountedRun(WatchedRun):
    """Counts at each look of verl's replay buffer, which is where prompts end in all trainer modes."""

    agent_loop_manager: LoopManager

    def _build_replay_buffer(self) -> Any:
        replay_buffer: Any = super()._build_replay_buffer()
        look = getattr(replay_buffer, "_sync_metadata_from_transfer_queue", None)
        if look is None:
            raise ValueError(
                f"trainer.v1.sampler.custom_sampler={type(replay_buffer).__name__} is none of verl's replay buffers, "
                "so what is lost would not be counted; expected a class that inherits "
                "verl.trainer.ppo.v1.replay_buffer.ReplayBuffer or ReplayBufferAsync; set it, or verl's own (null)"
            )

        def look_and_count() -> None:
            look()
            self._count(replay_buffer)

        replay_buffer._sync_metadata_from_transfer_queue = look_and_count
        return replay_buffer

    def fit(self, agent_loop_manager: Any) -> None:
        if not hasattr(agent_loop_manager, "ledger"):
            raise ValueError(
                f"agent_loop_manager_class={type(agent_loop_manager).__name__} counts no lost trajectories; expected "
                f"the plugin's or a class made of it; set actor_rollout_ref.rollout.agent.agent_loop_manager_class="
                f"{MANAGER_CLASS}"
            )
        super().fit(agent_loop_manager)

    @property
    def ledger(self) -> Ledger:
        """What is out and what was lost."""
        return self.agent_loop_manager.ledger

    def _count(self, replay_buffer: Any) -> None:
        """Count the prompts that have ended, and end a run that loses too much."""
        if not hasattr(self, "agent_loop_manager"):
            return
        for partition in ("train", "val"):
            ended = replay_buffer.finished_keys[partition] | replay_buffer.failure_keys[partition]
            if ended and self.ledger.settle(partition, ended, replay_buffer.partitions[partition]):
                self.watchdog.moved()
        if (judged := self.ledger.too_many()) is not None:
            self._take("train")
            raise RuntimeError(self.ledger.say_too_many(*judged))

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> Any:
        batch = super().step(metrics, timing_raw)
        # Behind verl's aggregation of a step's updates, which averages what is not named as a sum.
        losses = self._take("train")
        metrics["videomtr/episode/lost"] = float(losses.num_lost)
        metrics["videomtr/video/unreadable"] = float(losses.count("unreadable"))
        metrics["videomtr/episode/failed"] = float(losses.count("failed"))
        return batch

    def _step_once(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._step_once(*args, **kwargs)
        except RuntimeError as error:
            # verl's own text advises a refill of failed groups, which does not help where every one fails.
            if "no materializable trajectories" in str(error):
                raise RuntimeError(self._say_all_lost(f"step {self.global_steps}", self._take("train"))) from error
            raise

    def _balance_batch(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if not batch.keys:
            raise RuntimeError(self._say_all_lost(f"step {self.global_steps}", self._take("train")))
        return super()._balance_batch(batch, *args, **kwargs)

    def _validate(self) -> dict[str, float]:
        self.ledger.take("val")
        try:
            metrics = super()._validate()
        except ValueError as error:
            # verl asks TransferQueue for no keys at all where a validation batch has no trajectory.
            losses = self._take("val")
            if losses.num_lost:
                raise RuntimeError(self._say_all_lost("a validation batch", losses)) from error
            raise
        losses = self._take("val")
        metrics["videomtr/val/lost"] = float(losses.num_lost)
        if losses.num_lost:
            logger.warning(
                "validation at step %d lost %d of %d trajectories, which verl counts as wrong answers; %s",
                self.global_steps,
                losses.num_lost,
                losses.num_asked,
                name_some(losses.reports, losses.num_lost),
            )
        return metrics

    def on_lost(self, partition: Partition, losses: Losses) -> None:
        """Called with what was lost since the call before, where anything was: once a step, once a validation."""

    def _take(self, partition: Partition) -> Losses:
        self.agent_loop_manager.pull()
        losses = self.ledger.take(partition)
        if losses.num_lost or losses.reports:
            self.on_lost(partition, losses)
        return losses

    @staticmethod
    def _say_all_lost(where: str, losses: Losses) -> str:
        return (
            f"{where} has no trajectory at all: {losses.num_lost} of {losses.num_asked} were lost; expected at least "
            f"one; {name_some(losses.reports, losses.num_lost)}; the agent-loop workers logged each; check "
            "videomtr.video.root and the reward function"
        )
