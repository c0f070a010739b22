# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Parameter counts, grids and cache sizes, held against real models, their processors and vLLM's cache formula."""

from __future__ import annotations

import json

import pytest
import torch
from family_models import FAMILIES
from transformers import AutoConfig, AutoModelForImageTextToText
from verl.utils.tokenizer import get_processor_token_id

from verl_videomtr.model_shapes import KNOWN_CONFIGS, ModelShape, find_grid, find_shape, read_grid
from verl_videomtr.verl_plugin.image_tokens import ImageTokens
from verl_videomtr.verl_plugin.value_heads import value_class


def transformers_model(config):
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def full_config(known):
    """A whole transformers config of the known sizes."""
    text, vision = dict(known["text_config"]), dict(known["vision_config"])
    return AutoConfig.for_model(
        known["model_type"], text_config=text, vision_config=vision, tie_word_embeddings=known["tie_word_embeddings"]
    )


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # The authors' log has 8.29 for this actor and 7.75 for its critic; the others are as their model cards round.
        ("Qwen2.5-VL-7B-Instruct", 8.29),
        ("Qwen2.5-VL-3B-Instruct", 3.75),
        ("Qwen3-VL-4B-Instruct", 4.44),
        ("Qwen3-VL-8B-Instruct", 8.77),
    ],
)
def test_known_models_are_as_large_as_their_cards_say(name, billions):
    assert ModelShape.from_config(KNOWN_CONFIGS[name]).num_params / 1e9 == pytest.approx(billions, abs=0.005)


@pytest.mark.parametrize("name", FAMILIES)
def test_any_family_is_counted_as_its_weights_are(name):
    config = FAMILIES[name]().config
    shape = ModelShape.from_config(json.loads(config.to_json_string()))
    model = AutoModelForImageTextToText.from_config(config)
    assert shape.num_params == count(model)
    assert shape.num_language_params == count(model.get_decoder())
    value, _ = value_class(type(config))
    config.num_labels = 1
    assert shape.num_value_params == count(value(config))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_grid_is_what_the_processor_makes_of_a_frame(name):
    family = FAMILIES[name]()
    patch_px, merge = read_grid(json.loads(family.config.to_json_string()))
    px = family.frame_px
    reader = ImageTokens(family.processor, get_processor_token_id(family.processor, "image"))
    assert reader.written(px, px).num_image_tokens == (px // (patch_px * merge)) ** 2


def test_what_does_not_hold_for_a_family_is_said():
    def doubts(name):
        return ModelShape.from_config(json.loads(FAMILIES[name]().config.to_json_string())).doubts

    assert doubts("qwen2_5_vl") == doubts("internvl") == ()
    assert "every expert" in doubts("qwen3_vl_moe")[0]
    assert "sliding_attention" in doubts("gemma4")[0]


def test_a_config_without_patches_has_no_grid():
    assert read_grid({"model_type": "bert"}) is None
    assert read_grid({"vision_config": {"patch_size": [16, 16]}, "spatial_merge_size": 4}) == (16, 4)


def test_the_grid_of_a_model_that_is_not_here_is_the_papers(tmp_path):
    assert find_grid("/no/such/model") == (14, 2)
    assert find_grid("Qwen/Qwen3-VL-4B-Instruct") == (16, 2)
    FAMILIES["gemma4"]().config.save_pretrained(tmp_path)
    assert find_grid(str(tmp_path)) == (16, 3)


def test_the_critic_of_7b_is_as_large_as_in_the_authors_log():
    shape = ModelShape.from_config(KNOWN_CONFIGS["Qwen2.5-VL-7B-Instruct"])
    assert shape.num_value_params / 1e9 == pytest.approx(7.75, abs=0.005)


def test_the_saved_config_and_the_flat_one_of_older_checkpoints_agree(tmp_path):
    known = KNOWN_CONFIGS["Qwen2.5-VL-7B-Instruct"]
    full_config(known).save_pretrained(tmp_path)
    saved, where = find_shape(str(tmp_path))
    assert where == str(tmp_path / "config.json")
    flat = dict(known["text_config"])
    flat |= {"model_type": "qwen2_5_vl", "vision_config": known["vision_config"], "tie_word_embeddings": False}
    assert saved == ModelShape.from_config(flat) == find_shape("Qwen/Qwen2.5-VL-7B-Instruct")[0]


def test_adapters_are_those_that_peft_makes():
    peft = pytest.importorskip("peft")
    config = full_config(KNOWN_CONFIGS["Qwen2.5-VL-3B-Instruct"])
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = config.text_config.layer_types[:2]
    model = transformers_model(config)
    lora = peft.LoraConfig(r=8, target_modules="all-linear", exclude_modules=".*visual.*", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, lora)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert ModelShape.from_config(json.loads(config.to_json_string())).num_lora_params(8) == trained


def test_cache_bytes_are_vllms():
    interface = pytest.importorskip("vllm.v1.kv_cache_interface")
    shape = ModelShape.from_config(KNOWN_CONFIGS["Qwen2.5-VL-7B-Instruct"])
    spec = interface.FullAttentionSpec(
        block_size=16, num_kv_heads=shape.kv_heads, head_size=shape.head_dim, dtype=torch.bfloat16
    )
    assert shape.kv_bytes_per_token() * 16 == shape.layers * spec.page_size_bytes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, r"model_type='llama' of config\.json; expected a model of transformers that gen"),
        ({"model_type": "mine"}, r"model_type='mine' of config\.json; expected one that transformers knows"),
    ],
)
def test_an_unknown_model_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        ModelShape.from_config(config)


def test_a_path_without_a_config_is_refused():
    with pytest.raises(ValueError, match=r"'/no/such/model' holds no config\.json and is none of Qwen2\.5-VL-3B"):
        find_shape("/no/such/model")
