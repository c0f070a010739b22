# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Frames for teaching: every picture of the task as it comes out of real mp4 files, through the real processor.

    layouts -> mp4 files -> FramePool -> Qwen2VLImageProcessor -> pixel_values by (colour, shape)

There are few distinct pictures, so they are decoded once. Compression makes several variants of each.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessor

from data_prep.synthetic import COLOURS, FRAME_RATES, SHAPES, NeedleConfig, make_layout, write_video
from verl_videomtr.video.pool import PoolConfig, open_pool

PictureKey = tuple[str, str | None]
"""(scene colour, shape on the sign or None)."""


@dataclass(frozen=True, kw_only=True)
class PictureBook:
    """All pictures of the task, each in several variants, as the vision encoder takes them."""

    keys: tuple[PictureKey, ...]
    pixel_values: torch.Tensor
    """(num_keys, num_variants, 4, 1176) float32: the four patches of one visual token."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {key: i for i, key in enumerate(self.keys)})

    @property
    def num_variants(self) -> int:
        return self.pixel_values.shape[1]


def make_picture_book(
    config: NeedleConfig, image_processor: Qwen2VLImageProcessor, *, seed: int, num_variants: int = 4
) -> PictureBook:
    """Encode videos until every picture of the task has appeared `num_variants` times, and read them back."""
    keys = tuple((colour, shape) for colour in list(COLOURS)[: config.num_scenes] for shape in (None, *SHAPES))
    found: dict[PictureKey, list[np.ndarray]] = {key: [] for key in keys}
    pool_config = PoolConfig(num_frames=config.pool_size, size=(config.size_px, config.size_px))
    video_idx = 0
    with tempfile.TemporaryDirectory() as folder:
        while min(map(len, found.values())) < num_variants:
            rng = random.Random(f"{seed}/pictures/{video_idx}")
            layout, path = make_layout(config, rng), Path(folder) / f"{video_idx}.mp4"
            write_video(path, layout, rate=rng.choice(FRAME_RATES), size_px=config.size_px)
            frames = open_pool(path, pool_config).read(range(config.pool_size))
            for key in dict.fromkeys(layout.pictures):
                found[key].append(frames[layout.pictures.index(key)])
            video_idx += 1
    images = [Image.fromarray(frame) for key in keys for frame in found[key][:num_variants]]
    processed = image_processor(images=images, return_tensors="pt")
    if not (processed["image_grid_thw"] == torch.tensor([1, 2, 2])).all():
        raise ValueError(
            f"size_px={config.size_px} makes patches {processed['image_grid_thw'][0].tolist()}; expected [1, 2, 2]: "
            "the tiny model is taught on frames of one visual token; use size_px=28"
        )
    return PictureBook(
        keys=keys, pixel_values=processed["pixel_values"].view(len(keys), num_variants, 4, -1).contiguous()
    )
