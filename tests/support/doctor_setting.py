# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor's tests stand on: a tiny checkpoint, a few videos, and configurations that name them."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from data_prep import synthetic
from recipes.learning_study import tiny_model
from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin.compose import compose
from verl_videomtr.verl_plugin.doctor import data, model
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Level

ACTOR, ROLLOUT, REF = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
GROUPS = ["+videomtr=paper", "+videomtr/device=cpu", "+videomtr/model=tiny"]


def make_checkpoint(folder: Path) -> Path:
    """The untaught tiny Qwen2.5-VL."""
    processor = tiny_model.make_processor()
    tiny_model.save_checkpoint(folder, tiny_model.make_model(processor.tokenizer, seed=0), processor)
    return folder


def paths(model: Path, data: Path) -> list[str]:
    """Overrides that name the files."""
    return [
        f"data.train_files={data / 'train.parquet'}",
        f"data.val_files={data / 'val.parquet'}",
        f"videomtr.video.root={data}",
        f"actor_rollout_ref.model.path={model}",
        f"critic.model.path={model}",
        "data.train_batch_size=8",
    ]


class Composed:
    """One composed configuration, and copies of it with keys overridden; composing anew takes Hydra a second."""

    def __init__(self, overrides: list[str]) -> None:
        self._config = compose(overrides)

    def config(self, *overrides: str):
        config = copy.deepcopy(self._config)
        for item in OverridesParser.create().parse_overrides(list(overrides)):
            with contextlib.nullcontext() if not item.is_add() else open_dict(config):
                OmegaConf.update(config, item.key_or_group, item.value(), merge=False, force_add=item.is_add())
        return config

    def case(self, *overrides: str) -> Case:
        config = self.config(*overrides)
        return Case.of(config, load_settings(config))


def bad(findings) -> list:
    """Errors and warnings."""
    return [finding for finding in findings if finding.level in (Level.ERROR, Level.WARNING)]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory):
    """A tiny Qwen3-VL, untaught: patches of 16 px, 32 px a token."""
    from transformers import (
        AutoModelForImageTextToText,
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    from recipes.learning_study.tiny_model import CHAT_TEMPLATE, make_config, make_tokenizer

    tokenizer = make_tokenizer()
    ids = make_config(tokenizer)
    size = {"shortest_edge": 32 * 32, "longest_edge": 16 * 32 * 32}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, temporal_patch_size=2, merge_size=2, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    text = {"vocab_size": len(tokenizer), "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 256, "max_position_embeddings": 4096}
    config = Qwen3VLConfig(
        text_config=text,
        vision_config={"depth": 2, "hidden_size": 64, "num_heads": 2, "out_hidden_size": 128, "patch_size": 16},
        image_token_id=ids.image_token_id,
        video_token_id=ids.video_token_id,
        architectures=["Qwen3VLForConditionalGeneration"],
    )
    folder = tmp_path_factory.mktemp("qwen3") / "tiny"
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "needles"
    arguments = ["--out", str(folder), "--seed", "1", "--num-train", "8", "--num-val", "2", "--num-test", "1"]
    assert synthetic.main([*arguments, "--pool-size", "64", "--num-scenes", "4", "--num-distractors", "3"]) == 0
    return folder


@pytest.fixture(scope="session")
def composed(checkpoint, videos):
    return Composed([*GROUPS, *paths(checkpoint, videos)])


@pytest.fixture(scope="session")
def healthy(composed):
    """The case without a fault, its rows read and its model measured."""
    case = composed.case()
    assert not bad([*data.check_data(case), *model.check_model(case)])
    return case


@pytest.fixture
def measured(composed, healthy):
    """Make cases that need not load the model anew."""

    def make(*overrides):
        case = composed.case(*overrides)
        case.model, case.measured = healthy.model, healthy.measured
        case.samples, case.frame_sizes = healthy.samples, healthy.frame_sizes
        return case

    return make


def only(findings, check, level=Level.ERROR):
    """The one finding of that check, with its level."""
    complaints = bad(findings)
    found = [finding for finding in complaints if finding.check == check]
    assert len(found) == 1, complaints
    assert found[0].level is level, found
    assert found[0].why
    assert found[0].fix
    return found[0]


def unwrapped(actor_class):
    """The class behind a Ray actor class."""
    metadata = getattr(actor_class, "__ray_metadata__", None)
    return metadata.modified_class if metadata else actor_class
