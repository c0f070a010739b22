# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""An episode by hand: what is shown, what it costs, and how it ends. The laws are in test_episode_laws.py."""

from __future__ import annotations

import pytest

from verl_videomtr.episode import Episode, EpisodeConfig, StopReason, ground_truth_frames, spread
from verl_videomtr.prompts import Prompts


def make_episode(**config):
    return Episode(
        config=EpisodeConfig(**{"pool_size": 64, "frame_budget": 16, **config}),
        prompts=Prompts.load("tiny"),
        question="What?\nA. x\nB. y",
        times_seconds=[2.0 * i + 1 for i in range(64)],
        duration_seconds=128.0,
        segments=[(20.0, 30.0)],
    )


def test_papers_budget_is_half_then_quarters():
    config = EpisodeConfig(frame_budget=32)
    assert (config.overview_frames, config.frames_per_retrieval) == (16, 8)
    config = EpisodeConfig(frame_budget=32, max_turns=1)
    assert (config.overview_frames, config.frames_per_retrieval) == (32, 0)


def test_episode_by_hand():
    # Frames at 21, 23, 25, 27, 29 seconds lie in the segment: pool indices 10 to 14.
    episode = make_episode()
    assert episode.reset().frames == (0, 9, 18, 27, 36, 45, 54, 63)
    assert episode.initial_iou == 0.0
    observation = episode.step("<think>t</think><retrieve>10,13</retrieve>")
    assert observation.frames == (10, 11, 12, 13)
    assert episode.turns[0].returned_iou == pytest.approx(4 / 5)
    observation = episode.step("<think>t</think><retrieve>0,12</retrieve>")
    assert observation.frames == (0, 4, 8, 12)
    assert episode.turns[1].returned_iou == pytest.approx(1 / 8)
    assert episode.frames_shown == 16
    assert episode.step("<think>t</think><answer>B</answer>") is None
    assert (episode.stop_reason, episode.answer) == (StopReason.ANSWERED, "B")


def test_invalid_response_costs_its_turn_and_says_why():
    episode = make_episode()
    episode.reset()
    observation = episode.step("I retrieve everything")
    assert observation.frames == ()
    assert not episode.done
    episode.step("<think></think><retrieve>1,2</retrieve>")
    assert episode.step("<think></think><retrieve>1,2</retrieve>") is None
    assert episode.stop_reason is StopReason.TURN_LIMIT
    assert episode.record()["format_ok"] == [False, True, False]
    assert episode.answer is None


@pytest.mark.parametrize("turns_before", [0, 1, 2])
def test_response_that_ran_out_of_room_truncates_the_episode(turns_before):
    episode = make_episode()
    episode.reset()
    for _ in range(turns_before):
        episode.step("<think></think><retrieve>1,2</retrieve>")
    assert episode.step("<think>so lo", out_of_room=True) is None
    assert episode.stop_reason is StopReason.LENGTH_LIMIT


def test_answer_that_just_fitted_is_an_answer():
    episode = make_episode()
    episode.reset()
    assert episode.step("<think></think><answer>A</answer>", out_of_room=True) is None
    assert episode.stop_reason is StopReason.ANSWERED


def test_segment_between_frames_is_its_nearest_frame_and_is_counted():
    assert ground_truth_frames([(3.2, 3.4), (8.0, 13.0)], [1.0, 3.0, 5.0, 9.0, 13.0]) == ({1, 3, 4}, 1)
    # By its middle, 4.15: its start lies nearer to 3.0.
    assert ground_truth_frames([(3.4, 4.9)], [1.0, 3.0, 5.0]) == ({2}, 1)
    assert ground_truth_frames(None, [1.0]) == (frozenset(), 0)


@pytest.mark.parametrize(
    ("segments", "truth", "num_outside"),
    [
        ([(150.0, 170.0)], None, 1),  # annotated on a longer cut
        ([(64.0, 70.0)], None, 1),
        ([(60.0, 90.0)], [60, 61, 62, 63], 0),  # runs over the end
        ([(63.7, 90.0)], [63], 0),  # what is left of it lies behind the last frame, inside the video
        ([(10.0, 12.0), (150.0, 170.0)], [10, 11], 1),
        ([], None, 0),
        (None, None, 0),
    ],
)
def test_segment_outside_the_real_video_gives_no_frame(segments, truth, num_outside):
    episode = Episode(
        config=EpisodeConfig(pool_size=64),
        prompts=Prompts.load("tiny"),
        question="?",
        times_seconds=[i + 0.5 for i in range(64)],
        duration_seconds=64.0,
        segments=segments,
    )
    episode.reset()
    episode.step("<think></think><retrieve>60,63</retrieve>")
    record = episode.record()
    assert (record["truth"], record["num_segments_outside_video"]) == (truth, num_outside)
    # Without a segment left it is as if none had been annotated: no IoU, so no R_fms.
    assert (record["initial_iou"] is None) == (record["retrieval_ious"] == [None]) == (truth is None)


def test_retrieval_without_budget_parses_and_returns_nothing():
    config = EpisodeConfig(pool_size=16, frame_budget=4, initial_frames=2, retrieval_frames=2, max_turns=3)
    episode = Episode(
        config=config,
        prompts=Prompts.load("tiny"),
        question="?",
        times_seconds=range(16),
        duration_seconds=16.0,
        segments=[(1, 4)],
    )
    episode.reset()
    for _ in range(2):
        episode.step("<think></think><retrieve>1,9</retrieve>")
    record = episode.record()
    assert record["returned"] == [[1, 9], []]
    assert record["format_ok"] == [True, True]
    assert record["retrieval_ious"][1] is None


def test_spread_holds_both_ends_and_a_short_range_whole():
    assert spread(10, 20, 3) == [10, 15, 20]
    assert spread(4, 6, 8) == [4, 5, 6]
    assert spread(0, 9, 1) == [4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frame_budget": 3, "max_turns": 6}, "leaves no frame for each of the 5 retrievals"),
        ({"initial_frames": 40}, r"initial_frames=40; expected 1 to frame_budget=16"),
        ({"unit": "frames"}, "expected 'index' or 'seconds'"),
        ({"window": -1}, "window=-1; expected at least 0"),
    ],
)
def test_impossible_constants_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        make_episode(**values)


def test_pool_must_fit_the_configuration():
    with pytest.raises(ValueError, match="a pool of 0 frames; expected 1 to"):
        Episode(
            config=EpisodeConfig(),
            prompts=Prompts.load("tiny"),
            question="?",
            times_seconds=[],
            duration_seconds=1.0,
        )


def test_out_of_order_calls_are_refused():
    episode = make_episode()
    with pytest.raises(RuntimeError, match="call reset first"):
        episode.step("x")
    episode.reset()
    with pytest.raises(RuntimeError, match="called twice"):
        episode.reset()
    episode.truncate()
    with pytest.raises(RuntimeError, match="already ended"):
        episode.truncate()
