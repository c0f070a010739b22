# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A chat policy against a server that records what it is sent: messages, pixels, windows, limits, drift, journal."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import json

import numpy as np
import pytest
from grey_video import write_grey_video
from PIL import Image
from rollout_setting import ANSWER, LOOK, SAMPLE, MadeFrames, open_rollout
from scripted_server import Reply, ScriptedServer, say

from verl_videomtr.episode import StopReason
from verl_videomtr.rollout import play
from verl_videomtr.serving.chat import ChatConfig, ChatPolicy
from verl_videomtr.serving.client import Client
from verl_videomtr.serving.endpoints import inspect_server, keeps_thoughts, sampling_fields
from verl_videomtr.serving.journal import Journal, SharedJournal
from verl_videomtr.serving.pictures import MAX_READING, PictureService
from verl_videomtr.serving.server import AskError, Refused, Server
from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.pool import PoolConfig
from verl_videomtr.video.service import FrameService

SAMPLING = {"temperature": 0.5, "top_p": 0.9, "top_k": -1, "repetition_penalty": 1.0}


class Frames(MadeFrames):
    """Frames full of noise of their own."""

    def picture(self, index):
        return noise(index)

    async def read_jpegs(self, pool, indices):
        return None


def noise(index):
    return np.random.default_rng(index).integers(0, 256, (28, 42, 3), dtype=np.uint8)


def run(script, journal_path, *, image_format="webp", sample=SAMPLE, frames=None, episodes=1, **config):
    """Play episodes one after the other; return the rollouts, their policies, and the server."""
    frames = frames or Frames()

    async def go(url):
        pictures = PictureService(frames, image_format=image_format)
        played = []
        with Journal(journal_path) as journal:
            shared = SharedJournal(journal)
            async with Client(Server(base_url=url, backoff_seconds=0.01, max_attempts=2)) as client:
                for number in range(episodes):
                    rollout = await open_rollout(sample, frames=pictures, prompts="default", **config)
                    policy = ChatPolicy(
                        client,
                        ChatConfig(model="m", max_response_tokens=50, sampling=SAMPLING),
                        pictures=pictures,
                        journal=shared,
                        key=f"s{number}",
                        system_text=rollout.episode.system_text,
                    )
                    await play(rollout, policy)
                    played.append((rollout, policy))
            await shared.drain()
        pictures.close()
        return played, pictures

    with ScriptedServer(script) as server:
        played, pictures = asyncio.run(go(server.url))
    return played, server, pictures


def says(*texts, **extra):
    return lambda request: say(texts[request.number % len(texts)], **extra)


def images_of(message):
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    heads, datas = zip(*(url.split(";base64,") for url in urls), strict=True) if urls else ((), ())
    return heads, [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in datas]


@pytest.mark.parametrize("image_format", ["webp", "png"])
def test_server_gets_the_prompts_texts_and_the_very_pixels(tmp_path, image_format):
    played, server, _ = run(says(LOOK, ANSWER), tmp_path / "j", image_format=image_format)
    rollout, _ = played[0]
    assert (rollout.episode.stop_reason, rollout.episode.answer) == (StopReason.ANSWERED, "A")
    first, second = [request.body for request in server.requests]
    assert first["messages"][0] == {"role": "system", "content": rollout.episode.system_text}
    heads, pixels = images_of(first["messages"][1])
    assert set(heads) == {f"data:image/{image_format}"}
    overview = rollout.episode.turns[0].observation
    assert all(np.array_equal(a, noise(i)) for a, i in zip(pixels, overview.frames, strict=True))
    texts = [part["text"] for part in first["messages"][1]["content"] if part["type"] == "text"]
    assert texts == [part for part in overview.parts if isinstance(part, str)]
    # The history is sent as it was, then what the retrieval brought.
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][2] == {"role": "assistant", "content": LOOK}
    _, pixels = images_of(second["messages"][3])
    assert all(
        np.array_equal(a, noise(i)) for a, i in zip(pixels, rollout.episode.turns[1].observation.frames, strict=True)
    )
    for body in (first, second):
        assert {name: body[name] for name in SAMPLING} == SAMPLING
        assert (body["model"], body["max_completion_tokens"], body["return_token_ids"]) == ("m", 50, True)


