# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The agent loop around verl's own class: what is returned, what is lost, and where rewards go."""

from __future__ import annotations

import pytest
from plugin_setting import LOOK, make_sample
from rollout_setting import ANSWER

from verl_videomtr.verl_plugin.agent_loop import place_rewards
from verl_videomtr.video.errors import VideoError

pytest_plugins = ["plugin_setting"]


@pytest.mark.parametrize("stop", ["error", "aborted", "abort"])
@pytest.mark.parametrize("tokens", [[], [1, 2]])
def test_response_that_the_server_did_not_finish_is_lost_and_never_trained(setting, stop, tokens):
    played = setting.play([LOOK, {"token_ids": tokens, "stop_reason": stop}])
    assert played.outputs == []
    assert f"stop_reason={stop!r}" in str(played.error)


def test_unreadable_video_is_lost(setting):
    played = setting.play([ANSWER], sample=make_sample(video="/videos/broken.mp4"))
    assert played.outputs == []
    assert isinstance(played.error, VideoError)


@pytest.mark.parametrize("max_turns", [1, 2, 3])
def test_response_without_tokens_is_an_invalid_turn(setting, max_turns):
    played = setting.play(
        [[], ANSWER][:max_turns], f"videomtr.episode.max_turns={max_turns}", "videomtr.bootstrap.enabled=false"
    )
    assert played.error is None
    trajectory = played.trajectory
    assert trajectory.episode["actions"] == ["invalid", "answer"][:max_turns]
    start, end = trajectory.turn_spans[0]
    assert start == end
    for output in played.outputs:
        assert output.response_ids
        assert len(output.response_ids) == len(output.response_mask) == len(output.token_rewards)


@pytest.mark.parametrize("window", [0, 1, 2])
@pytest.mark.parametrize("per_turn", ["bi_level_gae", "grpo"])
def test_reward_is_never_on_a_token_that_was_not_sampled(setting, window, per_turn):
    def reward(data_source, solution_str, ground_truth, extra_info):
        return {"turn_rewards": [0.0, -1.0, -2.0]}

    overrides = ["videomtr.bootstrap.enabled=false", f"videomtr.episode.window={window}"]
    overrides += [f"algorithm.adv_estimator={per_turn}", "critic.enable=true", "videomtr.episode.initial_frames=4"]
    played = setting.play([LOOK, [], []], *overrides, reward_fn=reward)
    placed = [
        (reward, mask)
        for output in played.outputs
        for reward, mask in zip(output.token_rewards, output.response_mask, strict=True)
        if reward
    ]
    # Both turns without tokens fall back on the look's last token, one and two discounts earlier.
    expected = -1.0 * 0.95 - 2.0 * 0.95**2 if per_turn == "bi_level_gae" else -3.0
    assert [mask for _, mask in placed] == [1]
    assert placed[0][0] == pytest.approx(expected)


def test_rows_without_responses_are_left_out(setting):
    overrides = ["videomtr.episode.max_turns=4", "videomtr.episode.window=1", "videomtr.episode.initial_frames=4"]
    played = setting.play([LOOK, LOOK, LOOK, []], *overrides)
    assert all(sum(output.response_mask) for output in played.outputs)
    assert max(played.trajectory.turn_rows) == len(played.outputs) - 1


def test_first_row_without_responses_is_left_out(setting):
    overrides = ["videomtr.episode.window=0", "videomtr.episode.initial_frames=4"]
    played = setting.play([[], LOOK, ANSWER], *overrides)
    assert [sum(output.response_mask) > 0 for output in played.outputs] == [True, True]
    assert (played.trajectory.turn_rows, played.trajectory.turn_spans[0]) == ([0, 0, 1], [0, 0])


def test_rewards_of_a_whole_trajectory_sit_on_its_last_sampled_token(setting):
    played = setting.play([LOOK, ANSWER], "algorithm.adv_estimator=grpo", "videomtr.bootstrap.enabled=false")
    (output,) = played.outputs
    assert [i for i, reward in enumerate(output.token_rewards) if reward] == [len(output.token_rewards) - 1]
    assert output.token_rewards[-1] == pytest.approx(sum(played.trajectory.turn_rewards))


def test_each_turns_reward_sits_on_its_last_token(setting):
    played = setting.play([LOOK, ANSWER])
    trajectory = played.trajectory
    (output,) = played.outputs
    placed = {i: reward for i, reward in enumerate(output.token_rewards) if reward}
    ends = [end - 1 for _, end in trajectory.turn_spans]
    assert placed == dict(zip(ends, trajectory.turn_rewards, strict=True))
    assert trajectory.turn_rewards == pytest.approx([0.6, 1.1])


def test_sampled_image_tokens_are_refused(setting):
    ids = setting.tokenizer.encode(f"{ANSWER}<|image_pad|>", add_special_tokens=False)
    played = setting.play([[*ids, setting.tokenizer.eos_token_id]])
    assert "image tokens beside those of its" in str(played.error)


def test_placing_keeps_the_sum_without_discount():
    masks = [[1, 1, 0, 1], [1]]
    rewards = place_rewards(
        masks, turn_rows=[0, 0, 1], turn_spans=[[0, 2], [3, 4], [0, 1]], turn_rewards=[1.0, 2.0, 3.0], per_turn=True
    )
    assert rewards == [[0.0, 1.0, 0.0, 2.0], [3.0]]
