# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The policy as verl samples it: messages and sampled responses in, segments of token ids out.

A segment is a prompt and everything behind it, which becomes one training row. While the context only grows, an
episode is one segment. When the window drops the oldest turns, the next response is sampled behind another context, so
a new segment begins: its prompt holds the instructions and the turns that stay, and each response is trained exactly
where it was sampled.

Sampled ids are kept as they came and messages are added through verl's Continuous Token builder; of a dropped context
nothing is tokenised again but the environment's own message that now stands first.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from verl_videomtr.rollout import Message, Reply
from verl_videomtr.verl_plugin.turn_end import TurnEnd, opened_thought

FAILED_STOPS = ("error", "abort", "aborted", "cancelled")
"""Stop reasons with which verl's servers say that there is no response."""


class GenerationFailed(RuntimeError):
    """The server gave no response: the trajectory is lost, since there is nothing to train on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenLimits:
    """Most tokens of each part of a segment."""

    response: int
    """Of one response."""
    segment_prompt: int
    """Of what stands before a segment's first response."""
    segment_response: int
    """Of everything behind that."""
    context: int | None
    """Of both together; None leaves it to the other two."""


@dataclasses.dataclass(kw_only=True)
class Segment:
    """A prompt, and the responses that were sampled behind it with the messages between them."""

    first_turn: int
    """The oldest turn in the context."""
    ids: list[int]
    """Prompt and response token ids."""
    num_prompt_tokens: int
    images: list[Image.Image]
    """Those of the whole segment, in the order of their placeholders."""
    messages: list[dict[str, Any]]
    """What the ids say, as chat messages."""
    response_starts: dict[int, int]
    """Turn -> where its response starts in `ids`, for every turn whose response the segment holds."""
    mask: list[int] = dataclasses.field(default_factory=list)
    """1 for sampled tokens, 0 for messages, from the end of the prompt on."""
    logprobs: list[float] = dataclasses.field(default_factory=list)

    @property
    def prompt_ids(self) -> list[int]:
        return self.ids[: self.num_prompt_tokens]

    @property
    def response_ids(self) -> list[int]:
        return self.ids[self.num_prompt_tokens :]

    def append(self, ids: list[int]) -> None:
        """Add tokens that were not sampled."""
        self.ids = [*self.ids, *ids]
        self.mask = [*self.mask, *[0] * len(ids)]
        self.logprobs = [*self.logprobs, *[0.0] * len(ids)]


