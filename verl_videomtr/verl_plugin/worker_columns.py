# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What of a row goes to the workers that train: its tensors and its images, not its texts and records.

verl fetches every column of a batch for every call of a worker, and tensordict then walks those that are no tensors row
by row, each time that a micro-batch changes place. No engine reads them: the dataset's columns, the rewards' texts and
the trajectory's record stay in TransferQueue, where the trainer finds them. Frames that another row of the trajectory
holds are fetched with it (see `shared_frames`). Imported by the registration as soon as verl's bridge to TransferQueue
is.
"""

from __future__ import annotations

import sys
from typing import Any

import transfer_queue as tq
from tensordict import NonTensorData, TensorDict
from transfer_queue import KVBatchMeta
from verl.utils.transferqueue_utils import _async_meta_to_realdata as _fetch_stock
from verl.utils.transferqueue_utils import async_kv_batch_meta2batch_meta

from verl_videomtr.verl_plugin.shared_frames import lacks_frames, missing_rows, put_back

INPUTS = "multi_modal_inputs"
READ = frozenset({INPUTS})
"""Columns that engines read though they are no tensors."""


def read_columns(schema: dict[str, dict[str, Any]]) -> list[str]:
    """Name the columns that a worker needs, of TransferQueue's description of all."""
    return [name for name, about in schema.items() if name in READ or not about.get("is_non_tensor", False)]


async def fetch(meta: Any) -> TensorDict:
    """Fetch what a worker needs of a batch; takes and returns what verl's own function does."""
    if isinstance(meta, KVBatchMeta):
        meta = await async_kv_batch_meta2batch_meta(meta)
    if not meta.size:
        return await _fetch_stock(meta)
    meta = meta.select_fields(read_columns(meta.field_schema))
    data = await _fetch_stock(meta)
    if INPUTS in data:
        await _fetch_shared(_inputs_of(data), meta)
    return data


async def _fetch_shared(inputs: list[Any], meta: Any) -> None:
    """Give a batch's rows the frames that other rows hold, in this batch or in another worker's."""
    if not any(map(lacks_frames, inputs)):
        return
    client, partition = tq.get_client(), meta.partition_ids[0]
    rows = dict(zip(await client.async_kv_retrieve_keys(meta.global_indexes, partition), inputs, strict=True))
    others: dict[str, Any] = {}
    if missing := missing_rows(rows):
        found = await client.async_kv_retrieve_meta(keys=missing, partition_id=partition, create=False)
        if found.size:
            keys = await client.async_kv_retrieve_keys(found.global_indexes, partition)
            fetched = await _fetch_stock(found.select_fields([INPUTS]))
            others = dict(zip(keys, _inputs_of(fetched), strict=True))
    put_back(rows, others)


def _inputs_of(data: TensorDict) -> list[Any]:
    return [row.data if isinstance(row, NonTensorData) else row for row in data.get(INPUTS)]


# By its name: verl.utils may not have the attribute yet.
sys.modules["verl.utils.transferqueue_utils"]._async_meta_to_realdata = fetch  # type: ignore[attr-defined]
