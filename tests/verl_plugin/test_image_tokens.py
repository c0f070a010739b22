# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What an engine is sent is what the chat template writes, for any family's processor and any size of frame."""

from __future__ import annotations

import pytest
from family_models import FAMILIES
from PIL import Image
from verl.utils.tokenizer import get_processor_token_id

from verl_videomtr.verl_plugin.image_tokens import ImageTokens, ImageTokensError


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]()


def _reader(family):
    return ImageTokens(family.processor, get_processor_token_id(family.processor, "image"))


def _rendered(family, sizes):
    """A conversation's text, and its ids before and after the processor has expanded the images."""
    content = [{"type": "text", "text": "look: "}]
    for number in range(len(sizes)):
        content += [{"type": "image"}, {"type": "text", "text": f" frame {number} "}]
    text = family.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    plain = family.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    images = [Image.new("RGB", size, "red") for size in sizes]
    made = family.processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False)
    return plain, made["input_ids"][0].tolist()


def test_collapsed_ids_are_the_templates_own(family):
    px = family.frame_px
    sizes = [(px, px), (2 * px, px), (px, px)]
    plain, expanded = _rendered(family, sizes)
    assert _reader(family).collapse(expanded, sizes) == plain


def test_an_image_that_is_not_there_is_an_error(family):
    px = family.frame_px
    _, expanded = _rendered(family, [(px, px)])
    with pytest.raises(ImageTokensError, match="image 1 of 2"):
        _reader(family).collapse(expanded, [(px, px)] * 2)


def test_an_image_too_many_is_an_error(family):
    px = family.frame_px
    _, expanded = _rendered(family, [(px, px)] * 2)
    with pytest.raises(ImageTokensError, match="image tokens beside those of its 1 images"):
        _reader(family).collapse(expanded, [(px, px)])


def test_text_that_looks_like_a_mark_stays(family):
    px = family.frame_px
    _, expanded = _rendered(family, [(px, px)])
    written = _reader(family).written(px, px)
    marks = [token for token in written.expanded if token not in written.short]
    assert _reader(family).collapse(marks + expanded, [(px, px)])[: len(marks)] == marks


def test_an_image_is_asked_for_once_a_size(family, monkeypatch):
    reader = _reader(family)
    px = family.frame_px
    first = reader.written(px, px)
    monkeypatch.setattr(type(family.processor), "__call__", None)
    assert reader.written(px, px) is first
    assert first.num_image_tokens == first.expanded.count(get_processor_token_id(family.processor, "image"))
