# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Optimizer steps counted in trajectories where a trajectory has several rows.

verl cuts mini-batches of a fixed number of rows. Where the context slides a trajectory has several, so a batch would
take more optimizer steps than were configured. Here the rows, however many, are divided into as many mini-batches as
the trajectories would be: of 8 trajectories in mini-batches of 4, which have 20 rows, verl alone would make 5 steps;
with mini-batches of 10 rows it makes 2.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, open_dict


def num_mini_batches(config: DictConfig, role: DictConfig, *, base_mode: str) -> int:
    """How many optimizer steps the configuration asks for per batch and epoch, in trajectories as in rows.

    Args:
        role: the configuration of the actor or of the critic.
        base_mode: verl's name of the trainer mode.
    """
    if base_mode == "separate_async":  # there verl trains one mini-batch at a time
        return 1
    return max(1, config.data.train_batch_size // role.ppo_mini_batch_size)


def row_multiple(config: DictConfig, roles: Sequence[DictConfig], *, dp_size: int, base_mode: str) -> int:
    """What the number of rows must be a multiple of, so that each role's mini-batches are equal on every rank.

    Args:
        roles: the configurations of the models that the step trains.
        dp_size: data-parallel ranks.
    """
    numbers = [num_mini_batches(config, role, base_mode=base_mode) for role in roles]
    return dp_size * config.actor_rollout_ref.rollout.n * math.lcm(1, *numbers)


@contextlib.contextmanager
def mini_batches_of_rows(config: DictConfig, role: DictConfig, *, num_rows: int, base_mode: str) -> Iterator[None]:
    """Let verl cut as many mini-batches from the rows as it would from their trajectories."""
    configured: Any = role.ppo_mini_batch_size
    rows = num_rows // num_mini_batches(config, role, base_mode=base_mode)
    with open_dict(role):
        role.ppo_mini_batch_size = rows // config.actor_rollout_ref.rollout.n
    try:
        yield
    finally:
        role.ppo_mini_batch_size = configured
