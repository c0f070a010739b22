"""Asking an OpenAI-compatible server many questions: bounded concurrency, patience with failures, and no key leaked."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

KEY_VARIABLE = "OPENAI_API_KEY"
NO_KEY = "no-key"
"""Sent where the environment holds no key; a local server needs none, but the client wants one."""
MAX_WAIT_SECONDS = 60.0
MAX_FAILED_IN_A_ROW = 10
"""Requests without an answer, one after the other, at which the run gives up: the server is gone."""

MAX_SHOWN = 300
"""Characters of a server's error that are shown: some answer with a whole web page."""


class AskError(ValueError):
    """No use asking further: a wrong address, model or key, an empty account, or a server that does not come back."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where and how to ask."""

    base_url: str
    """Address of the API, ending in `/v1` for most servers."""
    concurrency: int = 8
    """Requests in flight at once."""
    timeout_seconds: float = 60.0
    """Longest wait for one whole answer."""
    max_attempts: int = 6
    """Tries per request before it counts as unanswered."""
    backoff_seconds: float = 1.0
    """Wait after the first failure; doubles with each further one, up to a minute, and is varied by up to a half."""
    api_key: str | None = field(default_factory=lambda: os.environ.get(KEY_VARIABLE) or None, repr=False)
    """From the environment; never shown."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the base URL is not an address; expected http(s)://host[:port]/v1; check --base-url")
        if "@" in parts.netloc or parts.query:
            raise ValueError(f"the base URL holds credentials or a query; expected neither; use {KEY_VARIABLE}")
        for name in ("concurrency", "timeout_seconds", "max_attempts"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}; expected more than 0")

    def redact(self, text: str) -> str:
        """Return the text without the key: servers quote it in errors, and some in answers."""
        return text.replace(self.api_key, "[key]") if self.api_key else text


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer that was paid for."""

    content: str
    finish_reason: str
    input_tokens: int
    output_tokens: int


@dataclass(kw_only=True)
class Outcome:
    """What is left over after all questions were asked."""

    refused: dict[str, str] = field(default_factory=dict)
    """By key: requests that the server will never answer (HTTP 400, 413, 422), with its reason."""
    unanswered: dict[str, str] = field(default_factory=dict)
    """By key: requests that ran out of attempts, with the last failure; asking again later may help."""


class _Refused(Exception):
    pass


class _Unanswered(Exception):
    pass


async def ask_all(
    bodies: Iterable[tuple[str, dict[str, Any]]], *, server: Server, answered: Callable[[str, Answer], None]
) -> Outcome:
    """Send every request; call `answered(key, answer)` as each answer arrives.

    Args:
        bodies: (key, chat-completion request).
        answered: called on the event loop, so that an answer is kept before the next is asked for.
    Raises:
        AskError: asking further is no use. Answers that came before have been handed over.
    """
    outcome = Outcome()
    waiting = iter(bodies)
    failed_in_a_row = 0
    num_answered = 0
    client = openai.AsyncOpenAI(
        base_url=server.base_url, api_key=server.api_key or NO_KEY, max_retries=0, timeout=server.timeout_seconds
    )

    async def work() -> None:
        nonlocal failed_in_a_row, num_answered
        for key, body in waiting:
            try:
                answer = await _ask(client, body, server)
            except _Refused as refused:
                outcome.refused[key] = str(refused)
                if not num_answered and len(outcome.refused) >= MAX_FAILED_IN_A_ROW:
                    raise AskError(
                        f"the server refuses every request: {refused}; check --model and what it supports"
                    ) from None
            except _Unanswered as failure:
                outcome.unanswered[key] = str(failure)
                failed_in_a_row += 1
                if failed_in_a_row >= MAX_FAILED_IN_A_ROW:
                    raise AskError(
                        f"{failed_in_a_row} requests in a row had no answer, the last: {failure}; "
                        "run the same command again when the server is back, answers so far are kept"
                    ) from None
            else:
                failed_in_a_row = 0
                num_answered += 1
                answered(key, answer)

    workers = [asyncio.create_task(work()) for _ in range(server.concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await client.close()
    return outcome


async def _ask(client: openai.AsyncOpenAI, body: dict[str, Any], server: Server) -> Answer:
    """Ask until there is an answer, the server refuses, or the attempts are used up."""
    failure = ""
    for attempt in range(server.max_attempts):
        wait_seconds = min(MAX_WAIT_SECONDS, server.backoff_seconds * 2**attempt) * random.uniform(0.5, 1.0)
        try:
            # The client's own timeout starts anew with every byte, so a slow trickle would never end.
            response = await asyncio.wait_for(client.chat.completions.create(**body), server.timeout_seconds)
            return _read(response, server)
        except AskError:
            raise
        except openai.APIStatusError as error:
            failure = server.redact(f"HTTP {error.status_code}: {error.message}")[:MAX_SHOWN]
            _sort_status(error, failure)
            wait_seconds = max(wait_seconds, _retry_after_seconds(error))
        except (asyncio.TimeoutError, openai.APITimeoutError):
            failure = f"no answer within {server.timeout_seconds:g} s"
        except openai.OpenAIError as error:
            failure = server.redact(f"{type(error).__name__}: {error}")[:MAX_SHOWN]
        except (ValueError, RecursionError) as error:
            failure = server.redact(f"the answer is cut off or is not JSON ({error})")[:MAX_SHOWN]
        if attempt + 1 < server.max_attempts:
            await asyncio.sleep(wait_seconds)
    raise _Unanswered(f"{failure}; after {server.max_attempts} attempts")


def _sort_status(error: openai.APIStatusError, failure: str) -> None:
    """Return for what may pass with time (408, 409, 429, 5xx); raise for the rest."""
    if error.status_code == 429 and error.code == "insufficient_quota":
        raise AskError(f"{failure}; expected an account that can pay; answers so far are kept") from None
    if error.status_code in (400, 413, 422):
        raise _Refused(failure) from None
    if error.status_code < 500 and error.status_code not in (408, 409, 429):
        raise AskError(f"{failure}; check --base-url, --model and {KEY_VARIABLE}") from None


def _retry_after_seconds(error: openai.APIStatusError) -> float:
    try:
        return min(MAX_WAIT_SECONDS, float(error.response.headers.get("retry-after", 0.0)))
    except ValueError:
        return 0.0


def _read(response: Any, server: Server) -> Answer:
    if not isinstance(response, ChatCompletion):
        raise AskError("the server answers with something else than a chat completion; check --base-url (often .../v1)")
    if not response.choices:
        raise ValueError("no choices in it")
    choice, usage = response.choices[0], response.usage
    return Answer(
        content=server.redact(choice.message.content or ""),
        finish_reason=choice.finish_reason or "",
        input_tokens=usage.prompt_tokens if usage else 0,
        output_tokens=usage.completion_tokens if usage else 0,
    )
