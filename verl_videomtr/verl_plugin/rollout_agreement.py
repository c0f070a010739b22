# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the engine that samples and the actor that is trained read the same: a first step's metrics in, or an error.

Both compute the probability of every sampled token. Where they read different contexts (images expanded twice, other
pixels, other positions), the numbers differ from the first step on, nothing else shows it, and the run trains on what
the policy never saw.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

logger = logging.getLogger(__name__)

METRIC = "training/rollout_probs_diff_mean"
"""verl's mean difference of both probabilities over a batch's sampled tokens (verl/utils/debug/metrics.py)."""


class RolloutMismatchError(RuntimeError):
    """The inference engine and the actor disagree about the policy."""


class AgreementCheck:
    """Looks at the first training step of a process.

    Args:
        most: `videomtr.max_rollout_difference`; None checks nothing.
    """

    def __init__(self, most: float | None) -> None:
        self._most = most
        self._is_done = most is None

    def look(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Check a step's metrics, once.

        Raises:
            RolloutMismatchError: the mean difference is above the bound, or no number.
        """
        if self._is_done:
            return
        self._is_done = True
        difference = metrics.get(METRIC)
        if difference is None:
            logger.warning(
                "step %d has no %s, so nobody has checked that the inference engine and the actor read the same; set "
                "actor_rollout_ref.rollout.calculate_log_probs=true, and bypass_mode=false for a first step",
                step,
                METRIC,
            )
        elif not difference <= self._most:  # type: ignore[operator]
            shown = "not a number" if math.isnan(difference) else f"{difference:.3g}"
            raise RolloutMismatchError(
                f"step {step}: the inference engine and the actor give the sampled tokens probabilities that differ by "
                f"{shown} in the mean; expected at most videomtr.max_rollout_difference={self._most}; they read "
                "different contexts or hold different weights, and training on it would teach nothing: run `videomtr "
                "doctor` with the same overrides, compare data.mm_processor_kwargs with the engine's, and try "
                "actor_rollout_ref.rollout.dtype as the actor's; null switches this check off"
            )
