# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of real runs: on a disk that is really full, and counted over real restarts."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from trainer_runs import build_model, make_data, read_metrics, read_trajectories, train

from verl_videomtr.checkpoints import SAVING_MARK, TRACKER, list_complete

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

BATCH = 4
KEEP = ("trainer.max_actor_ckpt_to_keep={0}", "trainer.max_critic_ckpt_to_keep={0}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB in the place of a run's checkpoints; one of the tiny model's has 23 MB."""
    disk = tmp_path / "run" / "checkpoints"
    disk.mkdir(parents=True)
    if mount("-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def mount(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False)


def train_to(run: Path, data: Path, *, step: int, keep: int) -> str:
    return train(
        run, f"data.train_batch_size={BATCH}", f"trainer.total_training_steps={step}",
        "trainer.save_freq=1", "trainer.resume_mode=auto", *(key.format(keep) for key in KEEP),
        data=data, model=build_model(),
    )  # fmt: skip


def test_a_full_disk_keeps_what_was_complete_and_the_run_goes_on_from_there(small_disk, tmp_path):
    run = small_disk.parent
    data = make_data(tmp_path / "data", num_train=4 * BATCH)
    with pytest.raises(pytest.fail.Exception):
        train_to(run, data, step=3, keep=1)
    log = (run / "train_0.log").read_text(errors="replace")
    said = re.search(
        r"the checkpoint of step (\d+) could not be saved in (\S+), where (.*?) are free \((.*?)\); (.*)", log
    )
    assert said, log[-3000:]
    assert said[1] == "2"
    assert said[2] == str(small_disk)
    assert float(said[3].removesuffix(" MiB")) < 40 - 23
    assert said[5].startswith("step 1 is complete; make room there")
    assert [path.name for path in small_disk.glob("global_step_*")] == ["global_step_1"]
    assert list_complete(small_disk, ["actor", "critic"]) == [1]

    assert not mount("-o", "remount,size=200m", str(small_disk)).returncode
    train_to(run, data, step=2, keep=1)
    assert list_complete(small_disk, ["actor", "critic"]) == [2]
    assert not list(small_disk.rglob(SAVING_MARK))
    assert sorted(read_metrics(run)) == [1, 2]
    assert [len(read_trajectories(run, step)) for step in (1, 2)] == [BATCH, BATCH]


def test_the_number_to_keep_holds_over_restarts(tmp_path):
    run, data = tmp_path / "run", make_data(tmp_path / "data", num_train=4 * BATCH)
    checkpoints = run / "checkpoints"
    for last in (2, 4, 6):
        train_to(run, data, step=last, keep=2)
        assert list_complete(checkpoints, ["actor", "critic"]) == [last - 1, last]
        assert len(list(checkpoints.glob("global_step_*"))) == 2
        assert (checkpoints / TRACKER).read_text() == str(last)
    assert sorted(read_metrics(run)) == [1, 2, 3, 4, 5, 6]
    assert [len(read_trajectories(run, step)) for step in range(1, 7)] == 6 * [BATCH]
