# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a training row's images become for the model's forward pass: images and the row's ids in, named tensors out.

verl decodes a row, drops its special tokens and sends the text through the processor once more. Processors that count
placeholders refuse that text, and the token types that it yields are those of the text without images, which a model
with two-way attention inside images takes without complaint. Here pixels come from the image processor alone and token
types from the row's own ids. (verl/experimental/agent_loop/agent_loop.py, `_compute_multi_modal_inputs`.)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, PretrainedConfig

TOKEN_TYPES = "mm_token_type_ids"
"""1 for image tokens, 0 for others: positions on several axes, and attention inside images, are made from it."""


def forward_names(config_class: type[PretrainedConfig]) -> frozenset[str]:
    """Name the arguments of a family's forward pass."""
    generation: Any = AutoModelForImageTextToText._model_mapping[config_class]
    return frozenset(inspect.signature(generation.forward).parameters)


def image_inputs(
    processor: Any,
    images: Sequence[Image.Image],
    *,
    input_ids: torch.Tensor,
    image_token_id: int,
    processor_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, torch.Tensor]:
    """Make the tensors of one row.

    Args:
        processor: the model's, with its `config` as verl's loader leaves it.
        images: the row's, in the order of their tokens; at least one.
        input_ids: (length,) or (1, length) ids of the row, padding included.
        image_token_id: the token that stands for image features.
        processor_kwargs: `data.mm_processor_kwargs`.
    Returns:
        What the image processor makes, as far as the model's forward pass takes it; `mm_token_type_ids` (1, length);
        and, where images have a grid, `images_seqlens`, which verl's own count of patches reads.
    """
    made = processor.image_processor(images=list(images), return_tensors="pt", **(processor_kwargs or {}))
    taken = forward_names(type(processor.config))
    inputs = {name: made[name] for name in made if name in taken}
    return with_token_types(inputs, input_ids=input_ids, image_token_id=image_token_id)


def with_token_types(inputs: dict[str, Any], *, input_ids: torch.Tensor, image_token_id: int) -> dict[str, Any]:
    """Add what follows from a row's ids and the grid of its images; arguments as those of `image_inputs`."""
    inputs[TOKEN_TYPES] = (input_ids == image_token_id).long().reshape(1, -1)
    grid = inputs.get("image_grid_thw")
    if grid is not None:
        inputs["images_seqlens"] = torch.repeat_interleave(grid[:, 1] * grid[:, 2], grid[:, 0])
    return inputs
