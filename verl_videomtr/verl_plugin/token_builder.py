# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""verl's Continuous Token builder, made to say what any chat template says: changed in place, by trying the template.

Two things differ by family. A tokenizer may add a first token of its own, which the template has written already:
verl's builder asks for it again in every message. And a template may demand that user and assistant take turns, as
Mistral's and Gemma 3's do: verl's builder renders what follows a response behind a user's message, which such a
template refuses. (verl/utils/tokenizer/continuous_token.py.)
"""

from __future__ import annotations

from typing import Any

from jinja2.exceptions import TemplateError

_SYSTEM = {"role": "system", "content": "instructions"}
_USER = {"role": "user", "content": "question"}
_ASSISTANT = {"role": "assistant", "content": "answer"}


def fit_to_template(builder: Any) -> None:
    """Let a builder take all special tokens from the template, and messages that follow a response from behind one."""
    builder.mm_processor_kwargs = {**(builder.mm_processor_kwargs or {}), "add_special_tokens": False}
    try:
        builder._tokenize_single_non_tool(_USER, add_generation_prompt=True)
    except TemplateError:
        builder._tokenize_single_non_tool = _behind_a_response(builder)


def _behind_a_response(builder: Any) -> Any:
    def tokenize(
        message: dict[str, Any], *, tools: list[dict[str, Any]] | None = None, add_generation_prompt: bool = False
    ) -> list[int]:
        return builder.render_delta_token_id(
            [_SYSTEM, _USER, _ASSISTANT], [message], add_generation_prompt=add_generation_prompt, tools=tools
        )

    return tokenize
