# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A fault of TransferQueue 0.1.x that crashes a batch whose rows have one length, fixed where the tensors are packed.

Position ids of a multimodal row are (4, length). Packed with torch.nested.as_nested_tensor, rows of different lengths
become ragged in the last dimension, but rows of one length become ragged in the first, and verl's micro-batching and
`.values()` then read them wrongly ("split_with_sizes expects ..."). It happens when every policy answers at once.
"""

from __future__ import annotations

from typing import Any

import torch
from transfer_queue.storage.managers.simple_storage_manager import AsyncSimpleStorageManager
from transfer_queue.utils.serial_utils import MsgpackDecoder

_pack_stock = AsyncSimpleStorageManager._pack_field_values


def _ragged_in_last_dimension(rows: list[torch.Tensor]) -> torch.Tensor:
    from verl.utils.tensordict_utils import nested_tensor_from_tensor_list

    return nested_tensor_from_tensor_list(rows)


def _is_rope_rows_of_one_length(rows: list[Any]) -> bool:
    """Whether these are multimodal position ids: row 0 counts the tokens, as verl's agent loop makes it."""
    first = rows[0] if rows else None
    return (
        isinstance(first, torch.Tensor)
        and first.dim() == 2
        and first.dtype == torch.int64
        and all(isinstance(row, torch.Tensor) and row.shape == first.shape for row in rows)
        and all(torch.equal(row[0], torch.arange(row.shape[1])) for row in rows)
    )


def _pack_field_values(values: list[Any]) -> Any:
    return _ragged_in_last_dimension(values) if _is_rope_rows_of_one_length(values) else _pack_stock(values)


AsyncSimpleStorageManager._pack_field_values = staticmethod(_pack_field_values)

_decode_stock = MsgpackDecoder._decode_nested_tensor


def _decode_nested_tensor(self: Any, nested_meta: dict[str, Any]) -> torch.Tensor:
    rows = [self._decode_tensor(meta) for meta in nested_meta["tensors"]]
    return _ragged_in_last_dimension(rows) if _is_rope_rows_of_one_length(rows) else _decode_stock(self, nested_meta)


MsgpackDecoder._decode_nested_tensor = _decode_nested_tensor
