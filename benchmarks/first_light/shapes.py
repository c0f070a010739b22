# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of the models and trajectories that stages b and d share."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2_5_VLConfig

from verl_videomtr.budget import RowSize, played_rows, worst_rows
from verl_videomtr.episode import EpisodeConfig
from verl_videomtr.model_shapes import KNOWN_CONFIGS, ModelShape

RESPONSE_TOKENS = 340
"""Of one response."""
GRID = (16, 28)
"""Patches of a frame of 224 x 392: rows, columns."""
TINY_GRID = (4, 6)
MODEL, TINY = "Qwen2.5-VL-3B-Instruct", "tiny"


def model_config(name: str, layers: int | None = None) -> Qwen2_5_VLConfig:
    """Make the config of a known Qwen2.5-VL model, or of the tiny one of rehearsals.

    Args:
        layers: of the language model; None keeps the model's own.
    """
    if name == TINY:
        text: dict[str, Any] = {
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "intermediate_size": 128, "vocab_size": 512,
        }  # fmt: skip
        vision: dict[str, Any] = {
            "hidden_size": 32, "depth": 2, "intermediate_size": 64, "num_heads": 2, "fullatt_block_indexes": [1],
        }  # fmt: skip
        tied, sections = True, [2, 3, 3]
        tokens = {
            "image_token_id": 500,
            "video_token_id": 501,
            "vision_start_token_id": 502,
            "vision_end_token_id": 503,
        }
    else:
        known = KNOWN_CONFIGS[name]
        text = dict(known["text_config"])
        vision, tied, sections, tokens = dict(known["vision_config"]), known["tie_word_embeddings"], [16, 24, 24], {}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}}
    text |= {"num_hidden_layers": layers or text["num_hidden_layers"], "use_cache": False, "tie_word_embeddings": tied}
    vision["out_hidden_size"] = text["hidden_size"]
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied, **tokens)


def model_shape(name: str, layers: int | None = None) -> ModelShape:
    """The same model as the planner sees it."""
    return ModelShape.from_config(model_config(name, layers).to_dict(), where=name)


def frame_grid(name: str) -> tuple[int, int]:
    """Rows and columns of patches of one frame."""
    return TINY_GRID if name == TINY else GRID


def trajectories(name: str, budget: int) -> list[RowSize]:
    """Two trajectories: one that uses its whole frame budget, and one that answers after the overview."""
    episode = EpisodeConfig(frame_budget=budget)
    height, width = frame_grid(name)
    response = 8 if name == TINY else RESPONSE_TOKENS
    longest = worst_rows(episode, frame_tokens=height * width // 4, max_response_tokens=response)[:1]
    return longest + played_rows(
        episode,
        frames_per_turn=[episode.overview_frames],
        response_tokens_per_turn=[response],
        frame_tokens=height * width // 4,
    )
