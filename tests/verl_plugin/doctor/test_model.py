# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The model's files: each finding beside what fails as it says, and both silent once fixed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from doctor_setting import ACTOR, ROLLOUT, bad, only

from verl_videomtr.verl_plugin.doctor import lengths, model
from verl_videomtr.verl_plugin.doctor.findings import Level

pytest_plugins = ["doctor_setting"]


# The model.


def variant(checkpoint, tmp_path, **changes):
    """A copy of the checkpoint with keys of its config changed; weights are not looked at."""
    folder = tmp_path / "variant"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_model_without_a_processor(composed, checkpoint, tmp_path):
    from verl.utils.tokenizer import hf_processor

    text_only = tmp_path / "text"
    shutil.copytree(checkpoint, text_only, ignore=shutil.ignore_patterns("*processor*"))
    case = composed.case(f"actor_rollout_ref.model.path={text_only}")
    finding = only(model.check_model(case), "model.processor")
    assert str(text_only) in finding.what
    assert [judged.level for judged in lengths.check_lengths(case)] == [Level.NOTE]
    assert hf_processor(str(text_only)) is None
    assert hf_processor(str(checkpoint)) is not None


@pytest.mark.parametrize("key", ["actor_rollout_ref.model", "critic.model"])
@pytest.mark.parametrize("path", ["/no/such/model", model.VERL_DEFAULT])
def test_a_model_that_is_not_there(composed, key, path):
    from verl.utils.tokenizer import hf_tokenizer

    check = "model.critic" if key == "critic.model" else "model.files"
    fault = [f"{key}.path='{path}'"]
    finding = only(model.check_model(composed.case(*fault)), check)
    with pytest.raises((OSError, ValueError)):
        hf_tokenizer(path)
    if key == "critic.model":
        assert not bad(model.check_model(composed.case(*fault, *finding.overrides)))


def test_verl_s_default_path_is_the_one_that_is_named(composed):
    from verl_videomtr.verl_plugin.compose import compose

    stock = compose([])
    assert stock.actor_rollout_ref.model.path == stock.critic.model.path == model.VERL_DEFAULT


