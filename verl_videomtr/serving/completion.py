# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A chat completion as it comes from the wire: bytes in, a checked answer out. Nothing of it is believed unseen."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GIVEN_UP = ("abort", "error")
"""`finish_reason` of vLLM and SGLang where the server ended the request, as when it is paused or shut down."""


class NotJson(ValueError):
    """The bytes are no JSON at all, such as a proxy's web page or an event stream that nobody asked for."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer that was paid for."""

    content: str
    """"" where the server sent none."""
    reasoning: str | None = None
    """What a server's reasoning parser took out of the content."""
    finish_reason: str
    """"stop", "length", ..."""
    input_tokens: int = 0
    """0 where the server does not count."""
    output_tokens: int = 0
    cached_tokens: int | None = None
    """Of the input, those that the server had computed before; None where it does not say."""
    prompt_ids: array[int] | None = None
    """Token ids of the prompt as the server rendered it; None where it does not say."""
    response_ids: array[int] | None = None


def read_completion(data: bytes, *, redact: Callable[[str], str] = str) -> Completion:
    """Read the body of a 200 answer.

    Args:
        redact: takes the key out of texts.
    Raises:
        NotJson: it is something else than JSON.
        ValueError: it is cut off, or no chat completion; asking again may help.
    """
    payload = _load(data)
    choices = payload.get("choices") if isinstance(payload, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("no choices in it")
    choice: dict[str, Any] = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        raise ValueError("no message in it")
    finish_reason = choice.get("finish_reason")
    if not isinstance(finish_reason, str) or not finish_reason:
        # A server that ends before the model does sends a text that looks whole.
        raise ValueError("no finish_reason in it: the answer was cut off")
    if finish_reason in GIVEN_UP:
        raise ValueError(f"{finish_reason=}: the server gave the request up before the model had ended")
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    usage = payload.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    return Completion(
        content=redact(_text(message.get("content"), "content")),
        reasoning=redact(_text(reasoning, "reasoning")) if reasoning else None,
        finish_reason=finish_reason,
        input_tokens=_count(usage.get("prompt_tokens")) or 0,
        output_tokens=_count(usage.get("completion_tokens")) or 0,
        cached_tokens=_count(details.get("cached_tokens")) if isinstance(details, dict) else None,
        prompt_ids=_ids(payload.get("prompt_token_ids")),
        response_ids=_ids(choice.get("token_ids")),
    )


def _load(data: bytes) -> Any:
    if data.lstrip()[:1] not in (b"{", b"["):
        raise NotJson("the server answers with something else than JSON")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the answer is cut off or is not JSON ({error})") from error


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {type(value).__name__}, not a text")
    return value


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _ids(value: Any) -> array[int] | None:
    if not isinstance(value, list):
        return None
    try:
        # Tens of thousands for every episode in flight: as a list, nine times the bytes.
        return array("I", value)
    except (TypeError, OverflowError):
        return None
