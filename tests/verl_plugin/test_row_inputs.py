# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a row's images become for the forward pass, for any family; and what stands in where a row has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from family_models import FAMILIES
from PIL import Image
from transformers import AutoModelForImageTextToText
from verl.utils.tokenizer import get_processor_token_id

from verl_videomtr.verl_plugin import blank_image
from verl_videomtr.verl_plugin.row_inputs import TOKEN_TYPES, forward_names, image_inputs


def _row(family, num_images):
    """A message's ids and its images, of noise."""
    content = [{"type": "text", "text": "a"}] + [{"type": "image"}, {"type": "text", "text": "b"}] * num_images
    processor = family.processor
    text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    noise = np.random.default_rng(0).integers(0, 256, (num_images, family.frame_px, family.frame_px, 3), np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    made = processor(text=[text], images=images or None, return_tensors="pt", add_special_tokens=False)
    return made, images


@pytest.mark.parametrize("name", FAMILIES)
def test_row_inputs_are_what_the_processor_makes_of_the_whole_conversation(name):
    family = FAMILIES[name]()
    family.processor.config = family.config
    made, images = _row(family, 3)
    token_id = get_processor_token_id(family.processor, "image")
    # verl's workers hand over a row without a batch dimension.
    inputs = image_inputs(family.processor, images, input_ids=made["input_ids"][0], image_token_id=token_id)
    assert torch.equal(inputs["pixel_values"], made["pixel_values"])
    assert torch.equal(inputs[TOKEN_TYPES], (made["input_ids"] == token_id).long())
    assert set(inputs) - {"images_seqlens", TOKEN_TYPES} <= forward_names(type(family.config))
    needed = set(made) & forward_names(type(family.config)) - {"input_ids", "attention_mask", TOKEN_TYPES}
    assert needed <= set(inputs)


@pytest.mark.parametrize("name", ["gemma4", "internvl", "mistral3"])
def test_a_blank_image_reaches_every_parameter_and_changes_nothing(name, tmp_path, monkeypatch):
    family = FAMILIES[name]()
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(family.config).float()
    family.processor.save_pretrained(tmp_path)
    made, _ = _row(family, 0)
    with torch.no_grad():
        before = model(input_ids=made["input_ids"], attention_mask=made["attention_mask"]).logits
    monkeypatch.setattr(type(model), "forward", type(model).forward)  # put back afterwards
    blank_image.use_blank_image(model, str(tmp_path))
    logits = model(input_ids=made["input_ids"], attention_mask=made["attention_mask"]).logits
    assert torch.equal(logits, before)
    logits.sum().backward()
    unreached = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert unreached == []
    delattr(type(model), "_videomtr_blank_image")
