# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Are a checkpoint's weights whole? Shards that its index names, and the length that each file states of itself."""

from __future__ import annotations

import json
from pathlib import Path

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")
POINTER = b"version https://git-lfs"


def complaint_of(folder: Path) -> str:
    """Say what is missing of a checkpoint's weights; "" where they are whole."""
    index = next((folder / name for name in INDEXES if (folder / name).is_file()), None)
    if index is None:
        shards = [name for name in SINGLE if (folder / name).is_file()]
        if not shards:
            return f"no weights: neither {SINGLE[0]} nor {INDEXES[0]}"
    else:
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            return f"{index.name} cannot be read"
    if missing := [name for name in shards if not (folder / name).is_file()]:
        return f"{len(missing)} of {len(shards)} shards are missing, {missing[0]} first"
    broken = [(name, fault) for name in shards if (fault := _fault(folder / name))]
    return f"{broken[0][0]} {broken[0][1]}" if broken else ""


def _fault(file: Path) -> str:
    """What is wrong with one file: by its header, which states where its last tensor ends."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(len(POINTER))
        if head == POINTER:
            return "is a pointer of Git LFS, not the weights"
        if file.suffix != ".safetensors":
            return "" if size else "is empty"
        length = int.from_bytes(head[:8], "little")
        if size < 8 or length > size:
            return f"is cut short at {size} bytes"
        opened.seek(8)
        try:
            header = json.loads(opened.read(length))
            end = max((spec["data_offsets"][1] for name, spec in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return "has no header of a safetensors file"
    return f"is cut short: {size} bytes of {8 + length + end}" if size < 8 + length + end else ""