def test_jpeg_is_near_and_says_so(tmp_path):
    _, server, _ = run(says(ANSWER), tmp_path / "j", image_format="jpeg")
    heads, pixels = images_of(server.requests[0].body["messages"][1])
    assert set(heads) == {"data:image/jpeg"}
    # Noise is the worst that JPEG can be given.
    assert 0 < np.abs(pixels[0].astype(int) - noise(0)).mean() < 12


def test_no_picture_is_read_or_encoded_twice(tmp_path):
    frames = Frames()
    played, _, pictures = run(says(LOOK, LOOK, ANSWER), tmp_path / "j", frames=frames, episodes=3)
    shown = {i for rollout, _ in played for turn in rollout.episode.turns for i in turn.observation.frames}
    assert frames.num_read == pictures.num_encoded == len(shown)


def test_kept_pictures_are_bounded_by_bytes(tmp_path):
    frames = Frames()

    async def go():
        pictures, pool = PictureService(frames, max_bytes=20_000), await frames.pool("v")
        for index in range(16):
            (url,) = await pictures.encoded(await pictures.read(pool, [index]))
            assert url.read().startswith(b'"data:image/webp;base64,')
            assert pictures.num_bytes <= 20_000
        return pictures

    pictures = asyncio.run(go())
    assert pictures.num_bytes > 0
    assert pictures.num_encoded == 16


def test_window_drops_turns_and_keeps_the_instructions(tmp_path):
    played, server, _ = run(
        says(LOOK, LOOK, ANSWER), tmp_path / "j", max_turns=3, window=1, initial_frames=4, retrieval_frames=2
    )
    third = server.requests[2].body["messages"]
    assert [message["role"] for message in third] == ["system", "user", "assistant", "user"]
    assert len(images_of(third[1])[1]) == 2
    held = [json.dumps(message, separators=(",", ":")) for message in third if message["role"] == "user"]
    assert abs(played[0][1].num_held_bytes - sum(map(len, held))) < 100  # but for spaces


def test_window_of_zero_is_the_instructions_and_the_newest_message(tmp_path):
    _, server, _ = run(says(LOOK, LOOK, ANSWER), tmp_path / "j", window=0)
    assert [[m["role"] for m in request.body["messages"]] for request in server.requests] == [["system", "user"]] * 3


def ids(prompt, response):
    return {"top": {"prompt_token_ids": prompt}, "choice": {"token_ids": response}}


def drifts(script, tmp_path, **config):
    played, _, _ = run(script, tmp_path / "j", **config)
    return [entry["drift"] for entry in played[0][1].entries]


def test_drift_is_seen_where_a_prompt_departs_from_what_was_sampled(tmp_path):
    replies = [
        say(LOOK, **ids([1, 2, 3], [4, 5])),
        say(LOOK, **ids([1, 2, 3, 4, 5, 6], [7])),
        # Token 7 became 70 when the history was rendered anew.
        say(ANSWER, **ids([1, 2, 3, 4, 5, 6, 70, 8], [9])),
    ]
    assert drifts(lambda request: replies[request.number], tmp_path) == [
        None,
        {"at": None},
        {"at": 6, "expected": [5, 6, 7], "rendered": [5, 6, 70, 8]},
    ]


def test_drift_is_seen_where_a_prompt_is_shorter_than_what_was_sampled(tmp_path):
    replies = [say(LOOK, **ids([1, 2, 3], [4, 5])), say(ANSWER, **ids([1, 2, 3], [9]))]
    assert drifts(lambda request: replies[request.number], tmp_path)[1]["at"] == 3


def test_drift_is_not_judged_across_a_window_that_slides(tmp_path):
    replies = [say(LOOK, **ids([1, 2], [3])), say(LOOK, **ids([1, 9], [4])), say(ANSWER, **ids([1, 8], [5]))]
    assert drifts(lambda request: replies[request.number], tmp_path, window=0) == [None, None, None]


