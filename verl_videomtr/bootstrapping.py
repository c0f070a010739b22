# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Exploration bootstrapping: how often a batch retrieved -> the bonus of its retrieval actions.

A base model that has never retrieved gets no gradient towards retrieving. So its retrieval actions are paid, whether
they help or not, until it retrieves on its own; then the pay stops for good. The bonus is not gated by the answer: it
must pay before answers are right. (arXiv 2508.20478v2, section 3.3.)
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Stage(str, enum.Enum):
    """Where the schedule stands; under the paper's rules it only moves forward."""

    COLD_START = "cold_start"
    """I: the policy hardly ever retrieves."""
    BOOTSTRAPPING = "bootstrapping"
    """II: it has retrieved, and is paid where it does so too seldom."""
    OFF = "off"
    """It retrieves by itself: never a bonus again."""


class RateOf(str, enum.Enum):
    """What the retrieval rate is a share of, hence what the caller counts."""

    TURNS = "turns"
    """Turns with a valid retrieval among all turns."""
    TRAJECTORIES = "trajectories"
    """Trajectories with at least two positive turn rewards among those with at least one (the released code)."""


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """The constants of the schedule; the defaults are the paper's."""

    enabled: bool = True
    """False: no bonus at all (the paper's ablation)."""
    max_turns: int = 3
    """K_max of the episodes; bounds the rate that can be reached."""
    cold_start_rate: float = 0.1
    """Stage I lasts until the rate reaches this."""
    cold_start_bonus: float = 1.0
    """Bonus of every retrieval action in stage I."""
    target_rate: float = 0.5
    """Below this rate stage II pays; see `threshold`."""
    bonus: float = 0.5
    """Bonus of every retrieval action in stage II, in a batch below the threshold."""
    patience: int = 5
    """N: unbroken run of batches at or above the threshold that ends the bonus for good."""
    rate_of: RateOf = RateOf.TURNS
    """What is counted. The cap of the threshold applies to turns alone: one turn of each trajectory must answer."""
    stateless: bool = False
    """True: decide every batch by its own rate, with no stages and no end (the released code)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate_of", RateOf(self.rate_of))
        if self.max_turns < 1 or self.patience < 1:
            raise ValueError(
                f"max_turns={self.max_turns}, patience={self.patience}; expected at least 1 each; videomtr.bootstrap"
            )
        if not 0 <= self.cold_start_rate <= self.target_rate <= 1:
            raise ValueError(
                f"cold_start_rate={self.cold_start_rate}, target_rate={self.target_rate}; "
                "expected 0 <= cold_start_rate <= target_rate <= 1; videomtr.bootstrap"
            )
        if not (0 <= self.bonus < float("inf") and 0 <= self.cold_start_bonus < float("inf")):
            raise ValueError(
                f"bonus={self.bonus}, cold_start_bonus={self.cold_start_bonus}; expected finite numbers from 0; "
                "videomtr.bootstrap"
            )

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> BootstrapConfig:
        """Make the config of "paper", or of "released_code" (rate over trajectories, no stages, no end)."""
        if name not in PRESETS:
            raise ValueError(f"preset={name!r}; expected one of {sorted(PRESETS)}; videomtr.bootstrap")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def threshold(self) -> float:
        """The rate at which stage II stops paying: target_rate, at most 3/4 of the highest rate there can be.

        An episode answers once, so at most (K_max - 1)/K_max of the turns can retrieve; at K_max = 2 that is the
        target itself, which no policy would hold, and the bonus would never end.
        """
        if self.rate_of is RateOf.TRAJECTORIES:
            return self.target_rate
        return min(self.target_rate, 0.75 * (self.max_turns - 1) / self.max_turns)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released_code": {"rate_of": RateOf.TRAJECTORIES, "stateless": True},
}
"""Departures of each preset from the defaults."""


def count_batch(
    rate_of: RateOf, *, num_retrievals: Sequence[int], turn_rewards: Sequence[Sequence[float]]
) -> tuple[int, int]:
    """Count what `ExplorationBootstrap.update` takes, for either definition of the rate.

    Args:
        rate_of: what the rate is a share of.
        num_retrievals: turns with a valid retrieval of each trajectory.
        turn_rewards: rewards of each trajectory's turns, after the gate and without any bonus.
    """
    if rate_of is RateOf.TURNS:
        return sum(num_retrievals), sum(len(rewards) for rewards in turn_rewards)
    num_positive = [sum(reward > 0 for reward in rewards) for rewards in turn_rewards]
    return sum(num > 1 for num in num_positive), sum(num > 0 for num in num_positive)


class ExplorationBootstrap:
    """The schedule of one training run. Call `update` once per training batch, in order."""

    def __init__(self, config: BootstrapConfig | None = None) -> None:
        self.config = config or BootstrapConfig()
        nothing_to_pay = not self.config.enabled or self.config.max_turns == 1
        self.stage = Stage.OFF if nothing_to_pay else Stage.COLD_START
        self.num_good_batches = 0
        """Length of the present unbroken run of batches at or above the threshold."""

    def update(self, num_retrievals: int, num_turns: int) -> float:
        """Decide the stage by this batch, then return the bonus of each of its retrieval actions.

        A batch without turns says nothing about the policy: no bonus, and the schedule stays as it is.

        Args:
            num_retrievals: turns of the batch with a valid retrieval.
            num_turns: all turns of the batch, invalid ones included; without padding rows and validation.
                Where `rate_of` is not turns, both are what `count_batch` gives.
        Raises:
            ValueError: the counts are negative, or there are more retrievals than turns.
        """
        if not 0 <= num_retrievals <= num_turns:
            raise ValueError(
                f"{num_retrievals=}, {num_turns=}; expected 0 <= num_retrievals <= num_turns; "
                "ExplorationBootstrap.update; count real training rows only"
            )
        if num_turns == 0 or self.stage is Stage.OFF:
            return 0.0
        config = self.config
        rate = num_retrievals / num_turns
        if self.stage is Stage.COLD_START and rate >= config.cold_start_rate:
            self.stage = Stage.BOOTSTRAPPING
        elif config.stateless:
            self.stage = Stage.COLD_START if rate < config.cold_start_rate else Stage.BOOTSTRAPPING
        if self.stage is Stage.COLD_START:
            return config.cold_start_bonus
        if rate < config.threshold:
            self.num_good_batches = 0
            return config.bonus
        self.num_good_batches += 1
        if self.num_good_batches >= config.patience and not config.stateless:
            self.stage = Stage.OFF
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """All that the schedule remembers, as plain JSON values."""
        return {"stage": self.stage.value, "num_good_batches": self.num_good_batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        A run that switches the bonus off in its config stays off, whatever was saved.

        Raises:
            ValueError: the state is not one that `state_dict` gave.
        """
        expected = {"stage", "num_good_batches"}
        run = state.get("num_good_batches")
        known_stage = state.get("stage") in [stage.value for stage in Stage]
        if set(state) != expected or not known_stage or not isinstance(run, int) or isinstance(run, bool) or run < 0:
            raise ValueError(
                f"bootstrap state {dict(state)!r}; expected {sorted(expected)} with a stage of "
                f"{[stage.value for stage in Stage]} and a count from 0; checkpoint; "
                "repair it or start the schedule again"
            )
        if self.config.enabled and self.config.max_turns > 1:
            self.stage = Stage(state["stage"])
        self.num_good_batches = run
