# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A file's bytes as one short name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

_BLOCK = 1 << 20


def content_hash(path: str | Path, *, tick: Callable[[], None] = lambda: None) -> str:
    """Return the BLAKE2b hash of a file's bytes, in hexadecimal.

    Args:
        tick: called for every block, to show that reading is moving.
    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=20)
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            tick()
    return digest.hexdigest()
