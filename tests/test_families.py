# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Other base models through the whole loop: two steps of the real trainer with critic, reference and weight sync.

Each is a tiny model of its family's own classes, tokens and chat format. Held for each: images inside the response,
engine and actor agree, vLLM holds the trained weights, and a row says what the chat template would.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family_models import FAMILIES
from safetensors.torch import load_file
from trainer_runs import build_model, make_data, read_metrics, train
from verl.utils.tokenizer import get_processor_token_id

from verl_videomtr.verl_plugin.image_tokens import ImageTokens

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1500)]

BATCH = 8
LOG_PROB_BOUND = 1e-3
GRIDS = {"qwen3_vl": (16, 2), "qwen3_vl_moe": (16, 2), "gemma4": (16, 3)}
"""Side of a patch, and how many patches a side make a visual token; 14 and 2 elsewhere."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), num_train=2 * BATCH)


@pytest.fixture(scope="module", params=("qwen2_vl", "qwen3_vl", "glm4v", "internvl", "gemma4"))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[str, Path]:
    """Two steps of one family; Qwen2.5-VL has `test_e2e.py`."""
    family = request.param
    folder = tmp_path_factory.mktemp(family)
    patch, merge = GRIDS.get(family, (14, 2))
    px = FAMILIES[family]().frame_px
    train(
        folder,
        f"videomtr.video.pool.size=[{px},{px}]", f"videomtr.video.pool.patch_px={patch}",
        f"videomtr.video.pool.merge={merge}", "videomtr.video.pool.max_tokens=128",
        "data.max_prompt_length=1536", "data.max_response_length=1536",
        "actor_rollout_ref.rollout.max_model_len=3072", "algorithm.use_kl_in_reward=true",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        f"data.train_batch_size={BATCH}", "trainer.save_freq=2", "trainer.total_training_steps=2",
        data=data, model=build_model("make_family_model.py", family),
    )  # fmt: skip
    return family, folder


def _rows(folder: Path) -> list[dict]:
    return [row for step in (1, 2) for row in torch.load(folder / f"step_{step}.pt", weights_only=False)["rows"]]


def test_engine_and_actor_agree_with_images_inside_the_response(run):
    _, folder = run
    looked = [row for row in _rows(folder) if "retrieve" in row["trajectory"]["episode"]["actions"]]
    assert looked
    for row in looked:
        mask = row["mask"].bool()
        assert (row["rollout_log_probs"][mask] - row["old_log_probs"][mask]).abs().max() < LOG_PROB_BOUND
    assert read_metrics(folder)[1]["training/rollout_probs_diff_mean"] < LOG_PROB_BOUND


def test_vllm_holds_the_trained_weights(run):
    _, folder = run
    actor = load_file(folder / "checkpoints/global_step_2/actor/huggingface/model.safetensors")
    vllm = torch.load(folder / "vllm_2.pt", weights_only=True)
    # vLLM keeps buffers of some families among its tensors, and pads the vocabulary with zeros.
    trained, served = (
        {float(value) for tensor in tensors.values() for value in tensor.float().flatten().tolist()}
        for tensors in (actor, vllm)
    )
    assert trained - {0.0} <= served


def test_a_rows_text_is_the_templates_own(run):
    family, folder = run
    made = FAMILIES[family]()
    processor, tokenizer = made.processor, made.processor.tokenizer
    reader = ImageTokens(processor, get_processor_token_id(processor, "image"))
    for row in _rows(folder):
        episode = row["trajectory"]["episode"]
        size = (made.frame_px, made.frame_px)
        ids = reader.collapse(row["input_ids"].tolist(), [size] * sum(map(len, episode["frames"])))
        messages = [{"role": "system", "content": episode["system"]}] if episode.get("system") else []
        for said, response in zip(episode["messages"], episode["responses"], strict=True):
            content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in said]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": response}]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        shown = tokenizer.decode(ids)
        assert (text + made.end_token).startswith(shown.rstrip("\n"))
