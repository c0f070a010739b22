# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""KL in the reward and as a loss, entropy, and rollout correction, each seen in the numbers of one real run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trainer_runs import build_model, make_data, read_metrics, train

from verl_videomtr.gae import bi_level_gae

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]

BATCH = 8
KL_IN_REWARD, KL_LOSS, ENTROPY = 0.5, 50.0, 0.01


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = make_data(tmp_path_factory.mktemp("data"), num_train=2 * BATCH)
    train(
        folder, f"data.train_batch_size={BATCH}",
        # Large steps, so that the second one is far from the reference.
        "actor_rollout_ref.actor.optim.lr=3e-3",
        "algorithm.use_kl_in_reward=true", f"algorithm.kl_ctrl.kl_coef={KL_IN_REWARD}",
        "actor_rollout_ref.actor.use_kl_loss=true", f"actor_rollout_ref.actor.kl_loss_coef={KL_LOSS}",
        f"actor_rollout_ref.actor.entropy_coeff={ENTROPY}",
        "algorithm.rollout_correction.rollout_is=token", "algorithm.rollout_correction.rollout_is_threshold=2.0",
        # vLLM samples from the likeliest tokens alone and says so in its probabilities; the actor knows nothing of it.
        # So they differ, more where the policy is unsure. The bounds reject where it is sure, as at the ends of turns.
        "actor_rollout_ref.rollout.top_p=0.9",
        "algorithm.rollout_correction.rollout_rs=token_k1",
        "algorithm.rollout_correction.rollout_rs_threshold=1.012_3.0",
        "trainer.total_training_steps=2", data=data, model=build_model(),
    )  # fmt: skip
    return folder


@pytest.fixture(params=[1, 2])
def step(request: pytest.FixtureRequest, run: Path) -> dict:
    return torch.load(run / f"step_{request.param}.pt", weights_only=False) | {"number": request.param}


def _sampled(row: dict, width: int) -> torch.Tensor:
    """(width,) the turn of each sampled token, -1 elsewhere, from the record."""
    turn_ids = torch.full((width,), -1)
    for turn, (start, end) in enumerate(row["trajectory"]["turn_spans"]):
        turn_ids[start:end] = turn
    return turn_ids


def test_kl_is_taken_off_every_sampled_token_before_the_estimator(step):
    seen = 0.0
    for row, rewards in zip(step["rows"], step["rewards"], strict=True):
        sampled = _sampled(row, len(rewards)) >= 0
        expected = torch.zeros_like(rewards)
        for (_, end), reward in zip(row["trajectory"]["turn_spans"], row["trajectory"]["turn_rewards"], strict=True):
            expected[end - 1] += reward
        length = len(row["old_log_probs"])
        kl = (row["old_log_probs"] - row["ref_log_prob"]) * sampled[:length]
        expected[:length] -= KL_IN_REWARD * kl
        torch.testing.assert_close(rewards, expected, atol=1e-5, rtol=1e-4)
        seen += kl.abs().sum().item()
    assert step["number"] == 1 or seen > 0.01, "the policy has not left the reference: nothing was tested"


def test_rejection_clears_tokens_and_moves_no_turn_end(run):
    step = torch.load(run / "step_1.pt", weights_only=False)
    rows, rejected = step["rows"], step["mask_at_estimator"]
    turn_ids = torch.stack([_sampled(row, rejected.shape[1]) for row in rows])
    num_sampled, num_kept = int((turn_ids >= 0).sum()), int(rejected.sum())
    assert 0 < num_kept < num_sampled
    ends_rejected = sum(
        int(rejected[i, end - 1] == 0) for i, row in enumerate(rows) for _, end in row["trajectory"]["turn_spans"]
    )
    assert ends_rejected > 0, "no turn end was rejected: nothing was tested"
    advantages, returns = bi_level_gae(step["rewards"] + step["bonus"], step["values"], rejected, turn_ids)
    torch.testing.assert_close(step["advantages"], advantages)
    torch.testing.assert_close(step["returns"], returns)
    # Returns of kept tokens are those without any rejection.
    _, whole = bi_level_gae(step["rewards"] + step["bonus"], step["values"], (turn_ids >= 0).long(), turn_ids)
    torch.testing.assert_close(returns, whole * rejected)


def test_importance_weights_are_the_truncated_ratios_and_leave_the_advantages_alone(step):
    for row in step["rows"]:
        mask = row["mask"].bool()
        ratios = (row["old_log_probs"] - row["rollout_log_probs"]).exp().clamp(max=2.0)
        torch.testing.assert_close(row["rollout_is_weights"][mask], ratios[mask], atol=1e-5, rtol=1e-4)


def test_kl_and_entropy_enter_the_actors_loss_with_their_coefficients(run):
    metrics = read_metrics(run)
    for number in (1, 2):
        values = metrics[number]
        expected = values["actor/pg_loss"] - ENTROPY * values["actor/entropy_loss"] + KL_LOSS * values["actor/kl_loss"]
        assert values["actor/loss"] == pytest.approx(expected, abs=1e-5)
        assert values["actor/entropy_loss"] > 0
    assert KL_LOSS * metrics[2]["actor/kl_loss"] > 1e-4, "the loss is the same without it: nothing was tested"
