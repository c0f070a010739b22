# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""How a model's responses end and what its chat template writes behind one, read off the template.

Families differ in both: Qwen ends a message with `<|im_end|>` and a line end, GLM with nothing but the next role's
token, Gemma with `<turn|>`; and a server stops at every end token of the model's generation config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig

_MARK = "the last words"
_THOUGHT = "<think>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnEnd:
    """The end of a response in one model's tokens."""

    closing_ids: tuple[int, ...]
    """What the chat template writes behind a response before the next message; () where it writes nothing."""
    end_ids: frozenset[int]
    """Tokens that end a response when they are sampled; they are no part of its text."""

    def missing(self, sampled_ids: Sequence[int]) -> list[int]:
        """Return what a response lacks to be closed as the template closes it."""
        for length in range(min(len(self.closing_ids), len(sampled_ids)), 0, -1):
            if tuple(sampled_ids[-length:]) == self.closing_ids[:length]:
                return list(self.closing_ids[length:])
        return list(self.closing_ids)

    def without_end(self, sampled_ids: Sequence[int]) -> list[int]:
        """Leave out the end tokens. Other special tokens stay: a tag may be one."""
        return [token for token in sampled_ids if token not in self.end_ids]


def read_turn_end(tokenizer: Any, processor: Any, **template_kwargs: Any) -> TurnEnd:
    """Read it off the chat template, and off the generation config beside the tokenizer if there is one.

    Args:
        template_kwargs: `data.apply_chat_template_kwargs`.
    Raises:
        ValueError: the template leaves out what an assistant says.
    """
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    shown = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False, **template_kwargs)
    _, found, closing = shown.rpartition(_MARK)
    if not found:
        raise ValueError(
            f"the chat template of {type(processor).__name__} does not show what an assistant says; expected it in "
            "the rendered text; set actor_rollout_ref.model.custom_chat_template to one that does"
        )
    closing_ids = tuple(tokenizer.encode(closing, add_special_tokens=False))
    ends = end_ids_of_server(tokenizer)
    if closing_ids and closing_ids[0] in tokenizer.all_special_ids:
        ends |= {closing_ids[0]}
    return TurnEnd(closing_ids=closing_ids, end_ids=ends)


def opened_thought(tokenizer: Any, prompt_ids: Sequence[int]) -> str:
    """Return the tag with which the prompt ends, or "".

    Templates of thinking models open the thought themselves: the policy continues it, but the parser must see it.
    """
    return _THOUGHT if tokenizer.decode(prompt_ids[-8:]).rstrip().endswith(_THOUGHT) else ""


def end_ids_of_server(tokenizer: Any) -> frozenset[int]:
    """Return the tokens at which a server stops: the tokenizer's, and those of the generation config beside it."""
    try:
        ends = GenerationConfig.from_pretrained(str(tokenizer.name_or_path)).eos_token_id
    except OSError:
        ends = None
    more = ends if isinstance(ends, list) else [ends]
    return frozenset(token for token in (tokenizer.eos_token_id, *more) if token is not None)
