# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A processor that writes images in tokens without looking at their pixels: their number follows from the size.

verl's token builder sends text and images through the model's processor and keeps the ids alone. With this in the
processor's place, the image processor is asked once for each size, with a blank image; any family's code then writes
the ids as ever.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature

from verl_videomtr.patches import PIXELS


def without_pixels(processor: Any) -> Any:
    """Return a copy of a processor whose `image_processor` reads sizes only."""
    made = copy.copy(processor)
    made.image_processor = SizedImages(processor.image_processor)
    return made


class SizedImages:
    """An image processor's answers by size: all but the pixels, which have their number of rows and nothing in them."""

    def __init__(self, image_processor: Any) -> None:
        self._processor = image_processor
        self._known: dict[tuple[Any, ...], Mapping[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by copy and pickle before there is anything
            raise AttributeError(name)
        return getattr(self._processor, name)

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        flat = _flat(images)
        if not flat or not all(isinstance(image, Image.Image) for image in flat):
            return self._processor(images=images, **kwargs)
        answers = [self._of(image.size, kwargs) for image in flat]
        return BatchFeature({name: _joined([answer[name] for answer in answers]) for name in answers[0]})

    def _of(self, size: tuple[int, int], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        key = (size, repr(sorted(kwargs.items())))
        if key not in self._known:
            made = dict(self._processor(images=[Image.new("RGB", size)], **kwargs))
            if PIXELS in made:
                made[PIXELS] = made[PIXELS][..., :0] if hasattr(made[PIXELS], "shape") else [()] * len(made[PIXELS])
            self._known[key] = made
        return self._known[key]


def _flat(images: Any) -> list[Any]:
    if isinstance(images, (list, tuple)):
        return [image for part in images for image in _flat(part)]
    return [images]


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], torch.Tensor):
        if any(part.shape[1:] != parts[0].shape[1:] for part in parts):  # pixels that keep an image's shape
            parts = [part.flatten(1) for part in parts]
        return torch.cat(parts)
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [item for part in parts for item in part]
