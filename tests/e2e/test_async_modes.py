# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The asynchronous trainer modes on the CPU: two steps each, with the advantages of the core.

`separate_async` moves weights between devices with an engine that verl ships for GPUs, NPUs and RDMA only
(verl/checkpoint_engine), and refuses `naive` (verl/trainer/ppo/v1/trainer_separate_async.py); the test brings one that
goes through a file. What stays out of reach on a CPU is time: rollout and training share its cores.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from record_checks import check_credit, check_line, check_rescore, check_validation
from trainer_runs import build_model, core_advantages, make_data, pad, read_metrics, train, trajectory

from verl_videomtr.sample import read_rows, write_rows
from verl_videomtr.trajectory_files import read_file, step_file

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1500)]

BATCH = 4

MODES = {
    "video_mtr_colocate_async": [],
    "video_mtr_separate_async": [
        "trainer.v1.separate_async.parameter_sync_step=2",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH // 2}",
        f"critic.ppo_mini_batch_size={BATCH // 2}",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=1",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=file",
        "actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module=file_checkpoint_engine",
        "ray_kwargs.ray_init.num_gpus=2",
    ],
}


@pytest.fixture(scope="module", params=MODES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Two steps; the third row's video is none, and validations stand before and behind."""
    folder = tmp_path_factory.mktemp(request.param)
    data = make_data(folder, num_train=4 * BATCH)
    rows = read_rows(data / "train.parquet")
    (data / "broken.mp4").write_bytes(b"this is not a video" * 100)
    rows[2] = dataclasses.replace(rows[2], sample_id="broken", video="broken.mp4")
    write_rows(data / "train.parquet", rows)
    train(
        folder,
        f"trainer.v1.trainer_mode={request.param}",
        f"data.train_batch_size={BATCH}",
        "trainer.total_training_steps=2",
        "trainer.val_before_train=true",
        "trainer.test_freq=2",
        "videomtr.video.max_unreadable_share=0.5",
        *MODES[request.param],
        data=data,
        model=build_model(),
        probe="stock_probe",
    )
    return request.param, folder


def test_two_steps_are_trained_with_the_cores_advantages(run):
    mode, folder = run
    for number in (1, 2):
        step = torch.load(folder / f"step_{number}.pt", weights_only=False)
        rows = [row for row in step["rows"] if not row["is_padding"]]
        # The last of the step's updates where it has two.
        size = BATCH // 2 if mode == "video_mtr_separate_async" else BATCH
        assert len(rows) in (size, size - 1)
        assert all(trajectory(row)["episode"]["responses"] for row in rows)
        advantages, returns = core_advantages(rows, bonus=step["metrics"]["videomtr/bootstrap/bonus"])
        assert (advantages != 0).any()
        torch.testing.assert_close(pad(rows, "advantages"), advantages, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pad(rows, "returns"), returns, atol=1e-5, rtol=1e-5)


def test_rollouts_ran_ahead_and_new_weights_reached_them(run):
    mode, folder = run
    metrics = read_metrics(folder)
    assert {1, 2} <= set(metrics)
    # Sampled with the weights from before the first step, trained on in it or later.
    assert metrics[2]["training/off_policy/trajectory_staleness/max"] >= 1
    # In separate mode the second update of a step is on samples from before its first.
    bound = 1e-2 if mode == "video_mtr_separate_async" else 1e-3
    assert metrics[1]["training/rollout_probs_diff_max"] < bound
    assert metrics[2]["actor/grad_norm"] > 0


def test_every_trajectory_that_was_trained_has_a_complete_line(run):
    _, folder = run
    lines = {step: read_file(step_file(folder / "trajectories", step)) for step in (1, 2)}
    for step, read in lines.items():
        assert len(read.played) in (BATCH, BATCH - 1)
        for line in read.played:
            check_line(line, step=step)
            num_turns = len(line["turn_rewards"])
            assert {len(line[name]) for name in ("advantages", "returns", "values", "bonus")} == {num_turns}
        rows = torch.load(folder / f"step_{step}.pt", weights_only=False)["rows"]
        assert check_credit(read.played, rows) > 0
    names = [(line["uid"], line["session"]) for read in lines.values() for line in read.played]
    assert len(set(names)) == len(names)


def test_the_lost_trajectory_has_a_line(run):
    _, folder = run
    lost = [line for step in (1, 2) for line in read_file(step_file(folder / "trajectories", step)).lost]
    assert [(line["sample_id"], line["kind"], line["session"]) for line in lost] == [("broken", "unreadable", 0)]
    assert lost[0]["uid"]
    assert "broken.mp4" in lost[0]["error"]


def test_validations_are_recorded_with_their_samples(run):
    _, folder = run
    for step in (0, 2):
        check_validation(folder / "trajectories", folder / "needles" / "val.parquet", step=step)


def test_lines_are_scored_again_to_the_same(run, tmp_path, capsys):
    check_rescore(run[1] / "trajectories", tmp_path / "again", capsys)
