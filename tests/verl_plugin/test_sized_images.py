# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The ids of a conversation are the same where no pixel is looked at, for every family, and pixels are not."""

from __future__ import annotations

import pytest
from family_models import FAMILIES

from tests.core.test_patches import noise
from verl_videomtr.verl_plugin.sized_images import without_pixels

pytest_plugins = ["plugin_setting"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]()


def _written(processor, images, **kwargs):
    content = [{"type": "text", "text": "look: "}]
    for number in range(len(images)):
        content += [{"type": "image"}, {"type": "text", "text": f" frame {number} "}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    return processor(text=[text], images=images or None, return_tensors="pt", **kwargs)


def test_ids_are_those_of_the_real_processor(family):
    px, sized = family.frame_px, without_pixels(family.processor)
    for sizes in ([(px, px)], [(px, px), (2 * px, px), (px, px)], [(px + 5, px), (3 * px, 2 * px - 1)], []):
        expected = _written(family.processor, noise(*sizes))
        made = _written(sized, noise(*sizes))
        assert made["input_ids"].tolist() == expected["input_ids"].tolist()
        for name in set(expected) - {"pixel_values"}:
            assert made[name].tolist() == expected[name].tolist()


def test_what_the_processor_is_called_with_counts():
    family = FAMILIES["qwen2_5_vl"]()
    sized, images = without_pixels(family.processor), noise((112, 112))
    small = {"images_kwargs": {"size": {"shortest_edge": 784, "longest_edge": 3136}}}
    for kwargs in ({}, small, {}):
        assert _written(sized, images, **kwargs)["input_ids"].tolist() == (
            _written(family.processor, images, **kwargs)["input_ids"].tolist()
        )
    assert len(_written(sized, images, **small)["input_ids"][0]) < len(_written(sized, images)["input_ids"][0])


def test_a_size_is_asked_for_once_and_the_real_processor_stays_as_it_was(family, monkeypatch):
    asked = []
    kind, px = type(family.processor.image_processor), family.frame_px
    preprocess = kind.preprocess
    monkeypatch.setattr(
        kind,
        "preprocess",
        lambda self, images, **kwargs: asked.append(len(images)) or preprocess(self, images, **kwargs),
    )
    sized = without_pixels(family.processor)
    for _ in range(3):
        _written(sized, noise((px, px), (2 * px, px), (px, px)))
    assert asked == [1, 1]
    assert _written(family.processor, noise((px, px)))["pixel_values"].abs().sum() > 0


def test_an_episode_looks_at_no_pixels_in_its_token_builder(setting, monkeypatch):
    from plugin_setting import LOOK
    from rollout_setting import ANSWER

    processed = []
    kind = type(setting.processor.image_processor)
    preprocess = kind.preprocess

    def counted(self, images, **kwargs):
        processed.append(len(images))
        return preprocess(self, images, **kwargs)

    monkeypatch.setattr(kind, "preprocess", counted)
    played = setting.play([LOOK, ANSWER])
    assert played.error is None
    assert sum(len(output.multi_modal_data["images"]) for output in played.outputs) > 4
    # One blank image for the builder, one for the writer of what the engine is sent: all frames have one size.
    assert processed == [1, 1]
