# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a vision tower reads, made from frames as bytes by the model's own image processor, on the frames' device.

A frame's pixels as float32 patches are eight times its bytes (four for the type, two where a patch spans two moments).
So a training row carries its frames, and the worker that trains makes the patches of each micro-batch where the model
is. The arithmetic is the processor's own: the same code on the same bytes, so that on a CPU the same bits come out.
Needs torch and transformers alone.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import TorchvisionBackend

PIXELS = "pixel_values"
_TRIAL_SEED = 0


class PatchesError(ValueError):
    """A processor's patches cannot be made from frames elsewhere; the message says why."""


class Patches:
    """One model's image processor, able to work on any device and to be sent as text.

    Args:
        image_processor: the model's; one that computes in torch.
        call: what it is called with beside the images: `data.mm_processor_kwargs`.
    Raises:
        PatchesError: it computes elsewhere, or another process cannot make it anew.
    """

    def __init__(self, image_processor: Any, call: Mapping[str, Any] | None = None) -> None:
        kind = type(image_processor)
        if not isinstance(image_processor, TorchvisionBackend):
            raise PatchesError(f"{kind.__name__} does not compute in torch; expected a processor of that backend")
        if kind.__module__.startswith("transformers_modules"):
            raise PatchesError(f"{kind.__name__} is code from a checkpoint, which other processes may not have loaded")
        self._processor = image_processor
        self._call = dict(call or {})

    def to_text(self) -> str:
        """Write down what `from_text` needs to make the same patches."""
        kind = type(self._processor)
        config = json.loads(self._processor.to_json_string())
        return json.dumps({"class": f"{kind.__module__}:{kind.__qualname__}", "config": config, "call": self._call})

    @staticmethod
    @functools.lru_cache(maxsize=8)
    def from_text(text: str) -> Patches:
        """Make it from what `to_text` wrote; once a process."""
        written = json.loads(text)
        module, name = written["class"].split(":")
        kind = getattr(importlib.import_module(module), name)
        return Patches(kind.from_dict(written["config"]), written["call"])

    def process(self, images: Sequence[Any], **more: Any) -> Mapping[str, Any]:
        """Process images of any kind as the processor does."""
        return self._processor(images=list(images), return_tensors="pt", **self._call, **more)

    def pixels(self, frames: Sequence[torch.Tensor], *, device: torch.device | str | int | None = None) -> torch.Tensor:
        """Make the `pixel_values` of frames.

        Args:
            frames: (height, width, 3) uint8 each, in the order of their tokens; sizes may differ.
            device: where to make them; None: where the frames are.
        Returns:
            What the processor returns for the frames as images, on that device.
        """
        moved: list[torch.Tensor] = []
        for _, same in groupby(frames, key=lambda frame: frame.shape):
            stack = torch.stack(list(same))  # one transfer for all frames of a size
            moved += (stack if device is None else stack.to(device)).permute(0, 3, 1, 2)
        made: torch.Tensor = self.process(moved, input_data_format="channels_first")[PIXELS]
        return made


def as_bytes(image: Image.Image) -> torch.Tensor:
    """Return an RGB image's pixels, (height, width, 3) uint8."""
    return torch.from_numpy(np.array(image))


def try_size(patches: Patches, width_px: int, height_px: int, *, names: frozenset[str]) -> dict[str, torch.Tensor]:
    """Compare what is made from frames of one size with what the processor makes of the same images, bit for bit.

    Args:
        names: what the model's forward pass takes.
    Returns:
        What the processor gives beside the pixels for one image of this size, such as its grid.
    Raises:
        PatchesError: they differ, or what stands beside the pixels follows from more than the size.
    """
    noise = np.random.default_rng(_TRIAL_SEED).integers(0, 256, (2, height_px, width_px, 3), np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    given = patches.process(images)
    made = Patches.from_text(patches.to_text()).pixels([as_bytes(image) for image in images])
    what = f"{type(patches._processor).__name__} with frames of {width_px} x {height_px} px"
    if not (made.dtype == given[PIXELS].dtype and torch.equal(made, given[PIXELS])):
        raise PatchesError(f"{what}: patches made from bytes differ from the processor's own")
    beside = {}
    for name in names & set(given) - {PIXELS}:
        first, second = given[name].chunk(2) if len(given[name]) % 2 == 0 else (given[name], None)
        if second is None or not torch.equal(first, second):
            raise PatchesError(f"{what}: {name} of two images of one size differs")
        beside[name] = first
    return beside
