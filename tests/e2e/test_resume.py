# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A run killed with SIGKILL goes on where its last whole checkpoint stands: exploration bootstrapping too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from record_checks import check_line, check_rescore
from trainer_runs import build_model, make_data, read_metrics, read_trajectories, train

from verl_videomtr.bootstrapping import BootstrapConfig, ExplorationBootstrap, Stage
from verl_videomtr.trajectory_files import read_file, step_file

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3000)]

STEPS, BATCH = 5, 8
# The policy retrieves in about half of its turns: this target is met in every batch, and a schedule that forgot its
# past would count from one again.
TARGET_RATE = 0.3
OVERRIDES = (
    f"data.train_batch_size={BATCH}",
    f"trainer.total_training_steps={STEPS}",
    "trainer.save_freq=1",
    f"videomtr.bootstrap.target_rate={TARGET_RATE}",
    "videomtr.bootstrap.patience=3",
)
PAID_STEPS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed in step 3; killed again while checkpoint 4 is being written; then left to end."""
    base = build_model()
    data = make_data(tmp_path_factory.mktemp("data"), num_train=2 * BATCH)
    folder = tmp_path_factory.mktemp("run")
    checkpoints = folder / "checkpoints"
    announced = checkpoints / "latest_checkpointed_iteration.txt"

    def is_announced(step):
        return announced.is_file() and announced.read_text().strip() == str(step)

    # verl writes a step's metrics after its checkpoint.
    train(folder, *OVERRIDES, data=data, model=base, kill_when=lambda: is_announced(2) and 2 in read_metrics(folder))
    assert is_announced(2)
    check_lines_of_killed_run(folder)
    half_written = checkpoints / "global_step_4" / "videomtr_state.json"
    goes_on = (*OVERRIDES, "trainer.resume_mode=auto")
    train(folder, *goes_on, data=data, model=base, kill_when=half_written.is_file)
    check_lines_of_killed_run(folder)
    assert is_announced(3), "the plugin's state must be there before verl announces the checkpoint as complete"
    train(folder, *goes_on, data=data, model=base)
    return folder


@pytest.fixture(scope="module")
def paid_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a policy that retrieves in some four of ten turns, so that most batches miss a target of half."""
    folder = tmp_path_factory.mktemp("paid")
    train(
        folder, f"data.train_batch_size={BATCH}", f"trainer.total_training_steps={PAID_STEPS}",
        "videomtr.bootstrap.target_rate=0.5",
        data=make_data(folder, num_train=2 * BATCH), model=build_model("make_habitual_model.py", "3", "seldom"),
    )  # fmt: skip
    return folder


def check_lines_of_killed_run(run: Path) -> None:
    """Hold that a step in the metrics has all its lines, and any other step all or none."""
    announced = read_metrics(run)
    for step in range(1, STEPS + 1):
        path = step_file(run / "trajectories", step)
        if step in announced or path.is_file():
            read = read_file(path)
            assert (len(read.played), read.num_cut) == (BATCH, 0), step
            for line in read.played:
                check_line(line, step=step)


def _replay(run: Path) -> dict[int, ExplorationBootstrap]:
    """The schedule after each step, from the trajectories that the steps were trained on."""
    schedule = ExplorationBootstrap(BootstrapConfig(target_rate=TARGET_RATE, patience=3))
    after = {}
    for step in range(1, STEPS + 1):
        actions = [action for t in read_trajectories(run, step) for action in t["episode"]["actions"]]
        schedule.update(actions.count("retrieve"), len(actions))
        after[step] = ExplorationBootstrap(schedule.config)
        after[step].load_state_dict(schedule.state_dict())
    return after


def test_every_step_was_trained_and_dumped_once(run, tmp_path, capsys):
    assert sorted(read_metrics(run)) == list(range(1, STEPS + 1))
    for step in range(1, STEPS + 1):
        assert len(read_trajectories(run, step)) == BATCH
    check_rescore(run / "trajectories", tmp_path / "again", capsys)


def test_stage_and_counter_go_on_as_if_nothing_had_happened(run):
    stages = list(Stage)
    metrics, replayed = read_metrics(run), _replay(run)
    for step, schedule in replayed.items():
        assert metrics[step]["videomtr/bootstrap/stage"] == stages.index(schedule.stage), step
        assert metrics[step]["videomtr/bootstrap/good_batches"] == schedule.num_good_batches, step
        state = json.loads((run / "checkpoints" / f"global_step_{step}" / "videomtr_state.json").read_text())
        assert state["bootstrap"] == schedule.state_dict()
    # A schedule that started anew at a resumption would be in another state.
    assert metrics[STEPS]["videomtr/bootstrap/stage"] > stages.index(Stage.COLD_START)


def test_bonus_is_in_the_advantage_and_not_in_the_reported_reward(run, paid_run):
    assert any(read_metrics(paid_run)[step]["videomtr/bootstrap/bonus"] > 0 for step in read_metrics(paid_run))
    for folder, num_steps in ((run, STEPS), (paid_run, PAID_STEPS)):
        metrics = read_metrics(folder)
        for step in range(1, num_steps + 1):
            check_rewards(torch.load(folder / f"step_{step}.pt", weights_only=False), metrics[step])


def check_rewards(recorded: dict, metrics: dict) -> None:
    """Hold what one step was trained on against what it says it was paid."""
    bonus = metrics["videomtr/bootstrap/bonus"]
    trajectories = [row["trajectory"] for row in recorded["rows"]]
    retrievals = sum(t["episode"]["actions"].count("retrieve") for t in trajectories)
    assert recorded["bonus"].sum().item() == pytest.approx(bonus * retrievals)
    rewards = torch.tensor([sum(t["turn_rewards"]) for t in trajectories])
    assert metrics["critic/score/mean"] == pytest.approx(rewards.mean().item(), abs=1e-5)
    returns = torch.tensor([row_returns[0].item() for row_returns in recorded["returns"]])
    # gamma_turn = 1 would make the first token's return the sum of all; with 0.95 it is that discounted.
    for row, trajectory in enumerate(trajectories):
        paid = [r + bonus * (a == "retrieve") for r, a in zip(
            trajectory["turn_rewards"], trajectory["episode"]["actions"], strict=True)]  # fmt: skip
        expected = sum(0.95**k * reward for k, reward in enumerate(paid))
        assert returns[row].item() == pytest.approx(expected, abs=1e-4)
