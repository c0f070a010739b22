# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A blank image for micro-batches that hold none, so that every parameter takes part in every backward pass.

Padding rows hold no image. With several ranks, FSDP waits for a parameter that one rank does not use. verl's own
forward passes run the vision tower on zeros there; transformers' own, which verl uses for all other families, do not.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor

from verl_videomtr.verl_plugin.row_inputs import TOKEN_TYPES, forward_names

_SIDE_PX = 56
_DONE = "_videomtr_blank_image"


def use_blank_image(model: Any, model_path: str) -> None:
    """Let a model look at a blank image, times zero, wherever it is given none; once a class.

    Args:
        model: any image-text-to-text model of transformers, or a value model made from one.
        model_path: the checkpoint, whose image processor makes the blank image.
    """
    family = type(model)
    if getattr(family, _DONE, False):
        return
    setattr(family, _DONE, True)
    with_images = family.forward
    image_processor = AutoProcessor.from_pretrained(model_path).image_processor
    made = image_processor(images=[Image.new("RGB", (_SIDE_PX, _SIDE_PX))], return_tensors="pt")
    names = forward_names(type(model.config))
    blank = {name: made[name] for name in made if name in names}

    def forward(self: Any, input_ids: Any = None, *args: Any, pixel_values: Any = None, **kwargs: Any) -> Any:
        if pixel_values is not None or input_ids is None:
            return with_images(self, input_ids, *args, pixel_values=pixel_values, **kwargs)
        embeds = self.get_input_embeddings()(input_ids)
        moved = {
            name: value.to(embeds.device, embeds.dtype if value.is_floating_point() else value.dtype)
            for name, value in blank.items()
        }
        features = self.base_model.get_image_features(**moved)
        features = getattr(features, "pooler_output", features)
        if not isinstance(features, torch.Tensor):
            features = torch.cat(list(features))
        kwargs.pop(TOKEN_TYPES, None)
        return with_images(self, None, *args, inputs_embeds=embeds + 0.0 * features.mean(), **kwargs)

    family.forward = forward
