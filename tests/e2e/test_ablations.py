# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Each ablation is one override; a real run under it differs from the paper's where it should, and only there.

What a run did is recorded turn by turn, so what the paper's reward and credit would have been on the very same
episodes can be computed beside what the run got.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_runs import build_model, make_data, read_metrics, train

from verl_videomtr.gae import Credit, assign_credit
from verl_videomtr.rewards import RewardConfig, turn_rewards
from verl_videomtr.sample import read_rows, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3000)]

BATCH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation:
    """What an override changes; everything else is as the paper has it."""

    reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
    credit: Credit = Credit.BI_LEVEL
    gamma_turn: float = 0.95
    has_bonus: bool = True
    max_turns: int = 3
    frames_at_once: int = 8


ABLATIONS = {
    "paper": Ablation(),
    "no_gate": Ablation(reward=RewardConfig(gate="none")),
    "no_turn_reward": Ablation(reward=RewardConfig(turn_level=False)),
    "accuracy_only": Ablation(reward=RewardConfig(accuracy_only=True)),
    "single_turn": Ablation(max_turns=1, frames_at_once=16, has_bonus=False),
    "no_bootstrapping": Ablation(has_bonus=False),
    "plain_gae": Ablation(credit=Credit.PLAIN),
    "literal_credit": Ablation(credit=Credit.LITERAL),
    "released_code": Ablation(reward=RewardConfig.preset("released_code"), gamma_turn=1.0),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first half of each video is its evidence: each retrieval of this policy then changes the IoU, up or down."""
    folder = make_data(tmp_path_factory.mktemp("data"), num_train=BATCH)
    rows = read_rows(folder / "train.parquet")
    rows = [dataclasses.replace(row, segments=((0.0, row.duration_seconds / 2),)) for row in rows]
    write_rows(folder / "train.parquet", rows)
    return folder


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Callable[[str], tuple[Path, dict]]:
    """One step under an ablation, run when it is first asked for: its folder and what its estimator saw."""
    runs: dict[str, tuple[Path, dict]] = {}

    def get(name: str) -> tuple[Path, dict]:
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            train(
                folder, *_overrides(name), f"data.train_batch_size={BATCH}",
                # However often the policy retrieves, its first batch is paid.
                "videomtr.bootstrap.cold_start_rate=1.0", "videomtr.bootstrap.target_rate=1.0",
                "trainer.total_training_steps=1", data=data, model=build_model(),
            )  # fmt: skip
            runs[name] = folder, torch.load(folder / "step_1.pt", weights_only=False)
        return runs[name]

    return get


def _overrides(name: str) -> list[str]:
    if name == "paper":
        return []
    if name == "released_code":
        # The preset's own pool and pixels are not the tiny model's; credit, reward and schedule are.
        return ["+reward.custom_reward_function.reward_kwargs.preset=released_code", "videomtr.credit.gamma_turn=1.0"]
    if name == "single_turn":
        # The group makes room for 80 large frames; the tiny model's context is shorter.
        return ["+videomtr/ablation=single_turn", "data.max_prompt_length=256"]
    return [f"+videomtr/ablation={name}"]


def _turn_rewards(trajectory: dict[str, Any], config: RewardConfig) -> list[float]:
    episode = trajectory["episode"]
    return turn_rewards(
        correct=trajectory["correct"],
        format_ok=episode["format_ok"],
        initial_iou=episode["initial_iou"],
        retrieval_ious=episode["retrieval_ious"],
        config=config,
    )


def _turn_ids(step: dict) -> torch.Tensor:
    turn_ids = torch.full(step["rewards"].shape, -1)
    for place, row in enumerate(step["rows"]):
        for turn, (start, end) in enumerate(row["trajectory"]["turn_spans"]):
            turn_ids[place, start:end] = turn
    return turn_ids


def _credit(step: dict, form: Credit, gamma_turn: float) -> torch.Tensor:
    turn_ids = _turn_ids(step)
    accuracy = torch.tensor([row["trajectory"]["components"]["acc"] for row in step["rows"]])
    advantages, _ = assign_credit(
        form, step["rewards"] + step["bonus"], step["values"], (turn_ids >= 0).long(), turn_ids,
        accuracy_rewards=accuracy, gamma_turn=gamma_turn,
    )  # fmt: skip
    return advantages


@pytest.mark.parametrize("name", ABLATIONS)
def test_rewards_are_the_ablations_on_the_very_episodes_of_the_run(run_of, name):
    _, step = run_of(name)
    expected = ABLATIONS[name]
    differs = 0
    for row in step["rows"]:
        rewards = row["trajectory"]["turn_rewards"]
        assert rewards == pytest.approx(_turn_rewards(row["trajectory"], expected.reward))
        differs += rewards != pytest.approx(_turn_rewards(row["trajectory"], RewardConfig()))
    has_own_reward = expected.reward != RewardConfig()
    assert (differs > 0) == has_own_reward


@pytest.mark.parametrize("name", ABLATIONS)
def test_credit_is_the_ablations_and_no_other(run_of, name):
    _, step = run_of(name)
    expected = ABLATIONS[name]
    torch.testing.assert_close(step["advantages"], _credit(step, expected.credit, expected.gamma_turn))
    as_in_the_paper = torch.allclose(step["advantages"], _credit(step, Credit.BI_LEVEL, 0.95), atol=1e-4)
    has_own_credit = (expected.credit, expected.gamma_turn) != (Credit.BI_LEVEL, 0.95)
    assert as_in_the_paper != has_own_credit


@pytest.mark.parametrize("name", ABLATIONS)
def test_bonus_is_paid_unless_the_ablation_takes_it_away(run_of, name):
    folder, step = run_of(name)
    retrievals = sum(row["trajectory"]["episode"]["actions"].count("retrieve") for row in step["rows"])
    bonus = read_metrics(folder)[1]["videomtr/bootstrap/bonus"]
    assert (bonus > 0) == ABLATIONS[name].has_bonus
    assert step["bonus"].sum().item() == pytest.approx(bonus * retrievals)


@pytest.mark.parametrize("name", ABLATIONS)
def test_episodes_are_played_as_in_the_paper_unless_there_is_a_single_turn(run_of, name):
    _, step = run_of(name)
    episodes = [row["trajectory"]["episode"] for row in step["rows"]]
    expected = ABLATIONS[name]
    assert all(episode["max_turns"] == expected.max_turns for episode in episodes)
    assert all(len(episode["frames"][0]) == expected.frames_at_once for episode in episodes)
    assert all(sum(map(len, episode["frames"])) <= 16 for episode in episodes)
    assert (max(len(episode["actions"]) for episode in episodes) > 1) == (expected.max_turns > 1)