class TokenPolicy:
    """The policy of one episode.

    Attributes:
        segments: the segments so far; the last one is open.
        turn_segments: segment of each turn.
        turn_spans: [start, end) of each turn's sampled tokens, counted from the end of its segment's prompt.
        server_fields: what the servers reported beside the tokens, such as the versions of the weights.
        num_preempted: how often the server interrupted a response; -1 where it does not say.

    Args:
        generate: verl's `LLMServerClient.generate`.
        builder: verl's Continuous Token builder.
        tokenizer: the model's.
        turn_end: how its responses end.
        as_sent: makes of a segment's ids and images what an engine must be sent, which expands images itself.
        limits: most tokens.
        sampling_params: verl's; the length limit is set per turn.
        system_text: the instructions; "" for none.
        sends_arrays: send images as arrays, which Ray shares where it would pickle them.
    """

    def __init__(
        self,
        *,
        generate: Callable[..., Awaitable[Any]],
        builder: Any,
        tokenizer: Any,
        turn_end: TurnEnd,
        as_sent: Callable[[list[int], list[Image.Image]], list[int]],
        limits: TokenLimits,
        sampling_params: dict[str, Any],
        system_text: str,
        sends_arrays: bool,
    ) -> None:
        self.segments: list[Segment] = []
        self.turn_segments: list[int] = []
        self.turn_spans: list[list[int]] = []
        self.server_fields: dict[str, Any] = {}
        self.num_preempted = -1
        self._generate = generate
        self._builder = builder
        self._tokenizer = tokenizer
        self._turn_end = turn_end
        self._as_sent = as_sent
        self._limits = limits
        self._sampling_params = sampling_params
        self._sends_arrays = sends_arrays
        self._request_id = uuid4().hex
        self._system = [{"role": "system", "content": system_text}] if system_text else []
        self._shown: list[tuple[dict[str, Any], list[Image.Image]]] = []
        self._sampled: list[int] = []

    async def show(self, message: Message, *, context_start: int) -> bool:
        """Append a message with its images, or nothing at all if no response would fit behind it.

        Raises:
            ValueError: the first message alone does not fit, which no policy can help.
        """
        self._shown.append(message.as_chat())
        if not self.segments:
            opened = await self._open(0)
            self._require_room(opened)
            self.segments.append(opened)
            return True
        current = self.segments[-1]
        slides = context_start > current.first_turn
        if slides and context_start == len(self._shown) - 1:
            continued = await self._open(context_start)
        else:
            continued = await self._continued(current)
            if slides:
                continued = await self._slid(continued, context_start)
        if self._room(continued) < 1 or continued.num_prompt_tokens > self._limits.segment_prompt:
            return False
        if slides:
            self.segments.append(continued)
        else:
            self.segments[-1] = continued
            self._shorten_last_span(continued)
        return True

    async def respond(self) -> Reply:
        """Sample one response; append its tokens as they came.

        Raises:
            GenerationFailed: the server has failed, or was stopped and nobody resumes it.
        """
        segment = self.segments[-1]
        limit = min(self._limits.response, self._room(segment))
        output = await self._generate(
            request_id=self._request_id,
            prompt_ids=self._as_sent(segment.ids, segment.images),
            sampling_params={**self._sampling_params, "max_tokens": limit},
            image_data=[np.asarray(image) for image in segment.images] if self._sends_arrays else segment.images,
        )
        if output.stop_reason in FAILED_STOPS:
            raise GenerationFailed(
                f"the server ended turn {len(self.turn_spans)} with stop_reason={output.stop_reason!r} after "
                f"{len(output.token_ids)} tokens; expected a response; the server's own log says why"
            )
        self._merge_server_fields(output)
        self._sampled = list(output.token_ids)
        was_cut = len(self._sampled) >= limit and self._sampled[-1] not in self._turn_end.end_ids
        reply = Reply(
            text=opened_thought(self._tokenizer, segment.ids)
            + self._tokenizer.decode(self._turn_end.without_end(self._sampled)),
            out_of_room=was_cut and limit < self._limits.response,
            finish_reason="length" if was_cut else "stop",
            prompt_tokens=len(segment.ids),
            response_tokens=len(self._sampled),
        )
        self._append_response(segment, list(output.log_probs or [0.0] * len(self._sampled)), reply.text)
        return reply

    @property
    def policy_version(self) -> dict[str, int] | None:
        """Oldest and newest training step whose weights took part; None where the server does not say."""
        oldest, newest = (self.server_fields.get(f"{end}_global_steps") for end in ("min", "max"))
        return None if oldest is None or newest is None else {"min": int(oldest), "max": int(newest)}

    def close_unsampled(self, segment: Segment) -> None:
        """Close a segment in which nothing was sampled: a training row needs one token behind its prompt."""
        if not segment.mask:
            segment.append([*self._turn_end.closing_ids, self._tokenizer.eos_token_id][:1])

    def _room(self, segment: Segment) -> int:
        """Tokens that a segment may still take."""
        room = self._limits.segment_response - len(segment.mask)
        if self._limits.context is not None:
            room = min(room, self._limits.context - len(segment.ids))
        return room

    def _require_room(self, opened: Segment) -> None:
        num_tokens = len(opened.ids)
        if num_tokens > self._limits.segment_prompt:
            raise ValueError(
                f"the overview takes {num_tokens} tokens; expected at most "
                f"data.max_prompt_length={self._limits.segment_prompt}; raise it, or lower "
                "videomtr.episode.frame_budget or videomtr.video.pool.max_tokens"
            )
        if self._room(opened) < 1:
            raise ValueError(
                f"the overview takes {num_tokens} tokens and leaves no room for a response in "
                f"actor_rollout_ref.rollout.max_model_len={self._limits.context}; raise it, or lower "
                "videomtr.episode.frame_budget or videomtr.video.pool.max_tokens"
            )

    async def _open(self, turn: int) -> Segment:
        """Begin a context with the message of one turn."""
        message, images = self._shown[turn]
        messages = [*self._system, message]
        ids = list(await asyncio.to_thread(self._builder.build_initial_tokens, messages, images=images))
        return Segment(
            first_turn=turn,
            ids=ids,
            num_prompt_tokens=len(ids),
            images=list(images),
            messages=messages,
            response_starts={},
        )

    def _append_response(self, segment: Segment, logprobs: list[float], text: str) -> None:
        start = len(segment.mask)
        segment.response_starts[len(self.turn_spans)] = len(segment.ids)
        segment.ids = [*segment.ids, *self._sampled]
        segment.mask = [*segment.mask, *[1] * len(self._sampled)]
        segment.logprobs = [*segment.logprobs, *logprobs]
        segment.messages = [*segment.messages, {"role": "assistant", "content": text}]
        self.turn_segments.append(len(self.segments) - 1)
        self.turn_spans.append([start, len(segment.mask)])

    async def _continued(self, segment: Segment) -> Segment:
        """Append the newest message to a copy of the segment, whose last response is closed first."""
        message, images = self._shown[-1]
        closed = dataclasses.replace(segment)
        closed.append(self._turn_end.missing(self._sampled))
        messages = [*segment.messages, message]
        merged = await asyncio.to_thread(self._builder.merge_context_tokens, segment.messages, messages, closed.ids)
        ids = list(merged.token_ids)
        # A builder may take off a token that both ends a response and begins the next message, and write it again:
        # then it is still the one that was sampled.
        num_same = len(closed.ids) - merged.removed_prefix_token_count
        while num_same < len(closed.ids) and ids[num_same] == closed.ids[num_same]:
            num_same += 1
        kept, num_new = num_same - segment.num_prompt_tokens, len(ids) - num_same
        return dataclasses.replace(
            closed,
            ids=ids,
            images=segment.images + images,
            messages=messages,
            mask=closed.mask[:kept] + [0] * num_new,
            logprobs=closed.logprobs[:kept] + [0.0] * num_new,
        )

    def _shorten_last_span(self, segment: Segment) -> None:
        """Leave out of the newest turn what the builder took off its response for good."""
        span = self.turn_spans[-1]
        while span[1] > span[0] and not segment.mask[span[1] - 1]:
            span[1] -= 1

    async def _slid(self, segment: Segment, first_turn: int) -> Segment:
        """Make the segment whose prompt is `segment` without the turns before `first_turn`.

        With messages m and responses r, from turn 1 on:

            segment   system m0 r0 m1 r1 m2
            opened    system m1                 tokenised anew, since m1 now stands behind the instructions
            result    system m1 r1 m2           r1 and what follows keep the ids they have; all of it is prompt
        """
        opened = await self._open(first_turn)
        kept_from = segment.response_starts[first_turn]
        shift = len(opened.ids) - kept_from
        num_dropped = 2 * (first_turn - segment.first_turn)  # messages: an observation and a response a turn
        ids = opened.ids + segment.ids[kept_from:]
        return Segment(
            first_turn=first_turn,
            ids=ids,
            num_prompt_tokens=len(ids),
            images=[image for _, images in self._shown[first_turn:] for image in images],
            messages=[*self._system, *segment.messages[len(self._system) + num_dropped :]],
            response_starts={turn: at + shift for turn, at in segment.response_starts.items() if turn >= first_turn},
        )

    def _merge_server_fields(self, output: Any) -> None:
        """Keep what verl reads of the servers' answers: the oldest and newest weights that took part."""
        if output.num_preempted is not None:
            self.num_preempted = max(self.num_preempted, 0) + output.num_preempted
        oldest = self.server_fields.get("min_global_steps")
        self.server_fields.update(output.extra_fields)
        if oldest is not None:
            self.server_fields["min_global_steps"] = oldest
