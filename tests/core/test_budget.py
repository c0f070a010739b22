# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Token arithmetic of an episode, by hand, and against the episode itself."""

from __future__ import annotations

import pytest

from verl_videomtr.budget import (
    Needs,
    RowSize,
    TextTokens,
    largest_frame_tokens,
    most_frames,
    played_rows,
    round_up,
    worst_rows,
)
from verl_videomtr.episode import Episode, EpisodeConfig
from verl_videomtr.prompts import Prompts
from verl_videomtr.video.plan import PoolConfig

TEXT = TextTokens(instructions=100, message=10, frame=1)


def test_the_papers_episode_is_one_row():
    # 16 frames in the prompt, two looks of 8 behind it, three responses of 512.
    rows = worst_rows(EpisodeConfig(), frame_tokens=9, max_response_tokens=512, text=TEXT)
    assert rows == [RowSize(prompt_tokens=100 + 10 + 160, response_tokens=3 * 512 + 2 * (10 + 80), num_frames=32)]
    assert rows[0].tokens == 1986


def test_a_single_turn_shows_the_whole_budget_in_its_prompt():
    config = EpisodeConfig(frame_budget=4, max_turns=1)
    rows = worst_rows(config, frame_tokens=9, max_response_tokens=5, text=TEXT)
    assert rows == [RowSize(prompt_tokens=100 + 10 + 40, response_tokens=5, num_frames=4)]


def test_a_sliding_context_becomes_a_row_per_further_turn():
    # B 10, n_0 4, five turns: n_k 1 by default, here 2; w = 1. Row 0 holds turns 0 and 1.
    config = EpisodeConfig(frame_budget=10, initial_frames=4, retrieval_frames=2, max_turns=5, window=1)
    rows = worst_rows(config, frame_tokens=9, max_response_tokens=50, text=TEXT)
    slid = RowSize(prompt_tokens=100 + 2 * (10 + 20) + 50, response_tokens=50, num_frames=4)
    assert rows == [RowSize(prompt_tokens=100 + 10 + 40, response_tokens=50 + 30 + 50, num_frames=6), slid, slid, slid]
    assert Needs.of(rows) == Needs(prompt_tokens=210, response_tokens=130, row_tokens=280, num_frames=6)


def test_a_window_shows_no_more_than_the_budget_leaves():
    config = EpisodeConfig(frame_budget=10, initial_frames=4, retrieval_frames=5, max_turns=4, window=2)
    rows = worst_rows(config, frame_tokens=9, max_response_tokens=50, text=TEXT)
    assert [row.num_frames for row in rows] == [10, 6]


def test_a_window_of_zero_shows_only_the_current_observation():
    config = EpisodeConfig(frame_budget=8, initial_frames=4, max_turns=3, window=0)
    rows = worst_rows(config, frame_tokens=9, max_response_tokens=50, text=TEXT)
    assert [(row.prompt_tokens, row.response_tokens, row.num_frames) for row in rows] == [
        (150, 50, 4),
        (130, 50, 2),
        (130, 50, 2),
    ]


@pytest.mark.parametrize(
    "config",
    [
        EpisodeConfig(),
        EpisodeConfig(frame_budget=33, max_turns=5),
        EpisodeConfig(frame_budget=24, max_turns=6, window=1),
        EpisodeConfig(frame_budget=24, max_turns=4, window=0, retrieval_frames=3),
        EpisodeConfig(pool_size=8, frame_budget=32),
        EpisodeConfig(frame_budget=16, max_turns=1),
    ],
)
def test_the_worst_rows_are_those_of_an_episode_that_retrieves_all_it_can(config):
    episode = Episode(
        config=config,
        prompts=Prompts.load("default"),
        question="?",
        times_seconds=[float(i) for i in range(config.pool_size)],
        duration_seconds=float(config.pool_size),
    )
    observation, frames = episode.reset(), []
    while observation is not None:
        frames.append(len(observation.frames))
        observation = episode.step(f"<think></think><retrieve>0,{config.pool_size - 1}</retrieve>")
    played = played_rows(
        config, frames_per_turn=frames, response_tokens_per_turn=[50] * len(frames), frame_tokens=9, text=TEXT
    )
    assert played == worst_rows(config, frame_tokens=9, max_response_tokens=50, text=TEXT)


def test_played_rows_want_one_number_per_turn():
    with pytest.raises(ValueError, match=r"2 observations and 1 responses; expected as many"):
        played_rows(EpisodeConfig(), frames_per_turn=[16, 8], response_tokens_per_turn=[5], frame_tokens=9)
    with pytest.raises(ValueError, match=r"4 observations.*max_turns=3"):
        played_rows(EpisodeConfig(), frames_per_turn=[1] * 4, response_tokens_per_turn=[1] * 4, frame_tokens=9)


def test_frames_of_the_default_pool_are_of_128_tokens():
    assert largest_frame_tokens(PoolConfig()) == 128
    assert largest_frame_tokens(PoolConfig(size=(28, 56))) == 2
    assert largest_frame_tokens(PoolConfig(patch_px=16, max_tokens=128)) == 128


def test_lengths_are_rounded_up_to_whole_steps():
    assert [round_up(tokens) for tokens in (1, 256, 257)] == [256, 256, 512]


@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        ({"frame_budget": 16, "max_turns": 5, "initial_frames": 6}, 14),  # what does not divide is never shown
        ({"frame_budget": 16, "max_turns": 3, "initial_frames": 8, "retrieval_frames": 7}, 16),
        ({"frame_budget": 32, "max_turns": 3, "initial_frames": 16, "retrieval_frames": 4}, 24),
        ({"frame_budget": 32, "max_turns": 1}, 32),
    ],
)
def test_most_frames_are_those_of_an_episode_that_looks_in_every_turn(settings, frames):
    assert most_frames(EpisodeConfig(**settings)) == frames
