# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Many independent requests to one server, a bounded number at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from verl_videomtr.serving.client import Body, Client
from verl_videomtr.serving.completion import Completion
from verl_videomtr.serving.server import Refused, Server, Unanswered


@dataclass(kw_only=True)
class Outcome:
    """What is left over after all questions were asked."""

    refused: dict[str, str] = field(default_factory=dict)
    """By key: requests that the server will never answer, with its reason."""
    unanswered: dict[str, str] = field(default_factory=dict)
    """By key: requests that ran out of attempts, with the last failure; asking again later may help."""


async def ask_all(
    bodies: Iterable[tuple[str, dict[str, Any]]], *, server: Server, answered: Callable[[str, Completion], None]
) -> Outcome:
    """Send every request; call `answered(key, completion)` as each answer arrives.

    Args:
        bodies: (key, chat-completion request).
        answered: called on the event loop, so that an answer is kept before the next is asked for.
    Raises:
        AskError: asking further is no use. Answers that came before have been handed over.
    """
    outcome = Outcome()
    waiting = iter(bodies)

    async def work(client: Client) -> None:
        for key, body in waiting:
            try:
                answered(key, await client.complete(Body.of(body)))
            except Refused as refused:
                outcome.refused[key] = str(refused)
            except Unanswered as failure:
                outcome.unanswered[key] = str(failure)

    async with Client(server) as client:
        workers = [asyncio.create_task(work(client)) for _ in range(server.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return outcome
