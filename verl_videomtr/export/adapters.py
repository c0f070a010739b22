# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters of a checkpoint, merged into the weights that they adapt: W + alpha / r * B A, in float32.

peft names them behind a prefix: `base_model.model.X.base_layer.weight`, `base_model.model.X.lora_A.default.weight`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from verl_videomtr.export.checkpoints import ExportError

META = "lora_train_meta.json"
"""Where verl keeps rank and alpha; the weights alone do not say alpha."""
PREFIX = "base_model.model."
_ADAPTER = re.compile(r"^(?P<layer>.+)\.lora_(?P<side>[AB])\.default\.weight$")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """What the adapters of a checkpoint were trained with."""

    rank: int
    alpha: float
    num_layers: int


def has_adapters(state: dict[str, torch.Tensor]) -> bool:
    """Whether a checkpoint's names are those of a model with adapters."""
    return any(".lora_" in name for name in state)


def merge(
    state: dict[str, torch.Tensor], folder: Path, *, base: dict[str, torch.Tensor] | None = None
) -> tuple[dict[str, torch.Tensor], Lora]:
    """Merge all adapters; return the plain model's tensors and what was merged.

    Args:
        state: a checkpoint's tensors with peft's names.
        folder: the checkpoint, for the file with rank and alpha.
        base: the plain model's tensors, where the checkpoint holds the adapters alone (`save_lora_only`).
    Raises:
        ExportError: alpha is not known, an adapter has no counterpart or no place, or is of a kind not known here.
    """
    plain: dict[str, torch.Tensor] = {}
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for full_name, tensor in state.items():
        name = full_name.removeprefix(PREFIX)
        if found := _ADAPTER.match(name):
            sides.setdefault(found["layer"], {})[found["side"]] = tensor
        elif "lora_" in name or ".modules_to_save." in name:
            raise ExportError(
                f"{full_name} is an adapter of a kind that is not merged here; expected lora_A and lora_B"
            )
        else:
            plain[name.replace(".base_layer.", ".")] = tensor
    if not plain:
        if base is None:
            raise ExportError(
                f"the checkpoint holds adapters without the model that they adapt; expected --base; {folder}; "
                "give the model that was trained: --base DIR"
            )
        plain = dict(base)
    rank, alpha = _read_meta(folder)
    for layer, side in sides.items():
        weight = plain.get(f"{layer}.weight")
        if side.keys() != {"A", "B"} or weight is None:
            raise ExportError(f"the adapter of {layer} is not whole or has no weight to adapt; expected A, B and it")
        if side["A"].shape[0] != rank:
            raise ExportError(f"the adapter of {layer} has rank {side['A'].shape[0]}; expected {rank} as {META} says")
        # In float32: a low-rank step on a bfloat16 weight is often smaller than the weight's last bit.
        delta = (alpha / rank) * (side["B"].float() @ side["A"].float())
        plain[f"{layer}.weight"] = (weight.float() + delta).to(weight.dtype)
    return plain, Lora(rank=rank, alpha=alpha, num_layers=len(sides))


def _read_meta(folder: Path) -> tuple[int, float]:
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        rank, alpha = int(meta["r"]), float(meta["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError):
        rank, alpha = 0, 0.0
    if rank < 1 or not alpha > 0:
        raise ExportError(
            f"{META} does not give rank and alpha; expected both above 0, as verl writes them; {folder}; "
            "without alpha the adapters cannot be scaled"
        )
    return rank, alpha
