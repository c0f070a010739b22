# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Without a critic: GRPO on verl's own synchronous trainer, with the plugin's loop and reward; contexts slide."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from record_checks import check_credit, check_line, check_rescore, check_validation
from trainer_runs import build_model, make_data, read_trajectories, train

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]

MAX_TURNS, PROMPTS, GROUP = 6, 4, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = make_data(folder, num_train=2 * PROMPTS)
    train(
        folder, "+videomtr/ablation=grpo", f"actor_rollout_ref.rollout.n={GROUP}", f"data.train_batch_size={PROMPTS}",
        f"videomtr.episode.max_turns={MAX_TURNS}", "videomtr.episode.initial_frames=6",
        "actor_rollout_ref.actor.use_kl_loss=false",
        "trainer.total_training_steps=2", "trainer.test_freq=2",
        data=data, model=build_model("make_habitual_model.py", str(MAX_TURNS)),
    )  # fmt: skip
    return folder


def _rows(run: Path, step: int) -> list[dict]:
    rows = torch.load(run / f"step_{step}.pt", weights_only=False)["rows"]
    return [row for row in rows if not row["is_padding"]]


@pytest.mark.parametrize("step", [1, 2])
def test_rows_of_a_trajectory_share_the_advantage_of_its_whole_reward(run, step):
    rows = _rows(run, step)
    rewards: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        rewards[row["key"].split("_")[0]][row["key"].rsplit("_", 1)[0]] = sum(row["trajectory"]["turn_rewards"])
    assert len(rewards) == PROMPTS
    assert all(len(group) == GROUP for group in rewards.values())
    assert any(row["number"] > 0 for row in rows), "no trajectory has several rows"
    for row in rows:
        group = torch.tensor(list(rewards[row["key"].split("_")[0]].values()))
        own = rewards[row["key"].split("_")[0]][row["key"].rsplit("_", 1)[0]]
        expected = (own - group.mean()) / (group.std() + 1e-6)
        mask = row["mask"].bool()
        torch.testing.assert_close(row["advantages"][mask], torch.full((int(mask.sum()),), expected.item()))
        assert not row["advantages"][~mask].any()


def test_the_whole_reward_sits_on_the_last_row(run):
    rows = _rows(run, 1)
    last = {key: max(r["number"] for r in rows if r["key"].rsplit("_", 1)[0] == key)
            for key in {r["key"].rsplit("_", 1)[0] for r in rows}}  # fmt: skip
    for row in rows:
        expected = torch.zeros_like(row["rm_scores"])
        if row["number"] == last[row["key"].rsplit("_", 1)[0]]:
            expected[-1] = sum(row["trajectory"]["turn_rewards"])
        torch.testing.assert_close(row["rm_scores"], expected)


def test_log_probs_agree_and_the_policy_moves(run):
    for row in _rows(run, 2):
        mask = row["mask"].bool()
        assert (row["rollout_log_probs"][mask] - row["old_log_probs"][mask]).abs().max() < 1e-3
    weights = [torch.load(run / f"vllm_{step}.pt", weights_only=True) for step in (1, 2)]
    assert any(not weights[0][name].equal(weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("step", [1, 2])
def test_lines_are_complete_and_grouped(run, step):
    lines = read_trajectories(run, step)
    groups = defaultdict(list)
    for line in lines:
        check_line(line, step=step)
        assert (line["values"], line["bonus"]) == (None, [])
        assert line["policy_version"] == {"min": step - 1, "max": step - 1}
        groups[line["uid"], line["sample_id"]].append(line["session"])
    assert [sorted(sessions) for sessions in groups.values()] == [list(range(GROUP))] * PROMPTS
    num_sampled = sum(tokens > 0 for line in lines for tokens in line["response_tokens"])
    assert check_credit(lines, _rows(run, step)) == num_sampled


def test_validation_is_recorded_and_lines_are_scored_again_to_the_same(run, tmp_path, capsys):
    check_validation(run / "trajectories", run / "needles" / "val.parquet", step=2)
    check_rescore(run / "trajectories", tmp_path / "again", capsys)
