# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes whose context slides, through verl's own trainer: one trajectory, several rows, one credit.

K_max = 6 and w = 2: the fourth response is sampled without the first turn in its context, and so on. Each row must be
exactly what vLLM was given, and credit must cross the rows.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_runs import build_model, make_data, read_metrics, train
from transformers import AutoProcessor

from verl_videomtr.gae import bi_level_gae

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

MAX_TURNS, WINDOW, BATCH = 6, 2, 8
LAM_TURN = 0.9
WINDOWS = (
    f"videomtr.episode.max_turns={MAX_TURNS}",
    f"videomtr.episode.window={WINDOW}",
    "videomtr.episode.initial_frames=6",
    "videomtr.device_patches=false",  # the pixels of a row are compared below
    # Below 1 the values of later turns stay in the sum, so rows matter to each other in any batch, rewarded or not.
    f"videomtr.credit.lam_turn={LAM_TURN}",
)


@pytest.fixture(scope="module")
def base_model() -> Path:
    return build_model("make_habitual_model.py", str(MAX_TURNS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), num_train=2 * BATCH)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base_model: Path, data: Path) -> Path:
    """Two steps of two mini-batches each, played by two agent-loop workers."""
    folder = tmp_path_factory.mktemp("run")
    train(
        folder, *WINDOWS,
        f"data.train_batch_size={BATCH}", f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH // 2}",
        f"critic.ppo_mini_batch_size={BATCH // 2}", "trainer.total_training_steps=2",
        "trainer.save_freq=2", "actor_rollout_ref.rollout.agent.num_workers=2", data=data, model=base_model,
    )  # fmt: skip
    return folder


def _step(folder: Path, number: int) -> dict:
    return torch.load(folder / f"step_{number}.pt", weights_only=False)


def _rows(folder: Path) -> list[dict]:
    return [row for number in (1, 2) for row in _step(folder, number)["rows"] if not row["is_padding"]]


def _turns_of(row: dict) -> list[tuple[int, int, int]]:
    """(turn, start, end in the response) of the responses that a row trains."""
    trajectory = row["trajectory"]
    return [
        (turn, *span)
        for turn, (number, span) in enumerate(zip(trajectory["turn_rows"], trajectory["turn_spans"], strict=True))
        if number == row["number"]
    ]


def test_contexts_slid(run):
    lengths = [len(row["trajectory"]["turn_spans"]) for row in _rows(run) if row["number"] == 0]
    assert len(lengths) == 2 * BATCH
    assert max(lengths) > WINDOW + 2
    for row in _rows(run):
        turns = [turn for turn, _, _ in _turns_of(row)]
        # The first row holds all turns before anything is dropped; then every turn has a context of its own.
        assert turns == (list(range(len(turns))) if row["number"] == 0 else [row["number"] + WINDOW])


def test_each_turn_is_trained_on_exactly_what_it_was_sampled_from(run, base_model):
    calls = [torch.load(path, weights_only=False) for path in (run / "calls").iterdir()]
    positions = [torch.load(path, weights_only=False) for path in (run / "positions").iterdir()]
    called = defaultdict(list)  # different videos may be asked the same question, in the same tokens
    for call in calls:
        called[(*call["prompt_ids"], -1, *call["token_ids"])].append(call["images"])
    positions_of = {tuple(record["prompt_ids"]): record["positions"] for record in positions}
    processor = AutoProcessor.from_pretrained(base_model)
    num_later = 0
    for row in _rows(run):
        prompt_length = len(row["input_ids"]) - len(row["responses"])
        for turn, start, end in _turns_of(row):
            ids = row["input_ids"].tolist()
            prompt, response = ids[: prompt_length + start], ids[prompt_length + start : prompt_length + end]
            # Images, in their order: the pixels that are trained on are those of the images that vLLM was sent.
            sent = [
                processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
                for images in called[(*prompt, -1, *response)]
            ]
            assert any(torch.allclose(row["pixel_values"][: len(pixels)], pixels) for pixels in sent)
            # The first row of position ids counts text tokens; the other three are what the model rotates by.
            torch.testing.assert_close(row["position_ids"][1:, : len(prompt)], positions_of[tuple(prompt)])
            num_later += turn > WINDOW
    assert num_later > 0


def test_log_probs_of_actor_and_vllm_agree_in_every_row(run):
    for row in _rows(run):
        mask = row["mask"].bool()
        assert (row["rollout_log_probs"][mask] - row["old_log_probs"][mask]).abs().max() < 1e-3


def test_windows_show_the_turns_that_stay_and_no_others(run):
    for row in _rows(run):
        frames = row["trajectory"]["episode"]["frames"]
        first = row["number"]  # w = 2: row r begins with turn r
        last = max(turn for turn, _, _ in _turns_of(row))
        assert row["num_images"] == sum(len(shown) for shown in frames[first : last + 1])


def test_rewards_and_credit_cross_rows(run):
    for number in (1, 2):
        step = _step(run, number)
        width = step["rewards"].shape[1]
        turn_ids = torch.full(step["rewards"].shape, -1)
        for place, (row, rewards) in enumerate(zip(step["rows"], step["rewards"], strict=True)):
            if row["is_padding"]:
                assert not rewards.any()
                continue
            expected = torch.zeros(width)
            for turn, start, end in _turns_of(row):
                expected[end - 1] = row["trajectory"]["turn_rewards"][turn]
                turn_ids[place, start:end] = turn
            torch.testing.assert_close(rewards, expected)
        keys = [row["key"].rsplit("_", 1)[0] for row in step["rows"]]
        mask = (turn_ids >= 0).long()
        batch = (step["rewards"] + step["bonus"], step["values"], mask, turn_ids)
        advantages, returns = bi_level_gae(*batch, trajectory_ids=keys, lam_turn=LAM_TURN)
        torch.testing.assert_close(step["advantages"], advantages)
        torch.testing.assert_close(step["returns"], returns)
        apart, _ = bi_level_gae(*batch, lam_turn=LAM_TURN)
        assert not torch.allclose(apart, advantages), "the rows' turns have nothing to do with each other"


@pytest.mark.parametrize("role", ["actor", "critic"])
def test_number_of_optimizer_steps_does_not_depend_on_the_number_of_rows(run, role):
    for number in (1, 2):
        assert sum(not row["is_padding"] for row in _step(run, number)["rows"]) > BATCH
    path = run / "checkpoints" / "global_step_2" / role / "optim_world_size_1_rank_0.pt"
    state = torch.load(path, weights_only=False)["state"]
    # Two batches of two mini-batches each.
    assert {float(entry["step"]) for entry in state.values()} == {4.0}


def test_each_trajectory_is_counted_once(run):
    for number in (1, 2):
        first_rows = [row for row in _step(run, number)["rows"] if row["number"] == 0 and not row["is_padding"]]
        turns = np.mean([len(row["trajectory"]["turn_spans"]) for row in first_rows])
        assert read_metrics(run)[number]["videomtr/episode/turns"] == pytest.approx(turns)
        assert len((run / "trajectories" / f"step_{number:06d}.jsonl").read_text().splitlines()) == BATCH
