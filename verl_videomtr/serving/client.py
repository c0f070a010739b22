# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One request and its answer, with patience for what passes and none for what does not: bytes out, a completion in.

    attempt -> answer | passing failure: wait, try again | refusal: never this request | AskError: no request at all

Over aiohttp, whose bodies can be streamed: a conversation of 32 pictures is megabytes, and the usual client holds each
twice. Here it is read from the disk block by block while it is sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from verl_videomtr.serving.completion import Completion, NotJson, read_completion
from verl_videomtr.serving.server import (
    KEY_VARIABLE,
    MAX_FAILED_IN_A_ROW,
    MAX_SHOWN,
    MAX_WAIT_SECONDS,
    AskError,
    Refused,
    Server,
    Unanswered,
    serve_command,
)
from verl_videomtr.serving.spool import Piece
from verl_videomtr.serving.texts import one_line

logger = logging.getLogger(__name__)

MAX_READING = 8
"""Blocks of bodies that are read at once. What has been read is handed to its connection at once, a copy that holds the
loop up for as long as it takes: a thousand bodies, each sent in one go, would hold it up for seconds."""
WARN_SECONDS = 30.0
"""Least time between two warnings that requests fail and are tried again."""
WITHHELD = "content_filter"
"""`finish_reason` of an answer that a provider's filter has emptied or cut."""
_ERROR_BYTES = 64 * 1024
_BLOCK_BYTES = 256 * 1024
_PASSING = (408, 409, 429)
_REFUSING = (400, 413, 422)


@dataclass(frozen=True)
class Body:
    """A request's JSON in pieces, in memory or in a spool, that are sent one after the other and never all joined."""

    parts: Sequence[Piece]

    @classmethod
    def of(cls, value: dict[str, Any]) -> Body:
        return cls([json.dumps(value).encode()])

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.parts))

    def blocks(self) -> Iterator[list[Piece]]:
        """The pieces in groups of at least _BLOCK_BYTES, but for the last."""
        block: list[Piece] = []
        num_bytes = 0
        for part in self.parts:
            block.append(part)
            num_bytes += len(part)
            if num_bytes >= _BLOCK_BYTES:
                yield block
                block, num_bytes = [], 0
        if block:
            yield block


def _join(block: Sequence[Piece]) -> bytes:
    return b"".join(part if isinstance(part, bytes) else part.read() for part in block)


class _PassingFailure(Exception):
    """A try that failed in a way that may pass.

    Attributes:
        wait_seconds: how long the server asks to wait.
    """

    def __init__(self, what: str, *, wait_seconds: float = 0.0) -> None:
        super().__init__(what)
        self.wait_seconds = wait_seconds


