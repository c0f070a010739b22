# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A conversation as token ids, message by message: what the agent loop puts together, without pixels.

Observation -> chat template -> ids, with the picture behind every image token
"""

from __future__ import annotations

import functools

from transformers import PreTrainedTokenizerBase

from data_prep.synthetic import Layout
from recipes.learning_study.pictures import PictureBook
from verl_videomtr.episode import Observation

NO_PICTURE = -1


class Scribe:
    """Turns text into ids, remembering what it has seen: lessons repeat themselves.

    Args:
        tokenizer: the tiny model's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.end_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.encode = functools.lru_cache(maxsize=100_000)(self._encode)
        self.render = functools.lru_cache(maxsize=100_000)(self._render)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text)["input_ids"])

    def _render(self, parts: tuple[str | int, ...]) -> tuple[int, ...]:
        content = [{"type": "image"} if isinstance(part, int) else {"type": "text", "text": part} for part in parts]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return self.encode(text)


class Transcript:
    """The ids of one conversation so far."""

    def __init__(self, scribe: Scribe, layout: Layout, book: PictureBook) -> None:
        self.scribe = scribe
        self.layout = layout
        self.book = book
        self.ids: list[int] = []
        self.pictures: list[int] = []
        """For each token, the picture's position in the book, or NO_PICTURE."""
        self.num_responses = 0

    def observe(self, observation: Observation) -> None:
        """Append a user message and the opening of the response to it."""
        if self.ids:
            self._append(self.scribe.encode("\n"))
        ids = self.scribe.render(observation.parts)
        shown = iter(observation.frames)
        self.ids += ids
        self.pictures += [
            self.book.index[self.layout.pictures[next(shown)]] if token == self.scribe.image_id else NO_PICTURE
            for token in ids
        ]

    def respond(self, text: str) -> int:
        """Append a response and the end of its message; return the position of its first token."""
        start = len(self.ids)
        self.num_responses += 1
        self._append((*self.scribe.encode(text), self.scribe.end_id))
        return start

    def _append(self, ids: tuple[int, ...]) -> None:
        self.ids += ids
        self.pictures += [NO_PICTURE] * len(ids)
