# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Other base models through the whole loop: two steps of the real trainer with critic, reference and weight sync.

Each is a tiny model of its family's own classes, tokens and chat format, in the hub's layout of several shards. Held
for each: images inside the response, engine and actor agree, vLLM holds the trained weights, and a row says what the
chat template would. One family each shows resumption, two ranks with a padding row, and adapters on actor and critic.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from family_models import FAMILIES
from safetensors.torch import load_file
from trainer_runs import build_model, make_data, read_metrics, train
from verl.utils.tokenizer import get_processor_token_id

from verl_videomtr.sample import read_rows, write_rows
from verl_videomtr.verl_plugin.image_tokens import ImageTokens

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1500)]

BATCH = 8
LOG_PROB_BOUND = 1e-3
RUN = ("qwen2_vl", "qwen3_vl", "qwen3_vl_thinking", "qwen3_vl_moe", "glm4v", "internvl", "gemma4", "mistral3")
"""Qwen2.5-VL has `e2e/test_training.py`."""
RESUMED, ON_TWO_RANKS, WITH_ADAPTERS, THINKING = "gemma4", "internvl", "mistral3", "qwen3_vl_thinking"
MORE = {
    ON_TWO_RANKS: (
        "trainer.n_gpus_per_node=2",
        # One row a micro-batch: the padding row, which has no image, is alone on its rank.
        "actor_rollout_ref.actor.use_dynamic_bsz=false",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=1",
        "critic.ppo_micro_batch_size_per_gpu=1",
    ),
    WITH_ADAPTERS: (
        "actor_rollout_ref.model.lora_rank=8",
        "critic.model.lora_rank=8",
        # vLLM takes adapters on the language model alone; `videomtr doctor` names the parts of any family.
        "actor_rollout_ref.model.exclude_modules='.*(vision_tower|multi_modal_projector).*'",
        "actor_rollout_ref.rollout.load_format=safetensors",
        # Adapters start at zero: the policy of the second step must differ from the base by more than the bound.
        "actor_rollout_ref.actor.optim.lr=1e-3",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), num_train=2 * BATCH)


@pytest.fixture(scope="module")
def data_with_a_broken_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each batch loses one row, which verl replaces by a padding row."""
    folder = make_data(tmp_path_factory.mktemp("broken"), num_train=2 * BATCH)
    (folder / "broken.mp4").write_bytes(b"this is not a video" * 100)
    rows = read_rows(folder / "train.parquet")
    for place in (0, BATCH):
        rows[place] = dataclasses.replace(rows[place], sample_id=f"broken-{place}", video="broken.mp4")
    write_rows(folder / "train.parquet", rows)
    return folder


def _overrides(family: str, num_steps: int) -> list[str]:
    made = FAMILIES[family]()
    return [
        f"videomtr.video.pool.size=[{made.frame_px},{made.frame_px}]", "videomtr.video.pool.max_tokens=128",
        f"videomtr.episode.frame_budget={made.frame_budget}",
        "data.max_prompt_length=1536", "data.max_response_length=1536",
        "actor_rollout_ref.rollout.max_model_len=3072", "algorithm.use_kl_in_reward=true",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        f"data.train_batch_size={BATCH}", "trainer.save_freq=2", f"trainer.total_training_steps={num_steps}",
        *MORE.get(family, ()),
    ]  # fmt: skip


@pytest.fixture(scope="module", params=RUN)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Two steps of one family."""
    family = request.param
    folder = tmp_path_factory.mktemp(family)
    data = request.getfixturevalue("data_with_a_broken_video" if family == ON_TWO_RANKS else "data")
    train(folder, *_overrides(family, 2), data=data, model=build_model("make_family_model.py", family))
    return family, folder


def _rows(folder: Path) -> list[dict]:
    return [row for step in (1, 2) for row in _step(folder, step) if not row["is_padding"]]


def _step(folder: Path, number: int) -> list[dict]:
    return torch.load(folder / f"step_{number}.pt", weights_only=False)["rows"]


def _gap(row: dict, name: str = "rollout_log_probs") -> float:
    """Largest difference to the actor's log-probabilities of a row's sampled tokens."""
    mask = row["mask"].bool()
    return float((row[name][mask] - row["old_log_probs"][mask]).abs().max())


def test_engine_and_actor_agree_with_images_inside_the_response(run):
    _, folder = run
    looked = [row for row in _rows(folder) if "retrieve" in row["trajectory"]["episode"]["actions"]]
    assert looked
    assert max(map(_gap, looked)) < LOG_PROB_BOUND
    assert read_metrics(folder)[1]["training/rollout_probs_diff_mean"] < LOG_PROB_BOUND


