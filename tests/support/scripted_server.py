# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server on the loopback that does what a test tells it, down to the bytes on the wire."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client sent."""

    number: int
    """Of all chat requests to this server, counted from 0."""
    connection: int
    """Number of the connection that it came on."""
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """Everything that the conversation says, images aside."""
        contents = [message["content"] for message in self.body["messages"]]
        parts = [[content] if isinstance(content, str) else content for content in contents]
        return "\n".join(p if isinstance(p, str) else p.get("text", "") for part in parts for p in part)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What it gets."""

    status: int = 200
    body: bytes | dict[str, Any] | str = b""
    headers: dict[str, str] = field(default_factory=dict)
    raw: Sequence[bytes | float] | None = None
    """In place of all else: bytes to write and seconds to pause; then the connection is closed."""
    delay_seconds: float = 0.0
    reset: bool = False
    """Close the connection without an answer."""
    close_after: bool = False
    """Close it, unannounced, behind a whole answer: the next request finds a dead connection."""


def completion(content: str | None, *, finish_reason: str | None = "stop", **extra: Any) -> dict[str, Any]:
    """A chat completion; `message`, `choice` and `usage` extend its parts."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, **extra.get("message", {})},
                **extra.get("choice", {}),
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, **extra.get("usage", {})},
        **extra.get("top", {}),
    }


def say(content: str | None, **extra: Any) -> Reply:
    return Reply(body=completion(content, **extra))


class ScriptedServer:
    """Runs in a thread of its own.

    Args:
        script: (request) -> what it gets; called for chat completions.
        models: what GET /v1/models lists.
        listing: what every GET gets in place of that.
    """

    def __init__(
        self,
        script: Callable[[Request], Reply],
        *,
        models: Sequence[dict[str, Any]] | None = None,
        listing: Reply | None = None,
    ) -> None:
        self.script = script
        self.models = models if models is not None else [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]
        self.listing = listing
        self.requests: list[Request] = []
        self.in_flight = self.most_in_flight = 0
        self._num_connections = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()

    def __enter__(self) -> ScriptedServer:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0, limit=2**26)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self._num_connections
        self._num_connections += 1
        try:
            while await self._answer(reader, writer, connection):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:]) if name}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET":
            listing = self.listing or Reply(body={"object": "list", "data": list(self.models)})
            await asyncio.sleep(listing.delay_seconds)
            return await self._write(writer, listing)
        request = Request(
            number=len(self.requests), connection=connection, path=path, headers=headers, body=json.loads(body)
        )
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            reply = self.script(request)
            await asyncio.sleep(reply.delay_seconds)
            return await self._write(writer, reply)
        finally:
            self.in_flight -= 1

    async def _write(self, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        """Write a reply; return whether the connection stays."""
        if reply.reset:
            return False
        if reply.raw is not None:
            for step in reply.raw:
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                else:
                    await asyncio.sleep(step)
            return False
        body = (
            reply.body
            if isinstance(reply.body, bytes)
            else (reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode())
        )
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **reply.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {reply.status} X\r\n{lines}\r\n".encode() + body)
        await writer.drain()
        return not reply.close_after
