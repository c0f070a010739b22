# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Playing one episode: a sample and a policy in, the finished episode out, whoever hosts the policy.

    sample -> open_episode -> Rollout -> play(rollout, policy): show a message, get a reply, until the episode ends

The policy keeps its context: as token ids where verl samples (`verl_plugin.token_policy`), as chat messages where a
server does. Nothing here knows either, and nothing here knows rewards.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from verl_videomtr.episode import Episode, EpisodeConfig, Observation
from verl_videomtr.prompts import Prompts
from verl_videomtr.sample import Sample, question_text, resolve_video
from verl_videomtr.subtitles import Cue
from verl_videomtr.video.pool import FramePool


class OutOfRoom(Exception):
    """The policy's context cannot hold what it was shown and a response; raised by a policy's `respond`."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What the policy is shown before a response, with its pictures."""

    parts: tuple[Any, ...]
    """In order: text, and where a frame's picture goes what the FrameSource gave: (H, W, 3) uint8 RGB."""

    def as_chat(self) -> tuple[dict[str, Any], list[Image.Image]]:
        """Return it as a user message of a chat template, and its images in the order of their places."""
        images = [Image.fromarray(part) for part in self.parts if not isinstance(part, str)]
        remaining = iter(images)
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": next(remaining)}
            for part in self.parts
        ]
        return {"role": "user", "content": content}, images


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the policy wrote, and what that took."""

    text: str
    """Without the tokens that end a response."""
    out_of_room: bool = False
    """It was cut because the context or the episode's length ran out."""
    finish_reason: str = ""
    """Why it ended, in the server's words: "stop", "length" or another; "" where that is not known."""
    prompt_tokens: int | None = None
    """Tokens of the context that it was sampled behind; None where that is not known."""
    response_tokens: int | None = None


class Policy(Protocol):
    """Whoever answers; one object for one episode, whose context it keeps."""

    async def show(self, message: Message, *, context_start: int) -> bool:
        """Add a message and drop the turns before `context_start`.

        Returns:
            False, with nothing added, where no response would fit behind it.
        """

    async def respond(self) -> Reply:
        """Write one response and keep it in the context.

        Raises:
            OutOfRoom: no response fits; the episode ends as truncated.
            Exception: there is no response, for example because the server failed; the episode is lost with it.
        """


class FrameSource(Protocol):
    """Where an episode's frames come from: a FrameService, or what names frames for a policy that needs no pixels."""

    async def pool(self, path: str, /) -> FramePool:
        """Open a video's pool."""

    async def read(self, pool: FramePool, indices: Sequence[int], /) -> Iterable[Any]:
        """Return one picture for each index of that pool, whatever lies at its path by now."""


@dataclass(kw_only=True)
class Rollout:
    """One episode with its video opened, and what playing it took."""

    sample: Sample
    episode: Episode
    path: str
    """Where the video lies."""
    pool: FramePool
    """The video as the episode began with it."""
    frames: FrameSource
    replies: list[Reply] = field(default_factory=list)
    """One per turn."""
    seconds: dict[str, float] = field(default_factory=lambda: {"frames": 0.0, "generate": 0.0})
    """Wall time by what it was spent on."""

    async def message(self, observation: Observation) -> Message:
        """Put the pictures where an observation names frames.

        Raises:
            VideoError: the frames cannot be decoded.
        """
        began = time.monotonic()
        pictures = iter(await self.frames.read(self.pool, observation.frames) if observation.frames else ())
        self.seconds["frames"] += time.monotonic() - began
        return Message(parts=tuple(part if isinstance(part, str) else next(pictures) for part in observation.parts))


async def open_episode(
    sample: Sample,
    *,
    config: EpisodeConfig,
    prompts: Prompts,
    frames: FrameSource,
    root: str | None,
    subtitles: Sequence[Cue] = (),
) -> Rollout:
    """Open the sample's video and set its episode up.

    Args:
        root: directory that the video must lie in; None takes an absolute path as it is.
        subtitles: of this video; see Episode.
    Raises:
        SampleError: the video's path leaves the root.
        VideoError: the video cannot be used.
    """
    began = time.monotonic()
    path = str(resolve_video(sample.video, root))
    pool = await frames.pool(path)
    episode = Episode(
        config=config,
        prompts=prompts,
        question=question_text(sample),
        times_seconds=pool.times_seconds.tolist(),
        duration_seconds=pool.duration_seconds,
        segments=sample.segments,
        subtitles=subtitles,
    )
    rollout = Rollout(sample=sample, episode=episode, path=path, pool=pool, frames=frames)
    rollout.seconds["frames"] += time.monotonic() - began
    return rollout


async def play(rollout: Rollout, policy: Policy) -> None:
    """Play to the end."""
    episode = rollout.episode
    observation: Observation | None = episode.reset()
    while observation is not None:
        message = await rollout.message(observation)
        if not await policy.show(message, context_start=episode.context_start):
            episode.truncate()
            return
        began = time.monotonic()
        try:
            reply = await policy.respond()
        except OutOfRoom:
            episode.truncate()
            return
        finally:
            rollout.seconds["generate"] += time.monotonic() - began
        rollout.replies.append(reply)
        observation = episode.step(reply.text, out_of_room=reply.out_of_room)
