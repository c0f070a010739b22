# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Patches made from frames as bytes are the processor's own, bit for bit, for every family, size and setting."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import transformers
from family_models import FAMILIES
from PIL import Image

from verl_videomtr.patches import PIXELS, Patches, PatchesError, as_bytes, try_size


def noise(*sizes, seed=0):
    """Images of noise, (width, height) in pixels."""
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]


def made(processor, images, call=None, **kwargs):
    """What the worker that trains makes of the images' bytes, from the text that a row carries."""
    patches = Patches.from_text(Patches(processor, call).to_text())
    return patches.pixels([as_bytes(image) for image in images], **kwargs)


@pytest.mark.parametrize("name", FAMILIES)
def test_patches_are_the_processors_own_for_every_family(name):
    family = FAMILIES[name]()
    processor, px = family.processor.image_processor, family.frame_px
    images = noise((px, px), (2 * px, px), (2 * px, px), (px, px))
    given = processor(images=images, return_tensors="pt")[PIXELS]
    assert given.dtype == torch.float32
    assert torch.equal(made(processor, images), given)


@pytest.mark.parametrize("size", [(1, 1), (13, 200), (41, 29), (28, 28), (392, 224), (500, 700)])
def test_patches_are_equal_for_sizes_that_the_processor_changes(size):
    processor = transformers.Qwen2VLImageProcessor()
    images = noise(size)
    assert torch.equal(made(processor, images), processor(images=images, return_tensors="pt")[PIXELS])


@pytest.mark.parametrize(
    "config",
    [
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"patch_size": 16},
        {"temporal_patch_size": 1},
        {"size": {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}},
    ],
)
def test_a_processors_own_settings_travel_with_it(config):
    processor = transformers.Qwen2VLImageProcessor(**config)
    images = noise((64, 96), (112, 84))
    given = processor(images=images, return_tensors="pt")[PIXELS]
    assert made(processor, images).dtype == given.dtype
    assert torch.equal(made(processor, images), given)


def test_what_the_processor_is_called_with_travels_too():
    processor, call = transformers.Qwen2VLImageProcessor(), {"size": {"shortest_edge": 784, "longest_edge": 3136}}
    images = noise((112, 84))
    given = processor(images=images, return_tensors="pt", **call)[PIXELS]
    assert not torch.equal(given, processor(images=images, return_tensors="pt")[PIXELS])
    assert torch.equal(made(processor, images, call), given)


def test_frames_need_not_be_contiguous_nor_writable():
    processor = transformers.Qwen2VLImageProcessor()
    (image,) = noise((84, 56))
    given = processor(images=[image], return_tensors="pt")[PIXELS]
    turned = torch.from_numpy(np.array(image)).permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not turned.is_contiguous()
    with warnings.catch_warnings(action="ignore"):  # torch's, of what is tried here
        fixed = torch.frombuffer(np.array(image).tobytes(), dtype=torch.uint8).view(56, 84, 3)
    patches = Patches(processor)
    assert torch.equal(patches.pixels([turned]), given)
    assert torch.equal(patches.pixels([fixed]), given)


def test_patches_are_made_on_the_device_that_is_asked_for():
    processor = transformers.Qwen2VLImageProcessor()
    assert made(processor, noise((84, 56), (28, 56)), device="meta").device.type == "meta"


@pytest.mark.parametrize("name", FAMILIES)
def test_what_stands_beside_the_pixels_follows_from_the_size(name):
    family = FAMILIES[name]()
    processor, px = family.processor.image_processor, family.frame_px
    names = frozenset({PIXELS, "image_grid_thw", "image_position_ids"})
    sizes = [(px, px), (2 * px, px), (px, px)]
    given = processor(images=noise(*sizes), return_tensors="pt")
    tried = [try_size(Patches(processor), *size, names=names) for size in sizes]
    assert set(tried[0]) == names & set(given) - {PIXELS}
    for key in tried[0]:
        assert torch.equal(torch.cat([one[key] for one in tried]), given[key])


class OtherArithmetic(transformers.Qwen2VLImageProcessor):
    """A family whose pixels follow from how an image is given."""

    def process_image(self, image, **kwargs):
        return 255 - super().process_image(image, **kwargs) if isinstance(image, Image.Image) else image


class Counting(transformers.Qwen2VLImageProcessor):
    """A family whose grid follows from more than an image's size."""

    def _preprocess(self, images, **kwargs):
        features = super()._preprocess(images, **kwargs)
        features["image_grid_thw"][:, 0] = torch.arange(len(images))
        return features


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (OtherArithmetic(), "56 x 28 px: patches made from bytes differ from the processor's own"),
        (Counting(), "image_grid_thw of two images of one size differs"),
    ],
)
def test_a_processor_that_works_otherwise_is_found_out(processor, reason):
    with pytest.raises(PatchesError, match=reason):
        try_size(Patches(processor), 56, 28, names=frozenset({PIXELS, "image_grid_thw"}))


def test_a_processor_that_computes_in_numpy_is_refused():
    with pytest.raises(PatchesError, match="Qwen2VLImageProcessorPil does not compute in torch"):
        Patches(transformers.models.qwen2_vl.Qwen2VLImageProcessorPil())
