# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The exploration bonus of a training run: a batch's trajectories in, bonus and metrics out; kept in checkpoints."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from verl_videomtr.bootstrapping import BootstrapConfig, ExplorationBootstrap, count_batch
from verl_videomtr.trajectory import Trajectory

logger = logging.getLogger(__name__)

STATE_FILE = "videomtr_state.json"
"""In a checkpoint's folder."""


class Schedule:
    """The schedule of bonuses, and where it is kept."""

    def __init__(self, config: BootstrapConfig) -> None:
        self.bootstrap = ExplorationBootstrap(config)

    def next_bonus(self, trajectories: Sequence[Trajectory], metrics: dict[str, float]) -> float:
        """Count the batch, move the schedule on, log where it stands, and return the bonus of every retrieval."""
        counted = count_batch(
            self.bootstrap.config.rate_of,
            num_retrievals=[trajectory.num_retrievals for trajectory in trajectories],
            turn_rewards=[trajectory.turn_rewards for trajectory in trajectories],
        )
        bonus = self.bootstrap.update(*counted)
        stage = self.bootstrap.stage
        metrics["videomtr/bootstrap/bonus"] = bonus
        metrics["videomtr/bootstrap/stage"] = float(list(type(stage)).index(stage))
        metrics["videomtr/bootstrap/good_batches"] = float(self.bootstrap.num_good_batches)
        return bonus

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint's folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{STATE_FILE}.tmp"
        beside.write_text(json.dumps({"bootstrap": self.bootstrap.state_dict()}), encoding="utf-8")
        os.replace(beside, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint's state; one without it is logged, and the schedule starts again."""
        path = folder / STATE_FILE
        if not path.is_file():
            logger.warning("%s is missing: exploration bootstrapping starts again", path)
            return
        self.bootstrap.load_state_dict(json.loads(path.read_text(encoding="utf-8"))["bootstrap"])
