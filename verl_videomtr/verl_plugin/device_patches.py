# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Patches made where the model is, from the frames that rows carry, where each micro-batch's pixels pass.

verl's engines call `verl.utils.model.extract_multi_modal_inputs` for each micro-batch. Imported by the registration as
soon as that module is, before an engine takes the function from it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NonTensorData
from verl.utils.device import get_device_id
from verl.utils.model import extract_multi_modal_inputs as _extract_stock

from verl_videomtr.patches import PIXELS, Patches
from verl_videomtr.verl_plugin.frame_rows import RECIPE
from verl_videomtr.verl_plugin.shared_frames import FRAMES


def extract_multi_modal_inputs(
    batch_data: Sequence[Any], indices: Sequence[int] | None = None
) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """Collect the inputs of a micro-batch's rows as verl does, with patches in place of frames.

    Args:
        batch_data: the rows' inputs, as dictionaries or wrapped ones; a row without images has none.
        indices: rows to take; None takes all.
    """
    taken = batch_data if indices is None else [batch_data[i] for i in indices if i < len(batch_data)]
    rows = [row.data if isinstance(row, NonTensorData) else row for row in taken]
    if any(row and FRAMES in row for row in rows):
        rows = [_with_patches(row) if row else row for row in rows]
    return _extract_stock(rows)


def _with_patches(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row's inputs with its patches on the model's device, however it carries its pixels."""
    row = dict(row)
    device = get_device_id()
    if FRAMES in row:
        row[PIXELS] = Patches.from_text(row.pop(RECIPE)).pixels(row.pop(FRAMES), device=device)
    elif PIXELS in row:
        row[PIXELS] = row[PIXELS].to(device)
    return row


# By its name: verl.utils may not have the attribute yet.
sys.modules["verl.utils.model"].extract_multi_modal_inputs = extract_multi_modal_inputs  # type: ignore[attr-defined]