def test_a_model_of_the_hub_that_is_not_here_is_not_judged(composed, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    findings = list(model.check_model(composed.case("actor_rollout_ref.model.path=nobody/has-this-model")))
    assert [(finding.level, finding.check) for finding in findings] == [(Level.NOTE, "model.files")]


def test_a_critic_without_a_value_head(composed, checkpoint, tmp_path):
    from transformers import AutoConfig
    from verl.utils.model import load_valuehead_model

    other = variant(checkpoint, tmp_path, model_type="mamba", architectures=["MambaForCausalLM"])
    case = composed.case(f"critic.model.path={other}")
    finding = only(model.check_model(case), "model.critic")
    with pytest.raises(RuntimeError, match="install trl"):
        load_valuehead_model(str(other), torch.float32, AutoConfig.from_pretrained(other), False)
    fault = [f"critic.model.path={other}", *finding.overrides]
    assert not bad(model.check_model(composed.case(*fault)))


def test_a_critic_that_reads_other_tokens_than_the_policy(composed, checkpoint, tmp_path):
    from recipes.learning_study.tiny_model import make_config, make_processor
    from verl_videomtr.verl_plugin.value_heads import value_class

    processor = make_processor()
    config = make_config(processor.tokenizer)
    other = variant(checkpoint, tmp_path, image_token_id=config.image_token_id + 1)
    finding = only(model.check_model(composed.case(f"critic.model.path={other}")), "model.critic")
    assert "image_token_id" in finding.what
    text = "<|vision_start|><|image_pad|><|vision_end|>"
    from PIL import Image

    inputs = processor(text=[text], images=[Image.new("RGB", (28, 28))], return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
    config.image_token_id += 1
    with pytest.raises(ValueError, match=r"[Ii]mage features and image tokens do not match"):
        value_class(type(config))[0](config)(**inputs)
    value_class(type(config))[0](make_config(processor.tokenizer))(**inputs)
    fixed = finding.overrides
    assert not bad(model.check_model(composed.case(f"critic.model.path={other}", *fixed)))


def test_heads_that_tensor_parallelism_does_not_divide(measured, checkpoint):
    from vllm.config import ModelConfig

    fault = ["trainer.n_gpus_per_node=3", f"{ROLLOUT}.tensor_model_parallel_size=3"]
    finding = only(model._heads(measured(*fault)), "model.heads")
    served = ModelConfig(model=str(checkpoint), dtype="float32")

    def start(size):
        parallel = SimpleNamespace(
            tensor_parallel_size=size,
            pipeline_parallel_size=1,
            distributed_executor_backend="mp",
            enable_expert_parallel=False,
            decode_context_parallel_size=1,
            data_parallel_size=1,
        )
        served.verify_with_parallel_config(parallel)

    with pytest.raises(ValueError, match="must be divisible by tensor parallel size"):
        start(3)
    fixed = measured(*fault, *finding.overrides)
    assert not bad(model._heads(fixed))
    start(fixed.rollout.tensor_model_parallel_size)


def test_heads_that_sequence_parallelism_does_not_divide(measured):
    from verl.models.transformers.monkey_patch import apply_monkey_patch

    from recipes.learning_study.tiny_model import make_model, make_processor

    padding = [f"{section}.use_remove_padding=true" for section in ("actor_rollout_ref.model", "critic.model")]
    fault = [*padding, "trainer.n_gpus_per_node=3", f"{ACTOR}.ulysses_sequence_parallel_size=3"]
    found = [f for f in bad(model._heads(measured(*fault))) if f"{ACTOR}." in f.what]
    assert [(f.check, f.level) for f in found] == [("model.heads", Level.ERROR)]
    with pytest.raises(AssertionError, match="must be divisible by ulysses_sp_size 3"):
        apply_monkey_patch(make_model(make_processor().tokenizer, seed=0), ulysses_sp_size=3)
    fixed = measured(*fault, *found[0].overrides)
    assert not [f for f in bad(model._heads(fixed)) if f"{ACTOR}." in f.what]


def test_a_context_longer_than_the_model_s_positions(measured):
    most = measured().model.hf_config.text_config.max_position_embeddings
    fault = [f"{ROLLOUT}.max_model_len={most + 1}"]
    finding = only(model._positions(measured(*fault)), "lengths.model")
    assert not list(model._positions(measured(*fault, *finding.overrides)))


@pytest.mark.slow
def test_verl_s_server_refuses_more_positions_than_the_model_has(checkpoint):
    look = f"""
from types import SimpleNamespace as Bare
from transformers import AutoConfig
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer
server = getattr(vLLMHttpServer, "__ray_metadata__", None)
server = server.modified_class if server else vLLMHttpServer
model = Bare(hf_config=AutoConfig.from_pretrained({str(checkpoint)!r}))
most = model.hf_config.text_config.max_position_embeddings
for length in (most, most + 1):
    config = Bare(max_model_len=length, enable_chunked_prefill=True, max_num_batched_tokens=1)
    try:
        server._validate_configs(Bare(model_config=model, config=config))
        print("accepts", length - most)
    except ValueError as error:
        print("refuses", length - most, error)
"""
    environment = {**os.environ, "VERL_PLATFORM": "cpu"}
    result = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, timeout=300)
    assert "accepts 0" in result.stdout, result.stderr[-2000:]
    assert "refuses 1 max_model_len" in result.stdout


def test_sequence_parallelism_with_padding(measured):
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    fault = ["trainer.n_gpus_per_node=2", "critic.fsdp.ulysses_sequence_parallel_size=2"]
    finding = only(model._heads(measured(*fault)), "model.heads")
    fixed = measured(*fault, *finding.overrides)
    assert not bad(model._heads(fixed))
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        for padded, case in ((True, measured(*fault)), (False, fixed)):
            kept = bool(case.get("critic.model.use_remove_padding"))
            assert kept is not padded
            described = SimpleNamespace(use_remove_padding=kept)
            engine = SimpleNamespace(ulysses_sequence_parallel_size=2)
            with pytest.raises(ValueError if padded else AttributeError, match=None if not padded else "must enable"):
                FSDPEngine(described, engine, SimpleNamespace(), SimpleNamespace())  # later it misses the rest
    finally:
        dist.destroy_process_group()


def test_a_fused_head_under_fsdp_2(measured):
    # test_engine_batches.py runs what is left: a head that shares its weights with the embedding.
    fault = ["actor_rollout_ref.model.use_fused_kernels=true", f"{ACTOR}.strategy=fsdp2"]
    finding = only(model._fused_head(measured(*fault)), "model.head")
    assert not bad(model._fused_head(measured(*fault, *finding.overrides)))
    assert not bad(model._fused_head(measured(fault[0], f"{ACTOR}.strategy=fsdp")))
    tied = measured(*fault)
    tied.model = SimpleNamespace(hf_config=SimpleNamespace(tie_word_embeddings=True))
    assert not bad(model._fused_head(tied))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        # The length of the conversation stands at its start: what was said before changes with every message.
        ("{{- messages | length -}}", "suffix diff failed"),
        ("", "runs of image placeholders"),
    ],
)
def test_templates_that_cannot_play_an_episode(composed, checkpoint, tmp_path, template, says):
    from recipes.learning_study.tiny_model import CHAT_TEMPLATE

    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    text = template + CHAT_TEMPLATE if template else CHAT_TEMPLATE.replace("<|image_pad|>", "a picture")
    (broken / "chat_template.jinja").write_text(text)
    case = composed.case(f"actor_rollout_ref.model.path={broken}")
    finding = only(model.check_model(case), "model.template")
    assert says in finding.what  # in the words of verl's builder, or of the agent loop's comparison


