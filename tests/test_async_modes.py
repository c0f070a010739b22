"""The asynchronous mode on shared devices, on the CPU: two steps, with the advantages of the core.

What stays out of reach on a CPU is time: rollout and training share its cores.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trainer_runs import build_model, core_advantages, make_data, pad, read_metrics, train, trajectory

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1500)]

BATCH = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colocate")
    train(
        folder,
        "+videomtr=paper",
        "+videomtr/device=cpu",
        "+videomtr/model=tiny",
        "trainer.v1.trainer_mode=video_mtr_colocate_async",
        f"data.train_batch_size={BATCH}",
        "trainer.total_training_steps=2",
        data=make_data(folder / "data", 4 * BATCH),
        model=build_model("make_habitual_model.py"),
        probe="stock_probe",
    )
    return folder


def test_two_steps_are_trained_with_the_cores_advantages(run):
    for number in (1, 2):
        step = torch.load(run / f"step_{number}.pt", weights_only=False)
        rows = [row for row in step["rows"] if not row["is_padding"]]
        assert len(rows) == BATCH
        assert all(trajectory(row)["episode"]["responses"] for row in rows)
        advantages, returns = core_advantages(rows, bonus=step["metrics"]["videomtr/bootstrap/bonus"])
        assert (advantages != 0).any()
        torch.testing.assert_close(pad(rows, "advantages"), advantages, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pad(rows, "returns"), returns, atol=1e-5, rtol=1e-5)


def test_rollouts_ran_ahead_and_new_weights_reached_them(run):
    metrics = read_metrics(run)
    assert {1, 2} <= set(metrics)
    # Sampled with the weights from before the first step, trained on in it or later.
    assert metrics[2]["training/off_policy/trajectory_staleness/max"] >= 1
    assert metrics[1]["training/rollout_probs_diff_max"] < 1e-3
    assert metrics[2]["actor/grad_norm"] > 0
