# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the trainer modes add to verl's, each by itself: counters, mini-batches, schedule, rows of a batch."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf
from plugin_setting import LOOK
from rollout_setting import ANSWER

from verl_videomtr.bootstrapping import BootstrapConfig, Stage
from verl_videomtr.verl_plugin.batch_rows import ROW_FIELD, TRAJECTORY_FIELD, distinct_trajectories, real_rows
from verl_videomtr.verl_plugin.frame_counters import FrameCounters
from verl_videomtr.verl_plugin.mini_batches import mini_batches_of_rows, row_multiple
from verl_videomtr.verl_plugin.schedule import STATE_FILE, Schedule

pytest_plugins = ["plugin_setting"]


def report(worker: str, reads: float, pools: float) -> dict:
    return {"worker": worker, "counted": {"f/frames_read": reads, "f/open_pools": pools}}


def test_frame_counts_are_the_steps_own_and_levels_are_the_latest():
    counters = FrameCounters()
    # Reports of one worker come in any order: the largest count is the latest.
    first = counters.since_last([report("a", 5, 2), report("a", 3, 2), report("b", 10, 1)])
    assert first == {"f/frames_read": 15, "f/open_pools": 3}
    assert counters.since_last([report("a", 9, 4)]) == {"f/frames_read": 4, "f/open_pools": 5}
    assert counters.since_last([]) == {"f/frames_read": 0, "f/open_pools": 5}


def roles(batch=8, actor=4, critic=8, n=1):
    return OmegaConf.create(
        {
            "data": {"train_batch_size": batch},
            "actor_rollout_ref": {"actor": {"ppo_mini_batch_size": actor}, "rollout": {"n": n}},
            "critic": {"ppo_mini_batch_size": critic},
        }
    )


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("rows_per_trajectory", [1, 5])
def test_rows_divide_into_the_mini_batches_of_trajectories(n, rows_per_trajectory):
    config = roles(n=n)
    both = [config.critic, config.actor_rollout_ref.actor]
    multiple = row_multiple(config, both, dp_size=2, base_mode="sync")
    assert multiple == 2 * n * 2  # ranks, sessions, and the actor's two steps
    num_rows = multiple * rows_per_trajectory
    for role, num_steps in zip(both, (1, 2), strict=True):
        before = role.ppo_mini_batch_size
        with mini_batches_of_rows(config, role, num_rows=num_rows, base_mode="sync"):
            size = role.ppo_mini_batch_size * n  # as verl counts it
        assert size * num_steps == num_rows
        assert size % 2 == 0
        assert role.ppo_mini_batch_size == before


def test_separate_trainer_takes_one_step_a_batch():
    config = roles()
    assert row_multiple(config, [config.actor_rollout_ref.actor], dp_size=2, base_mode="separate_async") == 2
    with mini_batches_of_rows(config, config.critic, num_rows=12, base_mode="separate_async"):
        assert config.critic.ppo_mini_batch_size == 12


def test_sizes_are_put_back_when_the_update_fails():
    config = roles()
    with pytest.raises(ZeroDivisionError), mini_batches_of_rows(config, config.critic, num_rows=24, base_mode="sync"):
        assert 1 / 0
    assert config.critic.ppo_mini_batch_size == 8


def test_schedule_counts_the_batch_and_survives_a_checkpoint(setting, tmp_path):
    trajectory = setting.play([LOOK, ANSWER]).trajectory
    schedule, metrics = Schedule(BootstrapConfig()), {}
    assert schedule.next_bonus([trajectory] * 2, metrics) == 0.0  # half of the turns retrieve: the target
    assert metrics == {
        "videomtr/bootstrap/bonus": 0.0,
        "videomtr/bootstrap/stage": 1.0,
        "videomtr/bootstrap/good_batches": 1.0,
    }
    schedule.save(tmp_path / "global_step_3")
    resumed = Schedule(BootstrapConfig())
    resumed.load(tmp_path / "global_step_3")
    assert resumed.bootstrap.state_dict() == schedule.bootstrap.state_dict()
    assert [path.name for path in (tmp_path / "global_step_3").iterdir()] == [STATE_FILE]


def test_schedule_without_a_state_starts_anew_and_says_so(tmp_path, caplog):
    schedule = Schedule(BootstrapConfig())
    schedule.load(tmp_path)
    assert schedule.bootstrap.stage is Stage.COLD_START
    assert "starts again" in caplog.text


def test_schedule_refuses_a_state_that_is_none(tmp_path):
    (tmp_path / STATE_FILE).write_text(json.dumps({"bootstrap": {"stage": "later"}}))
    with pytest.raises(ValueError, match="bootstrap state"):
        Schedule(BootstrapConfig()).load(tmp_path)


def test_padding_rows_are_left_out_and_a_trajectory_counts_once(setting):
    overrides = ["videomtr.episode.window=0", "videomtr.episode.initial_frames=4"]
    outputs = setting.play([LOOK, LOOK, ANSWER], *overrides).outputs
    extra = [output.extra_fields for output in outputs]
    rows = real_rows([{}, {}, {}, {"is_padding": True}], [*extra, extra[0]], all_needed=True)
    assert [(row.place, row.number) for row in rows] == [(0, 0), (1, 1), (2, 2)]
    assert len(distinct_trajectories(rows)) == 1


def test_rows_of_another_loop_are_refused_where_their_record_is_needed():
    assert real_rows([{}], [{ROW_FIELD: 0}], all_needed=False) == []
    with pytest.raises(RuntimeError, match=r"of another agent loop than video_mtr.*adv_estimator=grpo"):
        real_rows([{}], [{ROW_FIELD: 0}], all_needed=True)
    assert TRAJECTORY_FIELD == "videomtr"
