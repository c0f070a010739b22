# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""TransferQueue, in which verl keeps trajectories: the one module of the plugin that touches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import transfer_queue.interface as tq
from tensordict import TensorDict


def read_fields(batch: Any, names: Sequence[str]) -> TensorDict:
    """Read columns of a batch's rows.

    Args:
        batch: verl's `KVBatchMeta`.
    Returns:
        One entry per row, in the batch's order; tensors of different length are nested.
    """
    return tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(names))


def processes() -> dict[str, Any]:
    """Return the actors that keep trajectories: those that this process started, by name."""
    found = {} if tq._TQ_CONTROLLER is None else {"TransferQueue controller": tq._TQ_CONTROLLER}
    units = (tq._TQ_STORAGE or {}).get("SimpleStorage") or {}
    return found | {f"TransferQueue storage unit {number}": unit for number, unit in enumerate(units.values())}