def test_vllm_holds_the_trained_weights(run):
    family, folder = run
    if family == WITH_ADAPTERS:
        # The base stays; that the second step's policy is the adapted one shows that the adapters got there.
        assert max(_gap(row, "ref_log_prob") for row in _step(folder, 2)) > 10 * LOG_PROB_BOUND
        return
    actor = load_file(folder / "checkpoints/global_step_2/actor/huggingface/model.safetensors")
    vllm = torch.load(folder / "vllm_2.pt", weights_only=True)
    # vLLM keeps buffers of some families among its tensors, and pads the vocabulary with zeros. Those of Gemma 4's
    # layers, ones that are not trained, it keeps elsewhere.
    trained, served = (
        {float(value) for tensor in tensors.values() for value in tensor.float().flatten().tolist()}
        for tensors in (actor, vllm)
    )
    assert trained - {0.0, 1.0} <= served


def test_a_rows_text_is_the_templates_own(run):
    family, folder = run
    made = FAMILIES[family]()
    processor, tokenizer = made.processor, made.processor.tokenizer
    reader = ImageTokens(processor, get_processor_token_id(processor, "image"))
    for row in _rows(folder):
        episode = row["trajectory"]["episode"]
        if any(response.count("<think>") > 1 for response in episode["responses"]):
            continue  # some templates cut a response at its last thought
        size = (made.frame_px, made.frame_px)
        ids = reader.collapse(row["input_ids"].tolist(), [size] * sum(map(len, episode["frames"])))
        messages = [{"role": "system", "content": episode["system"]}] if episode.get("system") else []
        for said, response in zip(episode["messages"], episode["responses"], strict=True):
            content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in said]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": response}]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        shown = tokenizer.decode(ids)
        assert (text + made.end_token).startswith(shown.rstrip("\n"))


def test_a_thought_that_the_template_opens_is_prompt_in_rollout_and_training(run):
    family, folder = run
    if family != THINKING:
        pytest.skip(f"{THINKING} is the one whose template opens the thought")
    tokenizer, rows = FAMILIES[family]().processor.tokenizer, _rows(folder)
    for row in rows:
        ids, trajectory = row["input_ids"], row["trajectory"]
        start = len(ids) - len(row["mask"])
        for (first, last), said in zip(trajectory["turn_spans"], trajectory["episode"]["responses"], strict=True):
            assert tokenizer.decode(ids[: start + first]).endswith("<|im_start|>assistant\n<think>\n")
            sampled = tokenizer.decode(ids[start + first : start + last])
            assert "<think>" + sampled.removesuffix("<|im_end|>") == said
    assert any(row["trajectory"]["episode"]["actions"] == ["retrieve", "answer"] for row in rows)


def test_adapters_of_actor_and_critic_are_trained(run):
    family, folder = run
    if family != WITH_ADAPTERS:
        pytest.skip(f"{WITH_ADAPTERS} is the one with adapters")
    for role in ("actor", "critic"):
        file = folder / f"checkpoints/global_step_2/{role}/model_world_size_1_rank_0.pt"
        state = torch.load(file, weights_only=False, map_location="cpu")
        moved = [tensor for name, tensor in state.items() if "lora_B" in name]
        assert moved
        assert all(getattr(tensor, "_local_tensor", tensor).any() for tensor in moved)


def test_two_ranks_pass_a_row_without_images(run):
    family, folder = run
    if family != ON_TWO_RANKS:
        pytest.skip(f"{ON_TWO_RANKS} is the one on two ranks")
    for number in (1, 2):
        assert [row["is_padding"] for row in _step(folder, number)].count(True) == 1
    assert (folder / "checkpoints/global_step_2/actor/model_world_size_2_rank_1.pt").exists()


def test_a_run_goes_on_from_its_checkpoint(run, data):
    family, folder = run
    if family != RESUMED:
        pytest.skip(f"{RESUMED} is the one that is resumed")
    model = build_model("make_family_model.py", family)
    train(folder, *_overrides(family, 3), "trainer.resume_mode=auto", data=data, model=model)
    metrics = read_metrics(folder)
    assert sorted(metrics) == [1, 2, 3]
    assert metrics[3]["training/rollout_probs_diff_mean"] < LOG_PROB_BOUND
    assert max(map(_gap, _step(folder, 3))) < LOG_PROB_BOUND


def test_an_engine_that_reads_something_else_stops_the_run(tmp_path, data):
    """Gemma 4 with the rows' own ids sent: verl collapses Qwen's images alone, vLLM expands these once more."""
    model = build_model("make_family_model.py", "gemma4")
    # The tiny model is sure of most tokens whatever it reads, which keeps the mean small: it comes to .01.
    overrides = [*_overrides("gemma4", 1), "videomtr.max_rollout_difference=0.002"]
    with pytest.raises(pytest.fail.Exception, match="RolloutMismatchError: step 1: the inference engine and the actor"):
        train(tmp_path, *overrides, data=data, model=model, probe="uncollapsed_probe")
    assert not (tmp_path / "checkpoints/global_step_1").exists()
