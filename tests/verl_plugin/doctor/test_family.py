# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The doctor asks any family's processor, template and model by trying them: sound ones pass, faults are named."""

from __future__ import annotations

import shlex
import shutil

import pytest
import transformers
from doctor_setting import bad, only
from family_models import FAMILIES
from transformers import AutoModelForImageTextToText, GenerationConfig

from verl_videomtr.model_shapes import find_grid
from verl_videomtr.verl_plugin.doctor import family, lengths, model
from verl_videomtr.verl_plugin.doctor.findings import Level, error, ok, remedies

pytest_plugins = ["doctor_setting"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Make a family's checkpoint once."""
    made = {}

    def make(name):
        if name not in made:
            parts = FAMILIES[name]()
            folder = tmp_path_factory.mktemp(name) / "model"
            AutoModelForImageTextToText.from_config(parts.config).save_pretrained(folder)
            parts.processor.save_pretrained(folder)
            ends = {
                parts.processor.tokenizer.eos_token_id,
                parts.processor.tokenizer.convert_tokens_to_ids(parts.end_token),
            }
            GenerationConfig(eos_token_id=sorted(ends)).save_pretrained(folder)
            made[name] = folder
        return made[name]

    return make


def _overrides(folder, px):
    patch_px, merge = find_grid(str(folder))
    return [
        f"actor_rollout_ref.model.path={folder}",
        f"critic.model.path={folder}",
        f"videomtr.video.pool.size=[{px},{px}]",
        f"videomtr.video.pool.patch_px={patch_px}",
        f"videomtr.video.pool.merge={merge}",
    ]


def _examine(composed, folder, px, *more):
    case = composed.case(*_overrides(folder, px), *more)
    return [*model.check_model(case), *family.check_family(case)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_that_has_been_run_passes(composed, checkpoints, name):
    found = _examine(composed, checkpoints(name), FAMILIES[name]().frame_px)
    assert not bad(found)
    assert {"model.ends", "model.images", "frames.pixels", "frames.grid"} <= {finding.check for finding in found}


def test_a_server_that_does_not_stop_where_the_template_ends(composed, checkpoints, tmp_path):
    broken = tmp_path / "model"
    shutil.copytree(checkpoints("gemma4"), broken)
    GenerationConfig(eos_token_id=1).save_pretrained(broken)
    finding = only(_examine(composed, broken, 384), "model.ends", Level.WARNING)
    assert "'<turn|>'" in finding.what
    end = int(finding.fix.split()[1])
    GenerationConfig(eos_token_id=[1, end]).save_pretrained(broken)
    assert not bad(_examine(composed, broken, 384))


def test_a_template_that_forgets_what_was_thought(composed, checkpoints, tmp_path):
    broken = tmp_path / "model"
    shutil.copytree(checkpoints("qwen3_vl"), broken)
    file = broken / "chat_template.jinja"
    assert "{{- m.content -}}" in file.read_text()
    file.write_text(file.read_text().replace("{{- m.content -}}", "{{- m.content.split('</think>')[-1] -}}"))
    finding = only(_examine(composed, broken, 32), "model.text", Level.WARNING)
    assert "custom_chat_template" in finding.fix


def test_a_processor_that_writes_an_image_by_what_stands_beside_it(composed, checkpoints, monkeypatch):
    processor = transformers.InternVLProcessor
    write = processor.__call__

    def write_shorter(self, images=None, **kwargs):
        monkeypatch.setattr(self, "image_seq_length", 4 if images is None or len(images) == 1 else 1)
        return write(self, images=images, **kwargs)

    monkeypatch.setattr(processor, "__call__", write_shorter)
    finding = only(_examine(composed, checkpoints("internvl"), 56), "model.images")
    assert "is not where it should be" in finding.what


def test_pixels_that_verl_cannot_join(composed, checkpoints):
    """Pixtral pads frames to the largest of their row: rows of videos of other shapes have other tensors."""
    folder = checkpoints("mistral3")
    free = ["videomtr.video.pool.size=null", "videomtr.video.pool.min_tokens=2", "videomtr.video.pool.max_tokens=12"]
    finding = only(_examine(composed, folder, 56, *free), "frames.pixels")
    assert not bad(_examine(composed, folder, 56, *free, *finding.overrides))


def test_pixels_that_the_processor_makes_otherwise(composed, checkpoints):
    found = _examine(composed, checkpoints("mistral3"), 42)
    assert "pixel_values" in only([f for f in found if f.check == "frames.pixels"], "frames.pixels").what


@pytest.mark.parametrize("name", ["internvl", "gemma4", "qwen2_5_vl", "mistral3"])
def test_adapters_outside_of_the_language_model(composed, checkpoints, name):
    folder, px = checkpoints(name), FAMILIES[name]().frame_px
    lora = ["actor_rollout_ref.model.lora_rank=4", "critic.model.lora_rank=4"]
    finding = only(_examine(composed, folder, px, *lora), "model.adapters")
    found = _examine(composed, folder, px, *lora, *finding.overrides)
    assert not bad(found)
    assert len([each for each in found if each.check == "model.adapters"]) == 2


def test_adapters_that_peft_cannot_place(composed, checkpoints):
    fault = ["actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.target_modules=[no_such_layer]"]
    finding = only(_examine(composed, checkpoints("qwen2_5_vl"), 28, *fault), "model.adapters")
    assert "no_such_layer" in finding.what


def test_one_line_holds_what_a_model_without_a_group_needs(composed, checkpoints):
    """The path alone, and what the doctor prints: then nothing is left to say."""
    folder = checkpoints("internvl")
    given = [f"actor_rollout_ref.model.path={folder}", f"critic.model.path={folder}", "data.max_prompt_length=32"]
    given += ["videomtr.video.pool.size=[42,56]"]

    def examine(*overrides):
        case = composed.case(*overrides)
        return [*model.check_model(case), *family.check_family(case), *lengths.check_lengths(case)]

    found = examine(*given)
    assert bad(found)
    line = remedies(found)
    assert line.startswith("add: ")
    assert not bad(examine(*given, *shlex.split(line.removeprefix("add: "))))


def test_a_remedy_that_is_no_override_is_left_out():
    def finding(*overrides, advice=""):
        return error("check", "what", why="why", overrides=overrides, advice=advice)

    assert remedies([finding(advice="fetch the files again"), finding(advice="model.path=<a checkpoint>")]) == ""
    both = [finding("a.b=1", "c.d='x|y'", advice="or e.f=2"), finding("a.b=3", "~g.h"), ok("check", "x.y=1")]
    assert shlex.split(remedies(both)) == ["add:", "a.b=1", "c.d='x|y'", "~g.h"]
    assert shlex.split(both[0].fix) == ["a.b=1", "c.d='x|y',", "or", "e.f=2"]


def test_what_the_engine_is_told_of_the_processor_counts(composed, checkpoints):
    more = ["+data.mm_processor_kwargs={max_soft_tokens: 140}"]
    folder = checkpoints("gemma4")
    only(_examine(composed, folder, 384, *more), "frames.same")
    same = "+actor_rollout_ref.rollout.engine_kwargs.vllm.mm_processor_kwargs={max_soft_tokens: 140}"
    assert not [f for f in _examine(composed, folder, 384, *more, same) if f.check == "frames.same"]
