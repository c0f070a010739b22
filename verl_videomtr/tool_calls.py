# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""An episode played through native tool calls: a call's arguments in, a text and the pictures that stand before it out.

The same game as behind `<retrieve>` tags (`episode.py`): pool, budget, spread, messages. What differs is who runs the
conversation. The host (verl's `tool_agent` loop) reads the calls, answers malformed ones itself, plays the messages
one by one and ends with the first that holds no call; a tool is told of its own calls alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from verl_videomtr.actions import Invalid, InvalidKind, Retrieve, parse_range
from verl_videomtr.episode import EpisodeConfig, Observation
from verl_videomtr.prompts import Prompts
from verl_videomtr.rollout import Rollout, open_episode
from verl_videomtr.sample import Sample
from verl_videomtr.video.service import FrameService

TOOL_NAME = "retrieve_frames"
_LARGEST = 10**9
"""No video has so many frames or seconds."""


class ToolEpisode:
    """One question being played; make it with `open`.

    Attributes:
        episode: the state of the game.
        sample_id: which question, for errors.
        max_text_chars: the host cuts a longer text, so there must be none.
    """

    def __init__(self, rollout: Rollout, *, max_text_chars: int) -> None:
        self.episode = rollout.episode
        self.sample_id = rollout.sample.sample_id
        self.max_text_chars = max_text_chars
        self._rollout = rollout
        self._next = self.episode.reset()

    @classmethod
    async def open(
        cls,
        sample: Sample,
        *,
        config: EpisodeConfig,
        prompts: Prompts,
        root: str | None,
        frames: FrameService,
        max_text_chars: int,
    ) -> ToolEpisode:
        """Open the sample's video and choose the overview; for arguments and errors see `rollout.open_episode`."""
        rollout = await open_episode(sample, config=config, prompts=prompts, frames=frames, root=root)
        return cls(rollout, max_text_chars=max_text_chars)

    async def opening(self) -> tuple[list[dict[str, Any]], list[Image.Image]]:
        """Make the messages that stand before the first response, with the overview's pictures where they belong."""
        message, images = (await self._rollout.message(self._next)).as_chat()
        system = self.episode.system_text
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        return [*messages, message], images

    async def call(
        self, arguments: Any, *, message_number: int, num_calls: int, response: str
    ) -> tuple[str, list[Image.Image]]:
        """Answer one call.

        A message with several calls is one invalid turn, whatever the calls say. Messages that the host answered
        itself (an unknown name, arguments that are no JSON) have used up their turns.

        Args:
            arguments: as the policy wrote them, decoded.
            message_number: which of the policy's messages this is, from 1.
            num_calls: how many calls the message holds.
            response: the message's text beside the calls.
        Returns:
            The text, and the pictures that stand before it.
        Raises:
            VideoError: the frames cannot be decoded.
            ValueError: the host would cut the text.
        """
        while len(self.episode.turns) < message_number - 1 and not self.episode.done:
            self._act(Invalid("The call could not be read."), "")
        if len(self.episode.turns) < message_number and not self.episode.done:
            action = self._read_call(arguments) if num_calls == 1 else Invalid(f"There were {num_calls} calls.")
            self._act(action, response)
        shown = await self._rollout.message(self._next)
        # The host puts the pictures of a tool's answer before its text.
        text = "".join(part for part in shown.parts if isinstance(part, str))
        if len(text) > self.max_text_chars:
            raise ValueError(
                f"the answer to a call has {len(text)} characters and the loop would cut it to {self.max_text_chars}; "
                f"expected all of it to be shown; sample {self.sample_id!r}; "
                f"set actor_rollout_ref.rollout.multi_turn.max_tool_response_length={2 * len(text)}"
            )
        return text, shown.as_chat()[1]

    def _act(self, action: Invalid | Retrieve, response: str) -> None:
        observation = self.episode.act(action, response)
        if observation is None:
            # No turn is left for an answer; a host that goes on all the same shows this once more.
            observation = Observation(parts=("No message is left.",))
        self._next = observation

    def _read_call(self, arguments: Any) -> Invalid | Retrieve:
        config = self.episode.config
        ends: list[Any] = [arguments.get(name) for name in ("start", "end")] if isinstance(arguments, Mapping) else []
        numbers = (int,) if config.unit == "index" else (int, float)
        if len(ends) != 2 or not all(isinstance(end, numbers) and not isinstance(end, bool) for end in ends):
            kind = "whole numbers" if config.unit == "index" else "times in seconds"
            return Invalid(f"The range could not be read. Give start and end as two {kind}.", InvalidKind.RANGE)
        times = self.episode.times_seconds
        if not all(0 <= end < _LARGEST for end in ends):
            last = (
                f"frame {len(times) - 1}" if config.unit == "index" else f"{self.episode.duration_seconds:.1f} seconds"
            )
            return Invalid(f"The range leaves the video, which goes from 0 to {last}.", InvalidKind.RANGE)
        return parse_range(
            # Plain decimals: an exponent is no number of the tags' grammar.
            ",".join(f"{end:f}" if isinstance(end, float) else str(end) for end in ends),
            pool_size=len(times),
            unit=config.unit,
            frame_times_seconds=times,
            duration_seconds=self.episode.duration_seconds,
        )
