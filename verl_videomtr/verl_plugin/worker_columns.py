# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What of a row goes to the workers that train: its tensors and its images, not its texts and records.

verl fetches every column of a batch for every call of a worker, and tensordict then walks those that are no tensors row
by row, each time that a micro-batch changes place. No engine reads them: the dataset's columns, the rewards' texts and
the trajectory's record stay in TransferQueue, where the trainer finds them. Imported by the registration as soon as
verl's bridge to TransferQueue is.
"""

from __future__ import annotations

import sys
from typing import Any

from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.utils.transferqueue_utils import _async_meta_to_realdata as _fetch_stock
from verl.utils.transferqueue_utils import async_kv_batch_meta2batch_meta

READ = frozenset({"multi_modal_inputs"})
"""Columns that engines read though they are no tensors."""


def read_columns(schema: dict[str, dict[str, Any]]) -> list[str]:
    """Name the columns that a worker needs, of TransferQueue's description of all."""
    return [name for name, about in schema.items() if name in READ or not about.get("is_non_tensor", False)]


async def fetch(meta: Any) -> TensorDict:
    """Fetch what a worker needs of a batch; takes and returns what verl's own function does."""
    if isinstance(meta, KVBatchMeta):
        meta = await async_kv_batch_meta2batch_meta(meta)
    if meta.size:
        meta = meta.select_fields(read_columns(meta.field_schema))
    return await _fetch_stock(meta)


# By its name: verl.utils may not have the attribute yet.
sys.modules["verl.utils.transferqueue_utils"]._async_meta_to_realdata = fetch  # type: ignore[attr-defined]
