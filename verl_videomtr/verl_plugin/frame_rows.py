# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Training rows that carry frames as bytes in place of patches: an agent loop's output in, a row's inputs out.

Which sizes of frames may go so is found by trying: see `patches.try_size`. Others go as float32 patches, with a
warning.
The worker that trains makes patches of what goes as bytes: see `device_patches`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from verl_videomtr.patches import Patches, PatchesError, as_bytes, try_size
from verl_videomtr.verl_plugin.row_inputs import forward_names, with_token_types
from verl_videomtr.verl_plugin.shared_frames import FRAMES, Lent

logger = logging.getLogger(__name__)

RECIPE = "videomtr_patches"
"""Of a row's inputs: how its frames become patches, as `Patches.from_text` reads it."""

GOES_ON = "such rows carry float32 patches, about eight times the bytes, as with videomtr.device_patches=false"
"""Said of rows that cannot carry frames."""


class FrameRows:
    """What one agent-loop worker knows of its model's image processor.

    Args:
        processor: the model's, with its `config` as verl's loader leaves it.
        image_token_id: the token that stands for image features.
        processor_kwargs: `data.mm_processor_kwargs`.
    """

    def __init__(
        self, processor: Any, *, image_token_id: int, processor_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.processor_kwargs = dict(processor_kwargs or {})
        self._image_token_id = image_token_id
        self._names = forward_names(type(processor.config))
        self._sizes: dict[tuple[int, int], dict[str, torch.Tensor] | None] = {}
        self._lock = threading.Lock()
        self._patches: Patches | None = None
        try:
            self._patches = Patches(processor.image_processor, self.processor_kwargs)
            self._recipe = self._patches.to_text()
        except (PatchesError, TypeError, ValueError) as error:
            self._patches = None
            logger.warning("patches are not made on the training device: %s; %s", error, GOES_ON)

    def frames_of(self, rows: Sequence[Sequence[Any]]) -> list[list[torch.Tensor] | None]:
        """Return the bytes of the images of a trajectory's rows; None for a row that has to go as patches.

        An image that several rows show is read once, and its bytes are one tensor. Takes milliseconds: not for an
        event loop.
        """
        known: dict[int, torch.Tensor] = {}
        frames: list[list[torch.Tensor] | None] = []
        for images in rows:
            if not all(self._takes(image) for image in images):
                frames.append(None)
                continue
            for image in images:
                if id(image) not in known:
                    known[id(image)] = as_bytes(image)
            frames.append([known[id(image)] for image in images])
        return frames

    def inputs(
        self,
        frames: Sequence[torch.Tensor],
        *,
        input_ids: torch.Tensor,
        stored: Sequence[torch.Tensor | Lent] | None = None,
    ) -> dict[str, Any]:
        """Make the inputs of one row.

        Args:
            frames: all of the row's, which `frames_of` gave.
            input_ids: (length,) or (1, length) ids of the row, padding included.
            stored: what the row holds of them, of `shared_frames.store_once`; None: all.
        """
        sizes = [self._sizes[frame.shape[1], frame.shape[0]] for frame in frames]
        beside = [size for size in sizes if size is not None]
        inputs: dict[str, Any] = {name: torch.cat([one[name] for one in beside]) for name in beside[0]}
        inputs[FRAMES] = list(frames if stored is None else stored)
        inputs[RECIPE] = self._recipe
        return with_token_types(inputs, input_ids=input_ids, image_token_id=self._image_token_id)

    def _takes(self, image: Any) -> bool:
        if self._patches is None or not isinstance(image, Image.Image) or image.mode != "RGB":
            return False
        with self._lock:
            if image.size not in self._sizes:
                try:
                    self._sizes[image.size] = try_size(self._patches, *image.size, names=self._names)
                except PatchesError as error:
                    self._sizes[image.size] = None
                    logger.warning("patches are not made on the training device: %s; %s", error, GOES_ON)
            return self._sizes[image.size] is not None