@pytest.mark.parametrize(
    "fault",
    [
        ["videomtr.video.pool.size=null", "videomtr.video.pool.patch_px=14", "videomtr.video.pool.merge=2"],
        ["videomtr.video.pool.size=[32,28]"],
    ],
    ids=["grid", "size"],
)
def test_frames_of_another_grid_than_the_model_s(composed, qwen3, fault):
    given = [f"actor_rollout_ref.model.path={qwen3}", f"critic.model.path={qwen3}", *fault]
    given += ["videomtr.video.pool.max_tokens=16"]
    finding = only(model.check_model(composed.case(*given)), "frames.grid", Level.WARNING)
    found = list(model.check_model(composed.case(*given, *finding.overrides)))
    assert not bad(found)
    assert [judged.level for judged in found if judged.check == "frames.grid"] == [Level.OK]


def test_the_grid_is_the_models_where_nothing_is_said(composed, qwen3):
    given = [f"actor_rollout_ref.model.path={qwen3}", f"critic.model.path={qwen3}", "videomtr.video.pool.size=null"]
    found = list(model.check_model(composed.case(*given, "videomtr.video.pool.max_tokens=16")))
    assert not bad(found)
    assert [judged.level for judged in found if judged.check == "frames.grid"] == [Level.OK]


def test_frames_for_another_model(composed):
    case = composed.case(
        "videomtr.video.pool.size=null", "videomtr.video.pool.patch_px=16", "videomtr.video.pool.max_tokens=12"
    )
    finding = only(model.check_model(case), "frames.grid", Level.WARNING)
    assert finding.overrides == ("videomtr.video.pool.patch_px=14", "videomtr.video.pool.merge=2")


def test_frames_that_the_processor_resamples(composed):
    # The tiny processor shrinks to 16 tokens of 28 x 28 what the configuration would serve with up to 36.
    big = ["videomtr.video.pool.size=null", "videomtr.video.pool.max_tokens=36"]
    big += ["videomtr.video.pool.min_tokens=36"]
    finding = only(model.check_model(composed.case(*big)), "frames.grid", Level.WARNING)
    assert "bounds of its own" in finding.why


def test_pixels_that_only_training_sees(composed, checkpoint):
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    fault = [
        "videomtr.video.pool.size=[112,112]",
        "+data.mm_processor_kwargs={min_pixels:784,max_pixels:3136}",
    ]
    case = composed.case(*fault)
    finding = only(model.check_model(case), "frames.same")
    served = MULTIMODAL_REGISTRY.create_processor(ModelConfig(model=str(checkpoint), dtype="float32"))
    tokens = served.info.get_num_image_tokens(
        image_width=112, image_height=112, image_processor=served.info.get_image_processor(), mm_kwargs={}
    )
    assert f"that vLLM makes {tokens} of" in finding.what
    fixed = composed.case(fault[0])
    assert not [f for f in model.check_model(fixed) if f.check == "frames.same"]