def test_drift_is_unknown_where_the_server_gives_no_ids(tmp_path):
    assert drifts(says(LOOK, ANSWER), tmp_path) == [None, None]


def test_reasoning_that_the_server_took_out_is_put_back(tmp_path):
    played, server, _ = run(
        lambda request: (
            say("<retrieve>4,9</retrieve>" if request.number == 0 else ANSWER, message={"reasoning": "red"})
            if request.number == 0
            else say(ANSWER)
        ),
        tmp_path / "j",
    )
    assert played[0][0].episode.turns[0].response == LOOK
    assert server.requests[1].body["messages"][2]["content"] == LOOK
    assert [entry["rejoined"] for entry in played[0][1].entries] == [True, False]


def test_thought_that_the_template_opened_gets_its_opening_back(tmp_path):
    played, _, _ = run(says("red</think><answer>A</answer>"), tmp_path / "j")
    assert played[0][0].episode.turns[0].response == ANSWER


def test_answered_turns_are_taken_from_the_journal(tmp_path):
    frames = Frames()
    first, server, _ = run(says(LOOK, ANSWER), tmp_path / "j", frames=frames)
    again, second_server, pictures = run(says("never asked"), tmp_path / "j", frames=(unread := Frames()))
    assert (len(server.requests), len(second_server.requests)) == (2, 0)
    assert again[0][0].episode.record() == first[0][0].episode.record()
    assert (unread.num_read, pictures.num_encoded) == (0, 0)


def test_half_an_episode_is_continued_where_it_stopped(tmp_path):
    first, _, _ = run(says(LOOK, ANSWER), tmp_path / "j")
    lines = (tmp_path / "j").read_text().splitlines(keepends=True)
    (tmp_path / "j").write_text(lines[0])
    again, server, _ = run(says(ANSWER), tmp_path / "j")
    assert len(server.requests) == 1
    assert len(server.requests[0].body["messages"]) == 4
    assert again[0][0].episode.record() == first[0][0].episode.record()


TOO_LONG = Reply(status=400, body={"error": {"message": "This model's maximum context length is 512 tokens."}})


def test_context_without_room_for_the_whole_limit_is_filled_and_says_so(tmp_path):
    played, server, _ = run(
        lambda request: (
            TOO_LONG if "max_completion_tokens" in request.body else say("<think>cut", finish_reason="length")
        ),
        tmp_path / "j",
    )
    assert len(server.requests) == 2
    assert played[0][0].episode.stop_reason is StopReason.LENGTH_LIMIT
    assert len(played[0][0].episode.turns) == 1


def test_context_without_any_room_truncates_the_episode(tmp_path):
    played, _, _ = run(lambda request: say(LOOK) if request.number == 0 else TOO_LONG, tmp_path / "j")
    assert played[0][0].episode.stop_reason is StopReason.LENGTH_LIMIT
    assert len(played[0][0].episode.turns) == 1


def test_response_cut_at_its_own_limit_is_an_invalid_turn_not_a_truncation(tmp_path):
    replies = [say("<think>on and on", finish_reason="length"), say(ANSWER)]
    played, _, _ = run(lambda request: replies[request.number], tmp_path / "j")
    assert played[0][0].episode.record()["actions"] == ["invalid", "answer"]


def test_refusal_of_another_kind_is_no_truncation(tmp_path):
    with pytest.raises(Refused, match="At most 4 image"):
        run(lambda request: Reply(status=400, body={"error": {"message": "At most 4 image(s)"}}), tmp_path / "j")


def test_unreadable_video_is_its_own_failure(tmp_path):
    broken = dataclasses.replace(SAMPLE, video="broken.mp4")
    with pytest.raises(VideoError):
        run(says(ANSWER), tmp_path / "j", sample=broken)


# --- what is asked before a run ------------------------------------------------------------------------------------


def before(script, check, **server_settings):
    async def go(url):
        async with Client(Server(base_url=url)) as client:
            return await check(client)

    with ScriptedServer(script, **server_settings) as server:
        return asyncio.run(go(server.url))


