# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""GRPO with native tool calls: verl's stock `tool_agent` loop in the plugin's trainer, real vLLM, real video files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from trainer_runs import ROOT, build_model, largest_probability_gap, make_data, read_metrics, train

from verl_videomtr.sample import read_rows, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1500)]

BATCH, GROUP = 6, 4
PROBABILITY_BOUND = 1e-3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of the synchronous trainer."""
    folder = tmp_path_factory.mktemp("tool")
    data = make_data(folder / "data", num_train=2 * BATCH)
    # A whole group of the first step is lost: its video is none.
    rows = read_rows(data / "train.parquet")
    (data / "broken.mp4").write_bytes(b"this is not a video" * 100)
    write_rows(data / "train.parquet", [dataclasses.replace(rows[0], video="broken.mp4"), *rows[1:]])
    model = build_model("make_tool_model.py")
    train(
        folder,
        "+videomtr/loop=tool_agent",
        f"videomtr.prompts={ROOT / 'tests/support/trainer/tool_prompts.yaml'}",
        f"data.train_batch_size={BATCH}",
        f"actor_rollout_ref.rollout.n={GROUP}",
        "data.max_prompt_length=1024",
        "actor_rollout_ref.rollout.max_model_len=1280",
        "actor_rollout_ref.actor.checkpoint.save_contents=[hf_model]",
        "trainer.save_freq=2",
        "videomtr.video.max_unreadable_share=0.5",
        "trainer.total_training_steps=2",
        data=data,
        model=model,
        probe="stock_probe",
    )
    return folder


@pytest.fixture(scope="module")
def rows(run: Path) -> list[dict]:
    steps = [torch.load(run / f"step_{number}.pt", weights_only=False) for number in (1, 2)]
    return [row for step in steps for row in step["rows"] if not row["is_padding"]]


def test_policy_calls_the_tool_and_sees_what_it_returns(rows):
    assert len(rows) == (2 * BATCH - 1) * GROUP
    records = [(row, row["extra_fields"].get("retrieve_frames")) for row in rows]
    called = [(row, record) for row, record in records if record and "retrieve" in record["actions"]]
    assert len(called) > len(rows) / 4
    for row, episode in called:
        assert row["num_images"] <= episode["frame_budget"]
        assert row["num_images"] > len(episode["frames"][0]) == 8


def test_images_are_inside_the_trained_response(rows, run):
    from transformers import AutoTokenizer

    image = AutoTokenizer.from_pretrained(build_model("make_tool_model.py")).convert_tokens_to_ids("<|image_pad|>")
    inside = 0
    for row in rows:
        in_prompt, in_response = (row["prompts"] == image).sum(), (row["responses"] == image).sum()
        assert in_prompt == 8
        assert in_prompt + in_response == row["num_images"]
        assert not row["response_mask"][row["responses"] == image].any()
        inside += int(in_response > 0 and row["response_mask"][(row["responses"] == image).nonzero()[-1, 0] :].any())
    assert inside > len(rows) / 4


def test_probabilities_of_actor_and_vllm_agree(rows):
    assert max(largest_probability_gap(row) for row in rows) < PROBABILITY_BOUND


def test_advantage_is_grpos_of_the_outcome_reward(rows):
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["key"].rsplit("_", 2)[0], []).append(row)
    different = 0
    for group in groups.values():
        scores = torch.tensor([row["extra_fields"]["reward_extra_info"]["score"] for row in group])
        expected = (scores - scores.mean()) / (scores.std() + 1e-6)
        different += int(scores.std() > 0)
        for row, score, advantage in zip(group, scores, expected, strict=True):
            assert row["rm_scores"].sum() == pytest.approx(float(score))
            torch.testing.assert_close(row["advantages"], advantage * row["response_mask"], atol=1e-4, rtol=1e-4)
    assert different > 0


def test_what_the_tool_loop_loses_is_counted(run):
    metrics = read_metrics(run)
    assert [metrics[step]["videomtr/episode/lost"] for step in (1, 2)] == [GROUP, 0]
    assert metrics[1]["videomtr/video/unreadable"] == GROUP


def test_weights_have_moved_and_both_steps_are_logged(run):
    from safetensors.torch import load_file

    metrics = read_metrics(run)
    assert {1, 2} <= set(metrics)
    assert metrics[2]["training/rollout_probs_diff_max"] < PROBABILITY_BOUND
    before = load_file(build_model("make_tool_model.py") / "model.safetensors")
    after = load_file(run / "checkpoints/global_step_2/actor/huggingface/model.safetensors")
    assert sum(not before[name].equal(after[name]) for name in before) > 0.9 * len(before)
