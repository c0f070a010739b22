# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What servers say of themselves before a run, and whether they render earlier turns as they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from verl_videomtr.serving.client import Body, Client
from verl_videomtr.serving.completion import Completion
from verl_videomtr.serving.server import AskError, Refused, Unanswered

_THOUGHT = "<think>It is the second scene.</think>"
_ACTION = "<retrieve>0,1</retrieve>"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One server, as it describes itself."""

    base_url: str
    model: str
    kind: str
    """"vllm", "sglang", or "other": which sampling parameters it knows."""
    max_model_len: int | None = None
    version: str | None = None


async def inspect_server(client: Client, model: str | None) -> Endpoint:
    """Ask a server which models it has.

    Args:
        model: the one that is wanted; None takes the only one.
    Raises:
        AskError: it cannot be reached, or does not have the model.
    """
    listed = await client.get("/models")
    entries = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(entries, list):
        raise AskError(f"the server lists no models; expected an OpenAI-compatible API; {client.server.root}; check it")
    models = {entry["id"]: entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)}
    if model is None:
        if len(models) != 1:
            raise AskError(f"the server has {len(models)} models {sorted(models)[:5]}; expected one; give --model")
        model = next(iter(models))
    if model not in models:
        raise AskError(
            f"the server does not have --model {model}; expected one of {sorted(models)[:5]}; {client.server.root}; "
            "it is the path that was served, or its --served-model-name"
        )
    owner = models[model].get("owned_by")
    length = models[model].get("max_model_len")
    return Endpoint(
        base_url=client.server.root,
        model=model,
        kind=owner if owner in ("vllm", "sglang") else "other",
        max_model_len=length if isinstance(length, int) else None,
        version=await _version(client),
    )


def sampling_fields(sampling: Mapping[str, float | int], kind: str) -> dict[str, Any]:
    """Every sampling parameter that a server of this kind has, with the values that verl samples with.

    vLLM fills what a request leaves out from the model's generation_config.json: a run at "temperature 1" was greedy.

    Args:
        sampling: temperature, top_p and top_k.
    """
    common = {
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "n": 1,
    }
    if kind == "other":
        return common
    return {**common, "top_k": sampling["top_k"], "min_p": 0.0, "repetition_penalty": 1.0}


async def keeps_thoughts(client: Client, endpoint: Endpoint) -> bool | None:
    """Whether the server's chat template renders an earlier turn with its thought; None where it cannot be told.

    The same conversation is sent with and without a thought in an earlier turn. Equal prompts mean that it was removed.
    """
    with_thought, without = [await _render(client, endpoint, earlier) for earlier in (f"{_THOUGHT}{_ACTION}", _ACTION)]
    if with_thought is None or without is None:
        return None
    if with_thought.prompt_ids is not None and without.prompt_ids is not None:
        return with_thought.prompt_ids != without.prompt_ids
    if with_thought.input_tokens and without.input_tokens:
        return with_thought.input_tokens != without.input_tokens
    return None


T = TypeVar("T")


def choose(servers: Sequence[T], video: str) -> T:
    """Spread episodes over servers; one video's stay together, so that its overview is computed once."""
    # Not a checksum: those of names that differ in a digit share their last bits.
    digest = hashlib.blake2b(video.encode(), digest_size=8).digest()
    return servers[int.from_bytes(digest, "big") % len(servers)]


async def _render(client: Client, endpoint: Endpoint, earlier: str) -> Completion | None:
    body = {
        "model": endpoint.model,
        "max_completion_tokens": 1,
        **({"return_token_ids": True} if endpoint.kind == "vllm" else {}),
        "messages": [
            {"role": "user", "content": "Where is it?"},
            {"role": "assistant", "content": earlier},
            {"role": "user", "content": "And now?"},
        ],
    }
    try:
        return await client.complete(Body.of(body))
    except (Refused, Unanswered):
        return None


async def _version(client: Client) -> str | None:
    """vLLM's version, which it tells beside the API."""
    try:
        answer = await client.get("/../version")
    except AskError:
        return None
    version = answer.get("version") if isinstance(answer, dict) else None
    return str(version)[:40] if version else None
