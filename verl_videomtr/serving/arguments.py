# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The arguments of every command that asks a served model, and the connections that they name."""

from __future__ import annotations

import argparse
from contextlib import AsyncExitStack

from verl_videomtr.serving.client import Client
from verl_videomtr.serving.endpoints import Endpoint, inspect_server, keeps_thoughts
from verl_videomtr.serving.pictures import FORMATS
from verl_videomtr.serving.server import KEY_VARIABLE, AskError, Server

DEFAULT_URL = "http://127.0.0.1:8000/v1"
"""Where `vllm serve` listens."""
KEY_NOTE = f"The key, where a server needs one, is read from {KEY_VARIABLE}."


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that asks a server needs."""
    parser.add_argument(
        "--base-url",
        action="append",
        metavar="URL",
        help=f"an OpenAI-compatible API; give it again for further servers of the same model (default: {DEFAULT_URL})",
    )
    parser.add_argument("--model", metavar="NAME", help="the model's name on the server (default: its only one)")
    parser.add_argument(
        "--image-format",
        choices=sorted(FORMATS),
        default="webp",
        help="how frames are sent: webp and png are exact, jpeg is the frame cache's form (default: webp)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="longest wait for one whole answer (default: 600)",
    )
    parser.add_argument("--max-attempts", type=int, default=6, metavar="N", help="tries per request (default: 6)")
    parser.add_argument(
        "--backoff",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="wait after a request's first failure; doubles with each further one (default: 1)",
    )
    parser.add_argument(
        "--allow-stripped-thoughts",
        action="store_true",
        help="go on although the server's template removes earlier thoughts; the result is not comparable",
    )


async def open_servers(
    args: argparse.Namespace, stack: AsyncExitStack, *, num_turns: int
) -> tuple[list[Client], list[Endpoint]]:
    """Connect to every server and check that each plays the same game.

    Raises:
        AskError: one cannot be reached, does not have the model, or renders earlier turns without their thoughts.
    """
    clients, endpoints = [], []
    for url in dict.fromkeys(args.base_url or [DEFAULT_URL]):
        server = Server(
            base_url=url,
            timeout_seconds=args.timeout,
            max_attempts=args.max_attempts,
            backoff_seconds=args.backoff,
        )
        client = await stack.enter_async_context(Client(server))
        endpoint = await inspect_server(client, args.model)
        if num_turns > 1 and not args.allow_stripped_thoughts and await keeps_thoughts(client, endpoint) is False:
            raise AskError(
                "the server's chat template removes the thoughts of earlier turns; expected the conversation as it was "
                f"written, which the policy was trained on; {endpoint.base_url}; serve with a --chat-template that "
                "keeps them (docs/serving.md), or give --allow-stripped-thoughts"
            )
        clients.append(client)
        endpoints.append(endpoint)
    models = sorted({endpoint.model for endpoint in endpoints})
    if len(models) > 1:
        raise AskError(f"the servers have different models {models}; expected one; give --model")
    return clients, endpoints