class Client:
    """Asks one server; use it as an async context manager. It counts, and gives up when the server is gone."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.num_answered = 0
        self.num_refused = 0
        self._failed_in_a_row = 0
        self._tries_failed = 0
        self._quiet_until = -math.inf
        self._reading = asyncio.Semaphore(MAX_READING)

    async def __aenter__(self) -> Client:
        headers = {"Authorization": f"Bearer {self.server.api_key}"} if self.server.api_key else {}
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            headers=headers,
            # Callers bound what is in flight; a bound here would count as waiting for the server.
            connector=aiohttp.TCPConnector(limit=0),
            # The whole answer, not the pause between two bytes of it.
            timeout=aiohttp.ClientTimeout(total=self.server.timeout_seconds),
            trace_configs=[trace],
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def complete(self, body: Body) -> Completion:
        """Send a chat-completion request until it is answered.

        Raises:
            Refused: the server will not answer this one.
            Unanswered: all attempts failed.
            AskError: no further request is of use.
        """
        try:
            completion = await self._complete(body)
        except Refused as refused:
            self.num_refused += 1
            if not self.num_answered and self.num_refused >= MAX_FAILED_IN_A_ROW:
                raise AskError(
                    f"the server refuses every request: {refused}; check --model and what it supports"
                ) from None
            raise
        except Unanswered as failure:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= MAX_FAILED_IN_A_ROW:
                raise AskError(
                    f"{self._failed_in_a_row} requests in a row had no answer, the last: {failure}; "
                    f"{self.server.root}; run the same command again when the server is back, or without it if there "
                    "are others; answers so far are kept"
                ) from None
            raise
        self._failed_in_a_row = 0
        self.num_answered += 1
        return completion

    async def get(self, path: str) -> Any:
        """Get JSON, such as `/models`; one try.

        Raises:
            AskError: there is no such answer.
        """
        where = f"{self.server.root}{path}"
        try:
            async with self._session.get(where, allow_redirects=False) as response:
                data = await self._read(response, self.server.max_answer_bytes)
                if response.status != 200:
                    raise AskError(
                        f"HTTP {response.status}: {self._say(data)}; expected 200; {where}; {_remedy(response.status)}"
                    )
                return json.loads(data)
        except asyncio.TimeoutError:
            raise AskError(
                f"no answer within {self.server.timeout_seconds:g} s; expected an OpenAI-compatible API; {where}; see "
                "whether the server still loads its model, and whether it speaks http or https"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise AskError(
                f"the server cannot be reached ({self._describe(error)}){_proxy_note()}; expected an OpenAI-compatible "
                f"API; {where}; "
                f"start one: {serve_command('MODEL')} (docs/serving.md), or check --base-url"
            ) from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, AskError):
                raise
            raise AskError(
                f"the answer is no JSON; expected an OpenAI-compatible API; {where}; check --base-url"
            ) from None

    async def _complete(self, body: Body) -> Completion:
        server, failure = self.server, ""
        for attempt in range(server.max_attempts):
            wait_seconds = min(MAX_WAIT_SECONDS, server.backoff_seconds * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                return await self._try(body)
            except _PassingFailure as passing:
                failure = str(passing)
                wait_seconds = max(wait_seconds, passing.wait_seconds)
            if attempt + 1 < server.max_attempts:
                self._warn(failure)
                await asyncio.sleep(wait_seconds)
        raise Unanswered(f"{failure}; after {server.max_attempts} attempts")

    def _warn(self, failure: str) -> None:
        """Say now and then that requests are tried again: with long waits, a run would look as if it stood still."""
        self._tries_failed += 1
        if time.monotonic() < self._quiet_until:
            return
        self._quiet_until = time.monotonic() + WARN_SECONDS
        logger.warning(
            "%s: %d tries have failed so far, the last: %s; trying again", self.server.root, self._tries_failed, failure
        )

    async def _try(self, body: Body) -> Completion:
        """Try once; once more at once where an idle connection turned out to be dead, which is no failure."""
        for is_last in (False, True):
            connection = {"reused": False}
            try:
                return await self._send(body, connection)
            except (asyncio.TimeoutError, aiohttp.ServerTimeoutError):
                raise _PassingFailure(f"no answer within {self.server.timeout_seconds:g} s") from None
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError) as error:
                if is_last or not connection["reused"]:
                    raise _PassingFailure(self._describe(error)) from None
            except (aiohttp.ClientError, OSError) as error:
                raise _PassingFailure(self._describe(error)) from None
        raise AssertionError("the second try returns or raises")

    async def _send(self, body: Body, connection: dict[str, bool]) -> Completion:
        headers = {"Content-Type": "application/json", "Content-Length": str(body.num_bytes)}
        async with self._session.post(
            f"{self.server.root}/chat/completions",
            data=self._stream(body),
            headers=headers,
            trace_request_ctx=connection,
            # Elsewhere the key would go too, and the body cannot be sent a second time.
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                data = await self._read(response, _ERROR_BYTES)
                self._sort_status(response.status, data, response.headers.get("Retry-After", ""))
            data = await self._read(response, self.server.max_answer_bytes)
        if len(data) > self.server.max_answer_bytes:
            raise Refused(f"the answer is longer than {self.server.max_answer_bytes:,} bytes and was not read")
        try:
            completion = read_completion(data, redact=self.server.redact)
        except NotJson as error:
            if self.num_answered:
                raise _PassingFailure(f"{error}: {self._say(data)}") from None
            raise AskError(f"{error} ({self._say(data)}); check --base-url (often .../v1)") from None
        except ValueError as error:
            raise _PassingFailure(f"{self.server.redact(str(error))[:MAX_SHOWN]}: {self._say(data)}") from None
        if completion.finish_reason == WITHHELD:
            raise Refused(f"the server withheld the answer, finish_reason={WITHHELD!r}: it is not what the model wrote")
        return completion

    async def _stream(self, body: Body) -> AsyncIterator[bytes]:
        for block in body.blocks():
            # Not held while the connection takes it: a server that stops reading holds up nobody else.
            async with self._reading:
                data = await asyncio.to_thread(_join, block)
            yield data

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """Read a body, at most a block more than `limit`."""
        data = bytearray()
        async for block in response.content.iter_chunked(_BLOCK_BYTES):
            data += block
            if len(data) > limit:
                response.close()
                break
        return bytes(data)

    def _sort_status(self, status: int, data: bytes, retry_after: str) -> None:
        """Raise what a status other than 200 means."""
        failure = f"HTTP {status}: {self._say(data)}"
        if status == 429 and b"insufficient_quota" in data:
            raise AskError(f"{failure}; expected an account that can pay; answers so far are kept")
        if status in _REFUSING:
            raise Refused(failure)
        if status < 500 and status not in _PASSING:
            raise AskError(f"{failure}; check --base-url, --model and {KEY_VARIABLE}")
        raise _PassingFailure(failure, wait_seconds=_seconds(retry_after))

    def _say(self, data: bytes) -> str:
        """What a body says, in one short line without the key."""
        text = data[:_ERROR_BYTES].decode(errors="replace")
        try:
            found = json.loads(data)
            found = found.get("error", found) if isinstance(found, dict) else found
            text = str(found.get("message", text)) if isinstance(found, dict) else text
        except (ValueError, RecursionError):
            pass
        return one_line(self.server.redact(text))[:MAX_SHOWN]

    def _describe(self, error: Exception) -> str:
        return self.server.redact(f"{type(error).__name__}: {error}")[:MAX_SHOWN]


def _proxy_note() -> str:
    """Other clients go through a proxy that the environment names, so that an address may work for them alone."""
    named = [name for name in ("HTTP_PROXY", "HTTPS_PROXY") if {name, name.lower()} & os.environ.keys()]
    return f", {' and '.join(named)} not used" if named else ""


def _remedy(status: int) -> str:
    """What to do where a server does not list its models."""
    if status in (401, 403):
        return f"set {KEY_VARIABLE} to a key of this server"
    if status in _PASSING or status >= 500:
        return "the server is there and does not serve now; wait until it does, and run the same command again"
    return "check --base-url (often .../v1)"


async def _note_reuse(session: Any, context: Any, parameters: Any) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx["reused"] = True


def _seconds(retry_after: str) -> float:
    try:
        return min(MAX_WAIT_SECONDS, max(0.0, float(retry_after)))
    except ValueError:
        return 0.0
