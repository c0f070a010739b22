# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A vision tower that attends to its windows packed: the same numbers as window by window, and only where it may."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from benchmarks.first_light.models import Update, make_inputs
from benchmarks.first_light.shapes import TINY, model_config
from verl_videomtr.vision_attention import NAME, pack_vision_tower

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.fixture(params=DEVICES)
def tower_and_inputs(request):
    torch.manual_seed(0)
    dtype = torch.float32 if request.param == "cpu" else torch.bfloat16
    model = AutoModelForImageTextToText.from_config(model_config(TINY), dtype=dtype, attn_implementation="sdpa")
    inputs, _ = make_inputs(Update(TINY, "actor", 4, "padded", "sdpa", vision="sdpa"), request.param)
    return model.to(request.param), inputs["pixel_values"].to(dtype), inputs["image_grid_thw"]


def forward_and_gradient(model, pixels, grid):
    model.zero_grad()
    features = model.model.visual(pixels, grid_thw=grid).pooler_output
    features.float().square().mean().backward()
    return features.detach().float(), model.model.visual.blocks[0].attn.qkv.weight.grad.clone().float()


def test_packed_gives_what_the_loop_gives(tower_and_inputs):
    model, pixels, grid = tower_and_inputs
    expected = forward_and_gradient(model, pixels, grid)
    assert pack_vision_tower(model)
    assert model.model.visual.config._attn_implementation == NAME
    assert model.model.language_model.config._attn_implementation == "sdpa"
    bound = 1e-5 if pixels.dtype == torch.float32 else 0.05
    for packed, looped in zip(forward_and_gradient(model, pixels, grid), expected, strict=True):
        torch.testing.assert_close(packed, looped, rtol=bound, atol=bound * float(looped.abs().max()))


def test_windows_do_not_see_each_other(tower_and_inputs):
    model, pixels, grid = tower_and_inputs
    assert pack_vision_tower(model)
    before = model.model.visual(pixels, grid_thw=grid).pooler_output
    changed = pixels.clone()
    changed[-int(grid[-1].prod()) :] += 1
    after = model.model.visual(changed, grid_thw=grid).pooler_output
    tokens = int(grid[-1].prod()) // 4
    torch.testing.assert_close(before[:-tokens], after[:-tokens], rtol=0, atol=1e-6)
    assert (before[-tokens:] - after[-tokens:]).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2"])
def test_another_attention_is_left_alone(attention):
    model = AutoModelForImageTextToText.from_config(model_config(TINY), attn_implementation="sdpa")
    model.config.vision_config._attn_implementation = attention
    assert not pack_vision_tower(model)
    assert model.config.vision_config._attn_implementation == attention


def test_a_tower_without_packed_sequences_is_left_alone():
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 8, "intermediate_size": 16, "vocab_size": 300,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = Gemma3ForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    assert not pack_vision_tower(model)
