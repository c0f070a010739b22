# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What verl's builder makes of an episode's messages is what the chat template says, whatever the template demands."""

from __future__ import annotations

import copy

import pytest
from family_models import FAMILIES
from PIL import Image
from verl.utils.tokenizer import get_processor_token_id
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from verl_videomtr.verl_plugin.image_tokens import ImageTokens
from verl_videomtr.verl_plugin.token_builder import fit_to_template
from verl_videomtr.verl_plugin.turn_end import read_turn_end


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]()


def _builder(family):
    return create_continuous_token_builder(
        family.processor.tokenizer, hf_model_type=family.config.model_type, processor=family.processor
    )


def _user(family, text):
    image = Image.new("RGB", (family.frame_px, family.frame_px))
    parts = [{"type": "text", "text": text}, {"type": "image", "image": image}, {"type": "text", "text": "?"}]
    return {"role": "user", "content": parts}


def test_two_turns_are_the_templates_own(family):
    builder, tokenizer = _builder(family), family.processor.tokenizer
    fit_to_template(builder)
    said = [{"role": "system", "content": "be brief"}, _user(family, "one")]
    ids = list(builder.build_initial_tokens(said, images=[said[1]["content"][1]["image"]]))
    ids += tokenizer.encode("seen", add_special_tokens=False)
    ids += read_turn_end(tokenizer, family.processor).closing_ids
    answered = [*said, {"role": "assistant", "content": "seen"}]
    whole = [*answered, _user(family, "two")]
    ids = list(builder.merge_context_tokens(answered, whole, ids).token_ids)

    text = family.processor.apply_chat_template(whole, tokenize=False, add_generation_prompt=True)
    reader = ImageTokens(family.processor, get_processor_token_id(family.processor, "image"))
    shown = reader.collapse(ids, [(family.frame_px, family.frame_px)] * 2)
    assert shown == tokenizer.encode(text, add_special_tokens=False)


def test_a_builder_whose_template_takes_any_order_keeps_its_way():
    family = FAMILIES["qwen2_5_vl"]()
    builder = _builder(family)
    before = copy.copy(vars(builder))
    fit_to_template(builder)
    assert {**before, "mm_processor_kwargs": {"add_special_tokens": False}} == vars(builder)
