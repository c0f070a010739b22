# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One player for every policy: what it shows, when it stops, what it keeps; without verl and torch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rollout_setting import ANSWER, LOOK, SAMPLE, open_rollout

from verl_videomtr.episode import StopReason
from verl_videomtr.rollout import Message, OutOfRoom, Reply, play
from verl_videomtr.sample import SampleError
from verl_videomtr.video.errors import VideoError


class Policy:
    """Says what it is told to say, and remembers what it was shown."""

    def __init__(self, *replies, room: int = 99):
        self.replies = list(replies)
        self.room = room
        self.shown: list[tuple[Message, int]] = []

    async def show(self, message, *, context_start):
        if len(self.shown) == self.room:
            return False
        self.shown.append((message, context_start))
        return True

    async def respond(self):
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return Reply(text=reply) if isinstance(reply, str) else reply


async def test_plays_to_the_answer():
    rollout, policy = await open_rollout(), Policy(LOOK, ANSWER)
    await play(rollout, policy)
    assert rollout.episode.stop_reason is StopReason.ANSWERED
    assert [reply.text for reply in rollout.replies] == [LOOK, ANSWER]
    assert rollout.path == "/videos/v.mp4"
    assert set(rollout.seconds) == {"frames", "generate"}


async def test_pictures_stand_where_the_observation_names_frames():
    rollout, policy = await open_rollout(), Policy(LOOK, ANSWER)
    await play(rollout, policy)
    for turn, (message, _) in zip(rollout.episode.turns, policy.shown, strict=True):
        said = [int(part[0, 0, 0]) if isinstance(part, np.ndarray) else part for part in message.parts]
        assert said == list(turn.observation.parts)
        chat, images = message.as_chat()
        assert chat["role"] == "user"
        assert [part["image"] for part in chat["content"] if part["type"] == "image"] == images
        assert [np.asarray(image)[0, 0, 0] for image in images] == list(turn.observation.frames)


@pytest.mark.parametrize(("window", "starts"), [(0, [0, 1, 2]), (1, [0, 0, 1]), (2, [0, 0, 0])])
async def test_context_begins_where_the_window_does(window, starts):
    policy = Policy(LOOK, LOOK, ANSWER)
    await play(await open_rollout(window=window), policy)
    assert [start for _, start in policy.shown] == starts


@pytest.mark.parametrize("room", [0, 1, 2])
async def test_no_room_for_a_message_truncates(room):
    rollout = await open_rollout()
    await play(rollout, Policy(LOOK, LOOK, ANSWER, room=room))
    assert rollout.episode.stop_reason is StopReason.LENGTH_LIMIT
    assert len(rollout.episode.turns) == room


async def test_no_room_for_a_response_truncates():
    rollout = await open_rollout()
    await play(rollout, Policy(LOOK, OutOfRoom()))
    assert rollout.episode.stop_reason is StopReason.LENGTH_LIMIT
    assert len(rollout.replies) == len(rollout.episode.turns) == 1


async def test_response_cut_for_lack_of_room_ends_the_episode():
    rollout = await open_rollout()
    await play(rollout, Policy(Reply(text="<think>", out_of_room=True), ANSWER))
    assert rollout.episode.stop_reason is StopReason.LENGTH_LIMIT
    assert len(rollout.episode.turns) == 1


async def test_server_that_fails_is_no_invalid_turn():
    rollout = await open_rollout()
    with pytest.raises(ConnectionError):
        await play(rollout, Policy(LOOK, ConnectionError("gone")))
    assert not rollout.episode.done
    assert len(rollout.episode.turns) == 1


async def test_bad_video_and_bad_path_raise_with_their_names():
    with pytest.raises(VideoError, match="broken"):
        await open_rollout(dataclasses.replace(SAMPLE, video="broken.mp4"))
    with pytest.raises(SampleError, match="outside the video root"):
        await open_rollout(dataclasses.replace(SAMPLE, video="/elsewhere/v.mp4"))


@pytest.mark.parametrize("module", ["rollout", "settings", "scoring", "trajectory", "tool_calls"])
def test_core_imports_neither_torch_nor_verl(module):
    program = f"import sys, verl_videomtr.{module}; print(sorted({{'torch', 'verl', 'ray'}} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert result.stdout.strip() == "[]", result.stderr