def template(strip):
    """A server that renders a conversation as one token a character, with or without earlier thoughts."""

    def script(request):
        text = request.text
        if strip:
            text = text.replace("<think>It is the second scene.</think>", "")
        return say("x", top={"prompt_token_ids": list(text.encode())}, usage={"prompt_tokens": len(text)})

    return script


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("gives_ids", [True, False])
def test_template_that_strips_thoughts_is_found_before_the_run(strip, gives_ids):
    def script(request):
        reply = template(strip)(request)
        if not gives_ids:
            del reply.body["prompt_token_ids"]
        return reply

    async def check(client):
        return await keeps_thoughts(client, await inspect_server(client, "m"))

    assert before(script, check) is not strip


def test_template_cannot_be_judged_without_ids_and_counts():
    def script(request):
        reply = say("x")
        del reply.body["usage"]
        return reply

    async def check(client):
        return await keeps_thoughts(client, await inspect_server(client, None))

    assert before(script, check) is None


def test_model_that_the_server_does_not_have_is_named_with_those_it_has():
    async def check(client):
        await inspect_server(client, "large")

    with pytest.raises(AskError, match=r"does not have --model large; expected one of \['m'\]"):
        before(says("x"), check)


def test_server_that_is_not_there_says_how_to_start_one():
    async def check(client):
        await inspect_server(client, None)

    async def go():
        async with Client(Server(base_url="http://127.0.0.1:9/v1", timeout_seconds=5.0)) as client:
            await check(client)

    with pytest.raises(AskError, match=r"cannot be reached .*docs/serving\.md"):
        asyncio.run(go())


def test_every_sampling_parameter_is_sent_to_servers_that_fill_in_their_own():
    sampling = {"temperature": 1.0, "top_p": 0.95, "top_k": -1}
    fields = sampling_fields(sampling, "vllm")
    assert fields == {
        "temperature": 1.0,
        "top_p": 0.95,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "n": 1,
    }
    assert not {"top_k", "min_p", "repetition_penalty"} & sampling_fields(sampling, "other").keys()


# --- frames that a cache keeps as JPEG -----------------------------------------------------------------------------


def test_jpegs_of_the_frame_cache_are_sent_as_they_are(tmp_path):
    video = write_grey_video(tmp_path / "clip.mp4", count=40, step=6, size=(64, 64), fps=5)

    async def go(form, image_format):
        cache = PoolCache(tmp_path / form, form=form)
        frames = FrameService(config=PoolConfig(num_frames=16), cache=cache)
        pictures = PictureService(frames, image_format=image_format)
        pool = await pictures.pool(str(video))
        urls = await pictures.encoded(await pictures.read(pool, [3, 7, 11]))
        stored = await asyncio.to_thread(pool.read_jpegs, [3, 7, 11])
        pictures.close()
        frames.close()
        return [base64.b64decode(url.read().split(b";base64,")[1][:-1]) for url in urls], stored, pictures.num_encoded

    sent, stored, num_encoded = asyncio.run(go("jpeg", "jpeg"))
    assert sent == stored
    assert num_encoded == 0
    sent, stored, num_encoded = asyncio.run(go("raw", "jpeg"))
    assert (stored, num_encoded) == (None, 3)
    # In another format they are encoded, from what the cache decodes to.
    sent, stored, num_encoded = asyncio.run(go("jpeg", "webp"))
    assert num_encoded == 3
    assert sent != stored


def test_frames_that_wait_for_the_encoder_are_few(tmp_path):
    class Slow(Frames):
        most = now = 0

        async def read(self, pool, indices):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return await super().read(pool, indices)

    async def go(frames):
        pictures = PictureService(frames)
        wanted = [await pictures.read(object(), [0, 1]) for number in range(60)]
        urls = await asyncio.gather(*map(pictures.encoded, wanted))
        pictures.close()
        return urls

    frames = Slow()
    assert len(asyncio.run(go(frames))) == 60
    assert frames.most == MAX_READING
