# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""An episode behind native tool calls: what a call returns, what it costs, and what an unusable one is told."""

from __future__ import annotations

import awkward_videos as awkward
import numpy as np
import pytest

from verl_videomtr.episode import EpisodeConfig, ground_truth_frames, iou, spread
from verl_videomtr.prompts import Prompts
from verl_videomtr.sample import Sample, SampleError
from verl_videomtr.tool_calls import ToolEpisode
from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.pool import PoolConfig
from verl_videomtr.video.service import FrameService

POOL = 16
SEGMENT = (0.5, 1.0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    awkward.write_video(folder / "counted.mp4", count=60)
    (folder / "broken.mp4").write_bytes(b"no video" * 200)
    return folder


@pytest.fixture
async def frames():
    service = FrameService(config=PoolConfig(num_frames=POOL, size=(196, 252)))
    yield service
    service.close()


def make_sample(video="counted.mp4"):
    return Sample(
        data_source="test",
        sample_id="t-1",
        index=0,
        split="train",
        video=video,
        duration_seconds=2.0,
        question="Which number?",
        options=("one", "two"),
        answer="A",
        question_type="multiple_choice",
        segments=(SEGMENT,),
    )


async def open_play(videos, frames, *, video="counted.mp4", max_text_chars=10_000, **config):
    settings = {"pool_size": POOL, "frame_budget": 8, "max_turns": 3, **config}
    return await ToolEpisode.open(
        make_sample(video),
        config=EpisodeConfig(**settings),
        prompts=Prompts.load("tool_calls"),
        root=str(videos),
        frames=frames,
        max_text_chars=max_text_chars,
    )


async def call(play, arguments, message_number=1, num_calls=1):
    return await play.call(arguments, message_number=message_number, num_calls=num_calls, response="I look.")


def numbers(images):
    return [awkward.read_number(np.asarray(image.resize((256, 192)))) for image in images]


async def test_overview_stands_before_the_question_with_each_frame_named(videos, frames):
    play = await open_play(videos, frames)
    (system, user), images = await play.opening()
    assert system["role"] == "system"
    assert "retrieve_frames" in system["content"]
    shown = spread(0, POOL - 1, 4)
    kinds = [part["type"] for part in user["content"]]
    assert kinds.count("image") == len(images) == len(shown)
    times = play.episode.times_seconds
    for place, index in zip([i for i, kind in enumerate(kinds) if kind == "image"], shown, strict=True):
        assert user["content"][place + 1]["text"].startswith(f"Frame {index} ({times[index]:.1f} s)")
    assert "Which number?\nA. one\nB. two" in user["content"][-1]["text"]
    found = numbers(images)
    assert found == sorted(found)
    assert len(set(found)) == 4


async def test_call_returns_the_frames_that_the_tags_would(videos, frames):
    play = await open_play(videos, frames)
    text, images = await call(play, {"start": 3, "end": 12})
    chosen = spread(3, 12, 2)
    assert play.episode.turns[0].returned == tuple(chosen)
    assert [f"Frame {index} " in text for index in chosen] == [True, True]
    assert "the 2 pictures before this text" in text
    assert "1 more time" in text
    pool = await frames.read(videos / "counted.mp4", chosen)
    assert all(np.array_equal(np.asarray(image), frame) for image, frame in zip(images, pool, strict=True))
    truth, _ = ground_truth_frames([SEGMENT], play.episode.times_seconds)
    assert play.episode.turns[0].returned_iou == iou(chosen, truth)


async def test_budget_holds_whatever_the_calls_ask_for(videos, frames):
    play = await open_play(videos, frames, frame_budget=6, initial_frames=2, max_turns=6, retrieval_frames=3, window=5)
    taken = [len((await call(play, {"start": 0, "end": 15}, number))[1]) for number in range(1, 6)]
    assert taken == [3, 1, 0, 0, 0]
    assert play.episode.frames_shown == 6


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"start": 5, "end": 3}, "runs backwards"),
        ({"start": 0, "end": POOL}, "leaves the video"),
        ({"start": -1, "end": 3}, "goes from 0 to frame 15"),
        ({"start": 0, "end": 10**30}, "leaves the video"),
        ({"start": 0}, "two whole numbers"),
        ({"start": "0", "end": "3"}, "two whole numbers"),
        ({"start": True, "end": 3}, "two whole numbers"),
        ({"start": 0.5, "end": 3}, "two whole numbers"),
        ([0, 3], "two whole numbers"),
        (None, "two whole numbers"),
    ],
)
async def test_unusable_range_is_a_turn_with_a_message_and_no_frames(videos, frames, arguments, reason):
    play = await open_play(videos, frames)
    text, images = await call(play, arguments)
    assert images == []
    assert reason in text
    assert "Which number?" in text
    assert play.episode.record()["actions"] == ["invalid"]
    assert "<" not in text


@pytest.mark.parametrize(
    ("start", "end", "valid"),
    [
        (0.5, 1.0, True),
        (0, 2, True),
        (1e-7, 0.5, True),
        (0.0, 99.0, False),
        (float("nan"), 1.0, False),
        (0, 1e300, False),
    ],
)
async def test_range_in_seconds(videos, frames, start, end, valid):
    play = await open_play(videos, frames, unit="seconds")
    text, images = await call(play, {"start": start, "end": end})
    assert bool(images) == valid
    if valid:
        times = play.episode.times_seconds
        assert all(start - 0.1 <= times[i] <= end + 0.1 for i in play.episode.turns[0].returned)
    else:
        assert "leaves the video" in text


async def test_several_calls_in_one_message_are_one_invalid_turn(videos, frames):
    play = await open_play(videos, frames)
    first = await call(play, {"start": 0, "end": 3}, num_calls=2)
    second = await call(play, {"start": 4, "end": 7}, num_calls=2)
    assert first == second
    assert "There were 2 calls." in first[0]
    assert play.episode.record()["actions"] == ["invalid"]


async def test_message_that_the_loop_answered_itself_has_used_up_its_turn(videos, frames):
    play = await open_play(videos, frames)
    text, images = await call(play, {"start": 0, "end": 3}, message_number=2)
    assert play.episode.record()["actions"] == ["invalid", "retrieve"]
    assert len(images) == 2
    assert "Answer now." in text


async def test_call_where_only_an_answer_is_left_gets_no_frames(videos, frames):
    play = await open_play(videos, frames)
    for number in (1, 2):
        await call(play, {"start": 0, "end": 3}, number)
    text, images = await call(play, {"start": 0, "end": 3}, 3)
    assert (text, images) == ("No message is left.", [])
    assert play.episode.frames_shown == 8
    assert await call(play, {"start": 0, "end": 3}, 4) == (text, images)


async def test_unreadable_video_raises_where_the_episode_opens(videos, frames):
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        await open_play(videos, frames, video="broken.mp4")


async def test_path_outside_the_root_is_refused(videos, frames):
    with pytest.raises(SampleError, match="lies outside the video root"):
        await open_play(videos, frames, video="/etc/passwd")


async def test_text_that_the_loop_would_cut_raises(videos, frames):
    play = await open_play(videos, frames, max_text_chars=100)
    with pytest.raises(ValueError, match=r"would cut it to 100.*sample 't-1'.*max_tool_response_length="):
        await call(play, {"start": 0, "end": 3})
