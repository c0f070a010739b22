# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""verl's own saving and loading inside ours: what stays, what is resumed from, and what a failed save leaves.

The trainer is the real one; its workers write real files, and one of them can run out of disk.
"""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from doctor_setting import Composed
from omegaconf import open_dict

from verl_videomtr import checkpoints
from verl_videomtr.checkpoints import SAVING_MARK, TRACKER

GRPO = ["+videomtr=paper", "+videomtr/ablation=grpo"]


class Workers:
    """In the place of verl's worker group: writes a file where FSDP writes shards."""

    def __init__(self) -> None:
        self.workers: list = []
        self.loaded: list[str] = []
        self.full = False
        self.kept: list[int | None] = []

    def save_checkpoint(self, local_path, remote_path, global_step, max_ckpt_to_keep=None):
        self.kept.append(max_ckpt_to_keep)
        Path(local_path).mkdir(parents=True)
        (Path(local_path) / "model.pt").write_bytes(b"weights")
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def load_checkpoint(self, local_path, del_local_after_load):
        self.loaded.append(local_path)


@pytest.fixture(scope="module")
def composed():
    return Composed(GRPO)


@pytest.fixture
def make_trainer(composed, tmp_path, monkeypatch):
    from verl.trainer.ppo.v1 import get_trainer_cls

    monkeypatch.setattr(ray, "get", lambda references: references)

    def make(keep: int | None = 2):
        config = composed.config()
        with open_dict(config):
            config.trainer.default_local_dir = str(tmp_path / "checkpoints")
            config.trainer.max_actor_ckpt_to_keep = keep
            config.trainer.resume_mode = "auto"
        trainer = get_trainer_cls("video_mtr_sync")(config)
        trainer.actor_rollout_wg = Workers()
        state = SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)
        trainer.train_dataloader = state
        return trainer

    return make


def save(trainer, *steps: int) -> None:
    for step in steps:
        trainer.global_steps = step
        trainer._save_checkpoint()


def steps_of(trainer) -> list[int]:
    folders = Path(trainer.config.trainer.default_local_dir).glob("global_step_*")
    return sorted(int(path.name.removeprefix("global_step_")) for path in folders)


def test_numbers_to_keep_hold_over_restarts_and_verl_removes_nothing_itself(make_trainer):
    for steps in ((1, 2), (3, 4), (5, 6)):
        trainer = make_trainer(keep=2)
        trainer._load_checkpoint()
        assert trainer.global_steps == steps[0] - 1
        save(trainer, *steps)
    assert steps_of(trainer) == [5, 6]
    assert trainer.actor_rollout_wg.kept == [None, None]
    assert trainer.config.trainer.max_actor_ckpt_to_keep == 2


def test_a_full_disk_loses_nothing_that_was_complete_and_says_what_to_do(make_trainer):
    trainer = make_trainer(keep=1)
    save(trainer, 1)
    trainer.actor_rollout_wg.full = True
    with pytest.raises(RuntimeError, match=r"step 2 could not be saved.*step 1 is complete; make room there") as caught:
        save(trainer, 2)
    assert "No space left on device" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert steps_of(trainer) == [1]
    after = make_trainer(keep=1)
    after._load_checkpoint()
    assert after.global_steps == 1
    assert after.actor_rollout_wg.loaded[0].endswith("global_step_1/actor")


@pytest.mark.parametrize("full_for", ["mark_saving", "the schedule", "mark_complete"])
def test_a_disk_that_is_full_for_the_plugins_own_files_is_named_too(make_trainer, monkeypatch, full_for):
    trainer = make_trainer()
    save(trainer, 1)

    def refuse(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, name = (trainer.schedule, "save") if full_for == "the schedule" else (checkpoints, full_for)
    monkeypatch.setattr(owner, name, refuse)
    with pytest.raises(
        RuntimeError, match=r"step 2 could not be saved in .*No space left on device\); step 1 is compl"
    ):
        save(trainer, 2)
    assert steps_of(trainer) == [1]


def test_a_folder_that_cannot_be_made_is_named(make_trainer, tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(RuntimeError, match=r"could not be saved in \S+/checkpoints, .*there is no complete one"):
        save(make_trainer(), 1)


def test_a_run_killed_while_saving_resumes_from_the_step_before_with_its_schedule(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.schedule.bootstrap.num_good_batches = 3
    save(trainer, 1)
    trainer.schedule.bootstrap.num_good_batches = 4

    def die(*_args, **_kwargs):
        raise KeyboardInterrupt  # as a kill: nothing behind it runs

    monkeypatch.setattr(trainer.actor_rollout_wg, "save_checkpoint", die)
    with pytest.raises(KeyboardInterrupt):
        save(trainer, 2)
    root = Path(trainer.config.trainer.default_local_dir)
    assert (root / "global_step_2" / SAVING_MARK).exists()
    (root / TRACKER).write_text("")  # verl empties it before it writes
    after = make_trainer()
    after._load_checkpoint()
    assert after.global_steps == 1
    assert after.schedule.bootstrap.num_good_batches == 3
    save(after, 2)
    assert steps_of(after) == [1, 2]
    assert not (root / "global_step_2" / SAVING_MARK).exists()


def test_a_checkpoint_that_verl_completes_later_is_left_to_verl(make_trainer):
    trainer = make_trainer()
    with open_dict(trainer.config):
        trainer.config.actor_rollout_ref.actor.checkpoint.async_save = True
    save(trainer, 1)
    assert trainer.actor_rollout_wg.kept == [2]
    assert not (Path(trainer.config.trainer.default_local_dir) / TRACKER).exists()
