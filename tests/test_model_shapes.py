# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Parameter counts and cache sizes, held against transformers' classes and vLLM's cache formula."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.qwen2_vl import Qwen2VLConfig

from verl_videomtr.model_shapes import KNOWN_CONFIGS, ModelShape, find_shape


def transformers_model(config):
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def full_config(known):
    """A whole transformers config of the known sizes."""
    text, vision = dict(known["text_config"]), dict(known["vision_config"])
    if known["model_type"] == "qwen2_5_vl":
        text.pop("head_dim")
    vision["out_hidden_size"] = text["hidden_size"]
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
def test_parameters_are_those_of_transformers_own_class(name, billions):
    shape = ModelShape.from_config(KNOWN_CONFIGS[name])
    model = transformers_model(full_config(KNOWN_CONFIGS[name]))
    assert shape.num_params == count(model)
    assert shape.num_vision_params == count(model.model.visual)
    assert shape.num_params / 1e9 == pytest.approx(billions, abs=0.005)


def test_the_critic_of_7b_is_as_large_as_in_the_authors_log():
    shape = ModelShape.from_config(KNOWN_CONFIGS["Qwen2.5-VL-7B-Instruct"])
    assert shape.num_value_params / 1e9 == pytest.approx(7.75, abs=0.005)


def test_qwen2_vl_is_counted_too():
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "intermediate_size": 96, "vocab_size": 128,
        },
        vision_config={"embed_dim": 32, "depth": 2, "hidden_size": 64, "mlp_ratio": 4, "num_heads": 4},
    )  # fmt: skip
    shape = ModelShape.from_config(config.to_dict())
    assert shape.num_params == count(transformers_model(config))


def test_the_saved_config_and_the_flat_one_of_older_checkpoints_agree(tmp_path):
    known = KNOWN_CONFIGS["Qwen2.5-VL-7B-Instruct"]
    full_config(known).save_pretrained(tmp_path)
    saved, where = find_shape(str(tmp_path))
    assert where == str(tmp_path / "config.json")
    flat = {key: value for key, value in known["text_config"].items() if key != "head_dim"}
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
        ({"model_type": "llama"}, r"model_type='llama' of config\.json; expected one of qwen2_vl"),
        ({"model_type": "qwen3_vl", "vision_config": {"hidden_size": 8}}, r"has no 'num_attention_heads'"),
    ],
)
def test_an_unknown_model_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        ModelShape.from_config(config)


def test_a_path_without_a_config_is_refused():
    with pytest.raises(ValueError, match=r"'/no/such/model' holds no config\.json and is none of Qwen2\.5-VL-3B"):
        find_shape("/no/such/model")
