# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Contradictions end the launch before Ray starts: the callback that the groups name, on verl's own command."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_module

from verl_videomtr.sample import Sample, write_rows
from verl_videomtr.verl_plugin.launch_check import check_launch


def make_sample(number=0, **changes):
    values = {
        "sample_id": f"s{number}",
        "index": number,
        "data_source": "test",
        "split": "train",
        "video": "v.mp4",
        "duration_seconds": 60.0,
        "question": "What is shown?",
        "options": ("a cat", "a dog"),
        "answer": "B",
        "question_type": "multiple_choice",
        "segments": ((3.0, 9.0),),
    }
    return Sample(**{**values, **changes})


def launch(*overrides):
    with initialize_config_module("verl.trainer.config", version_base=None):
        check_launch(compose("ppo_trainer", overrides=["+videomtr=paper", *overrides]))


@pytest.fixture
def grounded(tmp_path):
    return write_rows(tmp_path / "grounded.parquet", [make_sample(0), make_sample(1, segments=None)])


@pytest.fixture
def ungrounded(tmp_path):
    return write_rows(tmp_path / "ungrounded.parquet", [make_sample(segments=None, duration_seconds=None)])


def test_turn_rewards_need_ground_truth_in_some_row(grounded, ungrounded):
    launch(f"data.train_files={grounded}")
    launch(f"data.train_files=[{ungrounded},{grounded}]")
    with pytest.raises(ValueError, match=r"no row has ground-truth segments.*\+videomtr/ablation=no_turn_reward"):
        launch(f"data.train_files={ungrounded}")
    launch(f"data.train_files={ungrounded}", "+videomtr/ablation=no_turn_reward")
    launch(f"data.train_files={ungrounded}", "reward.custom_reward_function.path=mine.py")
    launch(f"data.train_files={ungrounded}", "+videomtr/loop=tool_agent")


def test_files_that_cannot_be_seen_from_here_are_left_to_verl():
    launch("data.train_files=hdfs://cluster/train.parquet")


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_verls_own_trainer_modes_cannot_feed_the_estimator(grounded, mode):
    with pytest.raises(ValueError, match=f"set trainer.v1.trainer_mode=video_mtr_{mode}"):
        launch(f"data.train_files={grounded}", f"trainer.v1.trainer_mode={mode}")
    launch(f"data.train_files={grounded}", f"trainer.v1.trainer_mode=video_mtr_{mode}")
    launch(f"data.train_files={grounded}", f"trainer.v1.trainer_mode={mode}", "algorithm.adv_estimator=grpo",
           "critic.enable=false", "videomtr.bootstrap.enabled=false")  # fmt: skip


def test_command_ends_with_one_line_before_ray(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", "+videomtr=paper", "critic.enable=false"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("verl_videomtr: algorithm.adv_estimator=bi_level_gae with critic.enable=False")
    assert "set critic.enable=true" in last
    assert "ray init" not in result.stdout
