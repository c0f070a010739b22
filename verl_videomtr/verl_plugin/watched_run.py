# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A trainer with a watchdog: which processes it needs, what it is doing, and how it ends when it cannot go on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig
from ray.actor import ActorHandle
from ray.exceptions import RayError
from verl.trainer.ppo.v1 import PPOTrainer

from verl_videomtr.checkpoints import say_how_to_resume
from verl_videomtr.settings import Settings
from verl_videomtr.verl_plugin import store
from verl_videomtr.verl_plugin.processes import RayProcess
from verl_videomtr.watchdog import Watchdog

PHASES = {
    "_setup": "the start of models and servers",
    "on_init_end": "the first hand-over of weights",
    "prepare_step": "the hand-out of prompts",
    "_compute_old_log_prob": "the policy's log-probabilities",
    "_compute_ref_log_prob": "the reference's log-probabilities",
    "_compute_values": "the critic's values",
    "_compute_advantage": "advantages",
    "_update_critic": "the critic's update",
    "_update_actor": "the policy's update",
    "on_step_end": "the hand-over of weights",
    "_save_checkpoint": "the checkpoint",
    "on_sample_end": "the pause of the servers",
    "_validate": "validation",
}
"""verl's methods -> what the trainer does in them, for the message."""
_MOST_SAMPLES = 8


class WatchedRun(PPOTrainer):
    """Ends a run whose processes died, or that waits longer than `videomtr.stall_minutes` or `phase_minutes`."""

    videomtr: Settings

    def __init__(self, config: DictConfig) -> None:
        self.watchdog = Watchdog(
            stall_seconds=_seconds(self.videomtr.stall_minutes),
            phase_seconds=_seconds(self.videomtr.phase_minutes),
            find=self._find_processes,
            waiting=self._say_waiting,
            advice=lambda: say_how_to_resume(config.trainer.default_local_dir),
        )
        self._watched: dict[ActorHandle[Any], RayProcess] = {}
        self._episodes_ended = 0
        super().__init__(config)
        for name, phase in PHASES.items():
            setattr(self, name, self._in_phase(phase, getattr(self, name)))
        for name in ("sample", "wait_for_sampleable"):
            if hasattr(self.replay_buffer, name):
                waits = self._in_phase("the rollout", getattr(self.replay_buffer, name), of_episodes=True)
                setattr(self.replay_buffer, name, waits)

    def init(self) -> None:
        self.watchdog.start()
        with self.watchdog.guard(patience_seconds=_patience_seconds):
            super().init()

    def fit(self, agent_loop_manager: Any) -> None:
        self.watchdog.between_phases = "the bookkeeping between two parts of a step"
        self.watchdog.moved()
        if self.watchdog.stall_seconds is not None:
            agent_loop_manager.guard_trainer(self.watchdog.stall_seconds)
        with self.watchdog.guard(patience_seconds=_patience_seconds):
            super().fit(agent_loop_manager)
        agent_loop_manager.release_trainer()
        self.watchdog.stop()
        self._end_loaders()

    def _end_loaders(self) -> None:
        """End the loaders' processes: Ray would kill them under the trainer, and torch reports each as an error."""
        self.train_dataloader_it = None
        for loader in (self.train_dataloader, self.val_dataloader):
            loader._iterator = None

    def _in_phase(self, phase: str, method: Any, *, of_episodes: bool = False) -> Any:
        @functools.wraps(method)
        def named(*args: Any, **kwargs: Any) -> Any:
            with self.watchdog.during(phase, of_episodes=of_episodes):
                return method(*args, **kwargs)

        return named

    def _find_processes(self) -> list[RayProcess]:
        """List what the run needs by now; called from the watchdog's thread, while the trainer is still being built."""
        manager = getattr(self, "agent_loop_manager", None)
        loops = [] if manager is None else manager.processes
        if manager is not None and manager.num_ended != self._episodes_ended:
            self._episodes_ended = manager.num_ended
            self.watchdog.moved()
        found = [*loops]
        for name, actor in self._list_actors():
            if actor not in self._watched:
                self._watched[actor] = RayProcess(name, actor)
            found.append(self._watched[actor])
        return found

    def _list_actors(self) -> Iterator[tuple[str, ActorHandle[Any]]]:
        rewards = getattr(self, "reward_loop_manager", None)
        yield from _number("reward worker", getattr(rewards, "reward_loop_workers", ()))
        yield from _number("training worker", getattr(getattr(self, "actor_rollout_wg", None), "workers", ()))
        engine = self.config.actor_rollout_ref.rollout.name
        for owner, name in (("llm_server_manager", engine), ("standalone_server_manager", f"standalone {engine}")):
            servers = getattr(self, owner, None)
            for replica in getattr(servers, "rollout_replicas", ()):
                yield from _number(f"{name} server {replica.replica_rank}.", replica.servers)
            balancer = getattr(servers, "global_load_balancer", None)
            if balancer is not None:
                yield f"load balancer of the {name} servers", balancer
        yield from store.processes().items()

    def _say_waiting(self) -> str:
        manager = getattr(self, "agent_loop_manager", None)
        samples = [] if manager is None else manager.running_samples() or manager.ledger.open_samples()
        if not samples:
            return "no episode"
        shown = ", ".join(repr(sample) for sample in samples[:_MOST_SAMPLES])
        more = f" and {len(samples) - _MOST_SAMPLES} more" if len(samples) > _MOST_SAMPLES else ""
        return f"{len(samples)} episode{'s of samples' if len(samples) > 1 else ' of sample'} {shown}{more}"


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else 60.0 * minutes


def _number(name: str, actors: Any) -> Iterator[tuple[str, ActorHandle[Any]]]:
    for number, actor in enumerate(actors or ()):
        yield (f"{name}{number}" if name.endswith(".") else f"{name} {number}"), actor


def _patience_seconds(error: Exception) -> float:
    """Ray's own errors may come before the news of the death that caused them."""
    return 5.0 if isinstance(error, RayError) else 0.5
