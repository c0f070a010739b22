# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr ask`: one episode against a served model, in the terminal as it happens.

videomtr ask holiday.mp4 "What does the man buy?" --option "a hat" --option "a boat"
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from verl_videomtr.answers import LETTERS
from verl_videomtr.ask.drawing import message_panel, reply_panel, thumbnails, timeline
from verl_videomtr.evaluation.setup import Setup, compose_setup
from verl_videomtr.rollout import Message, Policy, Reply, Rollout, open_episode, play
from verl_videomtr.sample import Sample
from verl_videomtr.serving.arguments import KEY_NOTE, add_server_arguments, open_servers
from verl_videomtr.serving.chat import ChatConfig, ChatPolicy
from verl_videomtr.serving.endpoints import sampling_fields
from verl_videomtr.serving.pictures import Picture, PictureService
from verl_videomtr.serving.server import AskError, Refused, Unanswered
from verl_videomtr.serving.texts import clean
from verl_videomtr.video.service import FrameService
from verl_videomtr.video.sheet import contact_sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        'example: videomtr ask holiday.mp4 "What does the man buy?" --option "a hat" --option "a boat"; '
        f"docs/serving.md says how to start a server. {KEY_NOTE}"
    )
    parser.add_argument("video", type=Path, metavar="VIDEO", help="a video file")
    parser.add_argument("question", metavar="QUESTION", help="what to ask")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for training, e.g. +videomtr/budget=b64")
    parser.add_argument(
        "--option", action="append", default=[], metavar="TEXT", help="an answer to choose from; give it for each"
    )
    add_server_arguments(parser)
    parser.add_argument("--pictures", action="store_true", help="draw the frames in the terminal (24-bit colours)")
    parser.add_argument("--sheet", type=Path, metavar="OUT.png", help="write a contact sheet of what was looked at")


def run(args: argparse.Namespace) -> int:
    """Ask and draw.

    Raises:
        ValueError: a setting, the video or the server breaks a rule; the message says which.
    """
    setup = compose_setup(args.overrides)
    sample = make_sample(args.video, args.question, args.option)
    try:
        asyncio.run(_ask(setup, sample, args, Console()))
    except (Refused, Unanswered) as failure:
        raise AskError(
            f"the episode has no end: {failure}; expected an answer to each turn; see the server's log, and ask again"
        ) from None
    return 0


def make_sample(video: Path, question: str, options: list[str]) -> Sample:
    """Make a row of a question whose answer nobody knows.

    Raises:
        SampleError: a text breaks a rule, or there is one option alone.
    """
    return Sample(
        data_source="ask",
        sample_id="ask",
        index=0,
        split="ask",
        video=str(video.resolve()),
        question=question,
        options=tuple(options),
        # The row's form asks for one; it is not compared with anything.
        answer=LETTERS[0] if options else "unknown",
        question_type="multiple_choice" if options else "free_text",
    )


class Narrator:
    """A policy that draws what passes between the episode and another policy."""

    def __init__(
        self, policy: Policy, rollout: Rollout, frames: FrameService, console: Console, *, pictures: bool
    ) -> None:
        self.policy = policy
        self.rollout = rollout
        self.frames = frames
        self.console = console
        self.draws_pictures = pictures
        self.seen: list[int] = []
        self._asked = 0.0

    async def show(self, message: Message, *, context_start: int) -> bool:
        self._draw_reply()
        new = [part.index for part in message.parts if isinstance(part, Picture)]
        drawn = []
        if self.draws_pictures and new:
            pixels: np.ndarray = await self.frames.read(self.rollout.path, new)
            drawn = thumbnails(list(pixels), columns=self.console.width - 4)
        episode = self.rollout.episode
        line = timeline(
            len(episode.times_seconds),
            new,
            self.seen,
            duration_seconds=episode.duration_seconds,
            width=self.console.width - 4,
        )
        self.console.print(message_panel(len(episode.turns) + 1, new, episode.times_seconds, line, drawn))
        self.seen += new
        return await self.policy.show(message, context_start=context_start)

    async def respond(self) -> Reply:
        self._asked = time.monotonic()
        with self.console.status("thinking"):
            reply = await self.policy.respond()
        self._asked = time.monotonic() - self._asked
        return reply

    def finish(self) -> None:
        """Draw the last reply and how the episode ended."""
        self._draw_reply()
        episode = self.rollout.episode
        assert episode.stop_reason is not None
        answer = "no answer" if episode.answer is None else clean(episode.answer)
        text = Text(f"{episode.stop_reason.value.replace('_', ' ')}: ", style="bold")
        text.append(answer, style="bold yellow")
        shown = f"; {episode.frames_shown} of {episode.config.frame_budget} frames, {len(episode.turns)} turns"
        self.console.print(text.append(shown, style="not bold"))

    def _draw_reply(self) -> None:
        episode = self.rollout.episode
        if episode.turns:
            turn = episode.turns[-1]
            self.console.print(reply_panel(turn.response, turn.action, episode.times_seconds, seconds=self._asked))


async def _ask(setup: Setup, sample: Sample, args: argparse.Namespace, console: Console) -> None:
    video = setup.settings.video
    frames = FrameService(
        config=video.pool, cache=video.cache.open(), workers=video.workers, max_open_pools=video.open_pools
    )
    pictures = PictureService(frames, image_format=args.image_format)
    try:
        async with AsyncExitStack() as stack:
            clients, endpoints = await open_servers(args, stack, num_turns=setup.settings.episode.max_turns)
            rollout = await open_episode(
                sample, config=setup.settings.episode, prompts=setup.prompts, frames=pictures, root=None
            )
            config = ChatConfig(
                model=endpoints[0].model,
                max_response_tokens=setup.settings.max_response_tokens,
                sampling=sampling_fields(setup.sampling, endpoints[0].kind),
                wants_token_ids=endpoints[0].kind == "vllm",
            )
            policy = ChatPolicy(clients[0], config, pictures=pictures, system_text=rollout.episode.system_text)
            narrator = Narrator(policy, rollout, frames, console, pictures=args.pictures)
            await play(rollout, narrator)
            narrator.finish()
            if args.sheet is not None:
                indices = sorted(set(narrator.seen))
                labels = [f"{index}  {rollout.episode.times_seconds[index]:.2f} s" for index in indices]
                contact_sheet(await frames.read(rollout.path, indices), labels).save(args.sheet)
                console.print(f"contact sheet: {args.sheet}", markup=False)
    finally:
        pictures.close()
        frames.close()
