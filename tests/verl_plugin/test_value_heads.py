# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The critic starts from the actor's weights, or not at all."""

from __future__ import annotations

import pytest
import torch
from family_models import FAMILIES
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from recipes.learning_study import tiny_model
from verl_videomtr.verl_plugin import value_heads


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model.main(["--out", str(folder), "--seed", "3"])
    return folder


def _config(folder):
    # As verl's FSDP engine prepares it for a value model.
    config = AutoConfig.from_pretrained(folder)
    config.num_labels = 1
    config.classifier_dropout = 0.0
    return config


def test_every_backbone_tensor_equals_the_actors(checkpoint):
    actor = dict(AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).named_parameters())
    critic = value_heads.load_value_model(str(checkpoint), torch.float32, _config(checkpoint), False)
    backbone = {name: value for name, value in critic.named_parameters() if not name.startswith("score.")}
    assert set(backbone) == {name for name in actor if not name.startswith("lm_head.")}
    for name, value in backbone.items():
        assert torch.equal(value, actor[name]), name
    assert critic.score.weight.shape == (1, critic.config.text_config.hidden_size)


def test_critics_own_checkpoint_loads_with_its_head(checkpoint, tmp_path):
    critic = value_heads.load_value_model(str(checkpoint), torch.float32, _config(checkpoint), False)
    critic.save_pretrained(tmp_path)
    again = value_heads.load_value_model(str(tmp_path), torch.float32, _config(checkpoint), False)
    assert torch.equal(again.score.weight, critic.score.weight)


@pytest.mark.parametrize("fault", ["missing", "renamed"])
def test_checkpoint_that_does_not_fit_raises(checkpoint, tmp_path, fault):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    name = next(name for name in tensors if "layers.0" in name and "mlp" in name)
    taken = tensors.pop(name)
    if fault == "renamed":
        tensors["somewhere.else.weight"] = taken
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="did not load whole"):
        value_heads.load_value_model(str(tmp_path), torch.float32, _config(tmp_path), False)


def test_verls_loader_takes_this_path_for_vision_language_models_only(checkpoint):
    import verl.utils.model

    import verl_videomtr.verl_plugin.verl_defects  # noqa: F401

    model = verl.utils.model.load_valuehead_model(str(checkpoint), torch.float32, _config(checkpoint), False)
    assert type(model).__name__ == "Qwen2_5_VLForTokenClassification"
    assert not value_heads.supports(AutoConfig.for_model("qwen2"))


_TEXT = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
_FAMILIES = {
    "qwen2_vl": {"depth": 1, "embed_dim": 32, "num_heads": 1, "hidden_size": 64, "mlp_ratio": 2},
    "qwen2_5_vl": {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 1, "out_hidden_size": 64},
    "qwen3_vl": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 1,
        "out_hidden_size": 64,
        "deepstack_visual_indexes": [1],
        "num_position_embeddings": 16,
    },
}


@pytest.mark.parametrize("tied", [False, True], ids=["own_head", "tied_head"])
@pytest.mark.parametrize("family", _FAMILIES)
def test_each_family_loads_its_whole_backbone(family, tied, tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, text_config=_TEXT, vision_config=_FAMILIES[family], tie_word_embeddings=tied)
    actor = AutoModelForImageTextToText.from_config(config)
    actor.save_pretrained(tmp_path)
    critic = value_heads.load_value_model(str(tmp_path), torch.float32, _config(tmp_path), False)
    expected = {name: value for name, value in actor.named_parameters() if not name.startswith("lm_head.")}
    found = {name: value for name, value in critic.named_parameters() if not name.startswith("score.")}
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_in_shards_loads_whole_for_any_family(family, tmp_path):
    """The hub's layout of a large model: several files and an index."""
    torch.manual_seed(0)
    actor = AutoModelForImageTextToText.from_config(FAMILIES[family]().config)
    actor.save_pretrained(tmp_path, max_shard_size=1_000_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    critic = value_heads.load_value_model(str(tmp_path), torch.float32, _config(tmp_path), False)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    expected = {name: value for name, value in actor.named_parameters() if not name.startswith("lm_head.")}
    backbone, reloaded = dict(critic.named_parameters()), dict(again.named_parameters())
    assert set(expected) == {name for name in backbone if not name.startswith("score.")}
    for name, value in expected.items():
        assert torch.equal(backbone[name], value), name
        assert torch.equal(reloaded[name], value), name


def test_a_value_model_does_not_generate(checkpoint):
    critic = value_heads.load_value_model(str(checkpoint), torch.float32, _config(checkpoint), False)
    with pytest.raises(TypeError, match="has a value head; expected a model that generates"):
        critic.prepare_inputs_for_generation()
