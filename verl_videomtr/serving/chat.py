# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A policy behind a chat endpoint: an episode's messages in, its replies out, each in the journal before it is used.

The server renders the whole conversation anew for every turn. Where it reports token ids, turns are compared: a prompt
must begin with the prompt before it and what was sampled behind that, as in training, where ids are only appended.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_videomtr.rollout import Message, OutOfRoom, Reply
from verl_videomtr.serving.client import Body, Client
from verl_videomtr.serving.completion import Completion
from verl_videomtr.serving.journal import SharedJournal
from verl_videomtr.serving.pictures import Picture, PictureService
from verl_videomtr.serving.server import Refused
from verl_videomtr.serving.spool import Piece

NUM_SHOWN_IDS = 8
"""Token ids on each side of a first difference."""
_TOO_LONG = ("maximum context length", "maximum model length", "context length", "context window", "too long")


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How a server is asked, the same for all episodes of a run."""

    model: str
    max_response_tokens: int
    sampling: Mapping[str, Any]
    """All of the server's sampling parameters: what is left out comes from the model's generation_config.json."""
    wants_token_ids: bool = True
    """Ask for token ids (vLLM); a server that does not know the field may refuse it."""


class ChatPolicy:
    """The context of one episode as chat messages, kept as the very bytes that are sent.

    Args:
        journal: keeps the answers; None keeps none.
        key: names the episode in the journal.
        held: told the bytes of the messages in the context, pictures included, whenever they grow.
    """

    def __init__(
        self,
        client: Client,
        config: ChatConfig,
        *,
        pictures: PictureService,
        system_text: str,
        journal: SharedJournal | None = None,
        key: str = "",
        held: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self.client = client
        self.config = config
        self.pictures = pictures
        self.journal = journal
        self.key = key
        self.held = held
        self.entries: list[dict[str, Any]] = []
        """What the journal holds of each turn."""
        self.num_held_bytes = 0
        """Of the messages in the context, pictures included."""
        self._system = [_text_message("system", system_text)] if system_text else []
        self._shown: list[Message] = []
        self._sent: list[list[Piece] | None] = []
        """Each user message in pieces, once it has been sent."""
        self._said: list[bytes] = []
        self._context_start = 0
        self._expected_ids: array[int] | None = None

    async def show(self, message: Message, *, context_start: int) -> bool:
        self._shown.append(message)
        self._sent.append(None)
        if context_start != self._context_start:
            # Another context: the ids before it say nothing about the next prompt.
            self._context_start, self._expected_ids = context_start, None
            for turn in range(context_start):
                self.num_held_bytes -= sum(map(len, self._sent[turn] or ()))
                self._sent[turn] = None
        return True

    async def respond(self) -> Reply:
        """Ask, or take the answer from the journal.

        Raises:
            OutOfRoom: the server's context cannot hold the conversation.
            Refused, Unanswered, AskError: see Client.complete.
            VideoError: a frame cannot be decoded.
        """
        key = f"{self.key}/{len(self.entries)}"
        entry = self.journal.get(key) if self.journal is not None else None
        if entry is None:
            entry = {"key": key, **await self._ask()}
            if self.journal is not None:
                await self.journal.append(entry)
        else:
            self._expected_ids = None
        self.entries.append(entry)
        self._said.append(_text_message("assistant", entry["text"]))
        is_full = entry["finish_reason"] == "length" and entry["room_was_short"]
        return Reply(
            text=entry["text"],
            out_of_room=is_full,
            finish_reason=entry["finish_reason"],
            prompt_tokens=entry["input_tokens"],
            response_tokens=entry["output_tokens"],
        )

    async def _ask(self) -> dict[str, Any]:
        messages = await self._messages()
        began = time.monotonic()
        room_was_short = False
        try:
            completion = await self.client.complete(self._body(messages, self.config.max_response_tokens))
        except Refused as refused:
            if not _is_too_long(refused):
                raise
            # The whole limit does not fit; without one the server fills what room is left.
            room_was_short = True
            try:
                completion = await self.client.complete(self._body(messages, None))
            except Refused as again:
                if not _is_too_long(again):
                    raise
                raise OutOfRoom(str(again)) from None
        drift = self._compare(completion)
        return {
            "text": response_text(completion),
            "rejoined": completion.reasoning is not None,
            "finish_reason": completion.finish_reason,
            "room_was_short": room_was_short,
            "input_tokens": completion.input_tokens,
            "output_tokens": completion.output_tokens,
            "cached_tokens": completion.cached_tokens,
            "seconds": round(time.monotonic() - began, 4),
            "drift": drift,
        }

    async def _messages(self) -> list[Piece]:
        """The conversation that stays in the context, in pieces that are shared from turn to turn."""
        pieces: list[Piece] = list(self._system)
        for turn in range(self._context_start, len(self._shown)):
            shown = self._sent[turn]
            if shown is None:
                shown = self._sent[turn] = await self._render(self._shown[turn])
                self.num_held_bytes += sum(map(len, shown))
                if self.held is not None:
                    await self.held(self.num_held_bytes)
            pieces += [b",", *shown] if pieces else shown
            if turn < len(self._said):
                pieces += [b",", self._said[turn]]
        return pieces

    async def _render(self, message: Message) -> list[Piece]:
        urls = iter(await self.pictures.encoded([part for part in message.parts if isinstance(part, Picture)]))
        pieces: list[Piece] = [b'{"role":"user","content":[']
        for number, part in enumerate(message.parts):
            comma = b"," if number else b""
            if isinstance(part, Picture):
                url = next(urls)
                pieces += [comma + b'{"type":"image_url","image_url":{"url":', url, b"}}"]
            else:
                pieces.append(comma + json.dumps({"type": "text", "text": part}).encode())
        return [*pieces, b"]}"]

    def _body(self, messages: Sequence[Piece], max_tokens: int | None) -> Body:
        fields = {
            "model": self.config.model,
            **self.config.sampling,
            **({} if max_tokens is None else {"max_completion_tokens": max_tokens}),
            **({"return_token_ids": True} if self.config.wants_token_ids else {}),
        }
        return Body([json.dumps(fields)[:-1].encode() + b',"messages":[', *messages, b"]}"])

    def _compare(self, completion: Completion) -> dict[str, Any] | None:
        """Compare the prompt's ids with those that training would have; None where they cannot be told."""
        expected, prompt, response = self._expected_ids, completion.prompt_ids, completion.response_ids
        self._expected_ids = None if prompt is None or response is None else prompt + response
        if expected is None or prompt is None:
            return None
        if prompt[: len(expected)] == expected:
            return {"at": None}
        differ = (i for i, (a, b) in enumerate(zip(expected, prompt, strict=False)) if a != b)
        at = next(differ, len(prompt))
        shown = slice(max(0, at - 2), at + NUM_SHOWN_IDS)
        return {"at": at, "expected": list(expected[shown]), "rendered": list(prompt[shown])}


def response_text(completion: Completion) -> str:
    """The response as the model wrote it.

    A server with a reasoning parser takes the thought out of the content; a template that opens the thought itself
    leaves its opening tag out.
    """
    content, thought = completion.content, completion.reasoning
    if thought is not None:
        return f"<think>{thought}</think>{content}"
    closing = content.find("</think>")
    if closing >= 0 and "<think>" not in content[:closing]:
        return f"<think>{content}"
    return content


def _is_too_long(refused: Refused) -> bool:
    # Servers give the same status to every mistake; only the words differ.
    return any(words in str(refused).lower() for words in _TOO_LONG)


def _text_message(role: str, text: str) -> bytes:
    return json.dumps({"role": role, "content": text}).encode()
