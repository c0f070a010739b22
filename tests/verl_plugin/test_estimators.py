# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The registered estimator and what it reads beside verl's arguments: turns, bonus, accuracy, critic's values."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from plugin_setting import LOOK
from rollout_setting import ANSWER, WRONG

from verl_videomtr.credit import CreditConfig
from verl_videomtr.gae import assign_credit
from verl_videomtr.verl_plugin.batch_rows import TrajectoryRow, real_rows
from verl_videomtr.verl_plugin.estimators import batch_context, bi_level_gae_estimator, make_batch_context

pytest_plugins = ["plugin_setting"]


def one_row(trajectory, place=0):
    return [TrajectoryRow(place=place, number=0, trajectory=trajectory)]


def context_of(trajectory, *, bonus=0.5, width=200, **changes):
    trajectory = dataclasses.replace(trajectory, **changes)
    values = torch.zeros(1, width)
    return make_batch_context(one_row(trajectory), keys=["u_0_0"], values=values, bonus=bonus, credit=CreditConfig())


def test_bonus_sits_on_the_last_token_of_a_retrieval(setting):
    trajectory = setting.play([LOOK, "red", ANSWER]).trajectory
    context = context_of(trajectory)
    placed = {i: bonus for i, bonus in enumerate(context.bonus[0].tolist()) if bonus}
    assert placed == {trajectory.turn_spans[0][1] - 1: 0.5}


def test_retrieval_that_brought_nothing_back_earns_no_bonus(setting):
    spent = ["videomtr.episode.initial_frames=14", "videomtr.episode.retrieval_frames=2"]
    trajectory = setting.play([LOOK, LOOK, ANSWER], *spent).trajectory
    assert [bool(frames) for frames in trajectory.episode["returned"][:2]] == [True, False]
    assert trajectory.episode["format_ok"] == [True, True, True]
    context = context_of(trajectory)
    assert context.bonus.nonzero().tolist() == [[0, trajectory.turn_spans[0][1] - 1]]


def test_turn_ids_are_the_records_turns(setting):
    trajectory = setting.play([LOOK, ANSWER]).trajectory
    ids = context_of(trajectory).turn_ids[0]
    for turn, (start, end) in enumerate(trajectory.turn_spans):
        assert (ids[start:end] == turn).all()
    sampled = sum(end - start for start, end in trajectory.turn_spans)
    assert int((ids >= 0).sum()) == sampled


def test_literal_credit_takes_the_accuracy_reward_not_its_truth(setting):
    trajectory = setting.play([ANSWER]).trajectory
    assert context_of(trajectory, components={"acc": 0.9}).accuracy_rewards.tolist() == pytest.approx([0.9])
    assert context_of(trajectory, components={}).accuracy_rewards.tolist() == [1.0]


def test_rows_of_one_trajectory_share_an_id(setting):
    outputs = setting.play(
        [LOOK, LOOK, ANSWER], "videomtr.episode.window=0", "videomtr.episode.initial_frames=4"
    ).outputs
    rows = real_rows([{}] * 3, [output.extra_fields for output in outputs], all_needed=True)
    keys = ["u_0_0", "u_0_1", "u_0_2", "u_1_0"]
    context = make_batch_context(rows, keys=keys, values=torch.zeros(4, 200), bonus=0.0, credit=CreditConfig())
    ids = context.trajectory_ids.tolist()
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert [sorted(set(row.tolist()) - {-1}) for row in context.turn_ids] == [[0], [1], [2], []]


def test_estimator_is_the_cores_credit_with_the_bonus_added(setting):
    trajectory = setting.play([LOOK, WRONG]).trajectory
    torch.manual_seed(0)
    rewards, values = torch.randn(1, 200), torch.randn(1, 200)
    mask = torch.zeros(1, 200)
    for start, end in trajectory.turn_spans:
        mask[0, start:end] = 1
    context = dataclasses.replace(context_of(trajectory), values=values)
    with batch_context(context):
        found = bi_level_gae_estimator(token_level_rewards=rewards, response_mask=mask)
    expected = assign_credit("bi_level", rewards + context.bonus, values, mask, context.turn_ids)
    torch.testing.assert_close(found, expected)


def test_estimator_outside_the_plugins_trainer_says_which_one_to_take():
    with pytest.raises(RuntimeError, match="trainer_mode=video_mtr_sync"):
        bi_level_gae_estimator(token_level_rewards=torch.zeros(1, 2), response_mask=torch.ones(1, 2))
