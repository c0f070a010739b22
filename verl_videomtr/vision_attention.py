# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of a vision tower in one kernel where flash-attn is not installed: torch's own variable-length attention.

transformers 5.9 has two ways through a tower that attends window by window or image by image: flash-attn's packed
kernel, and a Python loop that calls a kernel for each window. A frame of 224 x 392 is eight windows of Qwen2.5-VL, so
the 48 frames of two trajectories are 384 calls a layer, there and back. On an H200 that loop took three quarters of an
update of the 3B (docs/performance.md).
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

logger = logging.getLogger(__name__)

NAME = "flash_varlen_of_torch"
"""Registered with transformers under this name; it looks for "flash" in it to hand over packed lengths."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: torch.Tensor | int,
    scaling: float | None = None,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each packed sequence, in both directions.

    Args:
        query, key, value: (1, heads, length, head_dim). On a CUDA device in bfloat16 or float16 one kernel takes all
            sequences; elsewhere, and in float32, one call a sequence.
        attention_mask: None; the lengths say what belongs together.
        cu_seq_lens_q: (sequences + 1,) starts of the packed sequences, the total last.
        max_length_q: the longest of them.
        scaling: of the scores; None: 1 / sqrt(head_dim).
    Returns:
        (1, length, heads, head_dim), and None for the weights, which this kernel does not keep.
    """
    if query.device.type != "cuda" or query.dtype == torch.float32:
        lengths = cu_seq_lens_q.diff().tolist()
        sequences = zip(
            torch.split(query, lengths, dim=2),
            torch.split(key, lengths, dim=2),
            torch.split(value, lengths, dim=2),
            strict=True,
        )
        parts = [scaled_dot_product_attention(q, k, v, scale=scaling) for q, k, v in sequences]
        return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    starts, longest = cu_seq_lens_q.to(torch.int32), int(max_length_q)
    attended: Any = varlen_attn(q, k, v, starts, starts, longest, longest, scale=scaling)
    return attended[None], None


AttentionInterface.register(NAME, packed_attention)


def pack_vision_tower(model: torch.nn.Module) -> bool:
    """Let a tower that would loop over its windows attend to all of them at once; the language model is left alone.

    Args:
        model: a model of transformers, with `config.vision_config` where it has a tower.
    Returns:
        Whether there was such a tower: one that runs torch's sdpa and is told where its sequences start.
    """
    config = getattr(model.config, "vision_config", None)
    if config is None or getattr(config, "_attn_implementation", None) != "sdpa":
        return False
    towers = [part for part in model.modules() if getattr(part, "config", None) is config]
    if not any("cu_seqlens" in inspect.signature(type(part).forward).parameters for part in towers):
        return False
    config._attn_implementation = NAME
    logger.info("%s: the vision tower attends through torch's variable-length kernel", type(model).__name__)
    return True
