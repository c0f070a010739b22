# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of a vision-language model, from its config.json alone: parameters, and bytes of its key-value cache.

A config in, counts out; no weights, no torch. The counts are exact for Qwen2-VL, Qwen2.5-VL and Qwen3-VL (dense),
which the tests hold against transformers' own classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Root `model_type` of the configs that the formulas hold for."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a config says about sizes."""

    family: str
    """`model_type` of the config's root, one of `FAMILIES`."""
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    """Whether the embedding is the language head too."""
    vision_hidden: int
    vision_layers: int
    vision_intermediate: int
    vision_out: int
    """Width of a visual token; the language model's."""
    patch_px: int
    temporal_patch: int
    """Frames that one patch spans; a single image is repeated to fill it."""
    merge: int
    """Patches a side that become one visual token."""
    channels: int = 3
    position_embeddings: int = 0
    """Learned positions of the vision tower (Qwen3-VL)."""
    deep_layers: int = 0
    """Vision layers whose output goes to the language model by a merger of its own (Qwen3-VL)."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, where: str = "config.json") -> ModelShape:
        """Read a config as transformers saves it, or in the flat layout of older Qwen-VL checkpoints.

        Raises:
            ValueError: another family, or a size is missing.
        """
        family = str(config.get("model_type"))
        if family not in FAMILIES:
            raise ValueError(
                f"model_type={family!r} of {where}; expected one of {', '.join(FAMILIES)}, whose sizes are known; "
                "plan with a model of the nearest size instead"
            )
        text, vision = config.get("text_config") or config, config.get("vision_config") or {}
        try:
            heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
            # Qwen2-VL calls its vision width embed_dim, and hidden_size what it hands over.
            width = int(vision["embed_dim"] if family == "qwen2_vl" else vision["hidden_size"])
            wide = int(width * vision["mlp_ratio"]) if family == "qwen2_vl" else int(vision["intermediate_size"])
            return cls(
                family=family,
                hidden=hidden,
                layers=int(text["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(text["num_key_value_heads"]),
                head_dim=int(text.get("head_dim") or hidden // heads),
                intermediate=int(text["intermediate_size"]),
                vocab=int(text["vocab_size"]),
                tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
                vision_hidden=width,
                vision_layers=int(vision["depth"]),
                vision_intermediate=wide,
                vision_out=hidden,
                patch_px=int(vision["patch_size"]),
                temporal_patch=int(vision.get("temporal_patch_size", 2)),
                merge=int(vision.get("spatial_merge_size", 2)),
                channels=int(vision.get("in_channels", vision.get("in_chans", 3))),
                position_embeddings=int(vision.get("num_position_embeddings", 0)),
                deep_layers=len(vision.get("deepstack_visual_indexes", ())),
            )
        except KeyError as error:
            raise ValueError(f"{where} has no {error}; expected the config of a {family} checkpoint") from error

    @property
    def factor_px(self) -> int:
        """Side of one visual token in pixels."""
        return self.patch_px * self.merge

    @property
    def num_language_params(self) -> int:
        """Embedding, decoder layers and final norm; without the language head."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (queries + 2 * keys) + queries * self.hidden
        # Qwen3 has norms of queries and keys where Qwen2 has biases.
        attention += 2 * self.head_dim if self.family == "qwen3_vl" else queries + 2 * keys
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.vocab * self.hidden + self.layers * layer + self.hidden

    @property
    def num_head_params(self) -> int:
        """The language head, where it has weights of its own."""
        return 0 if self.tied else self.vocab * self.hidden

    @property
    def num_vision_params(self) -> int:
        """Patch embedding, vision layers and mergers."""
        width, wide = self.vision_hidden, self.vision_intermediate
        patches = self.channels * self.temporal_patch * self.patch_px**2 * width
        attention = 4 * width * width + 4 * width
        merged = width * self.merge**2
        merger = merged * merged + merged + merged * self.vision_out + self.vision_out
        if self.family == "qwen2_5_vl":
            gated = 3 * width * wide + 2 * wide + width
            return patches + self.vision_layers * (attention + gated + 2 * width) + merger + width
        plain = 2 * width * wide + wide + width
        total = patches + self.vision_layers * (attention + plain + 4 * width) + merger + 2 * width
        if self.family == "qwen3_vl":
            total += width + self.position_embeddings * width
            total += self.deep_layers * (merger + 2 * merged)
        return total

    @property
    def num_params(self) -> int:
        """All parameters of the model that generates."""
        return self.num_language_params + self.num_head_params + self.num_vision_params

    @property
    def num_value_params(self) -> int:
        """All parameters of the critic: one linear head of a single output in place of the language head."""
        return self.num_language_params + self.num_vision_params + self.hidden + 1

    def num_lora_params(self, rank: int) -> int:
        """Adapters of that rank on every linear layer of the decoder (`all-linear`, the vision tower excluded)."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sides = (self.hidden + queries) * 2 + (self.hidden + keys) * 2 + (self.hidden + self.intermediate) * 3
        return self.layers * rank * sides

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Keys and values of one token in all layers: 2 * layers * kv_heads * head_dim * bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value

    def frame_bytes(self, visual_tokens: int) -> int:
        """Bytes of one frame: height * width * channels, the sides being multiples of `factor_px`."""
        return visual_tokens * self.factor_px**2 * self.channels

    def pixel_bytes_per_frame(self, visual_tokens: int) -> int:
        """Float32 pixels that the image processor makes of one frame.

        patches * channels * temporal_patch * patch_px^2 * 4, with merge^2 patches a visual token.
        """
        patches = visual_tokens * self.merge**2
        return patches * self.channels * self.temporal_patch * self.patch_px**2 * 4


def _config(
    family: str, text: tuple[int, int, int, int, int, int], vision: dict[str, Any], *, tied: bool
) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    sizes = dict(zip((*names, "vocab_size"), text, strict=True)) | {"head_dim": 128}
    return {"model_type": family, "tie_word_embeddings": tied, "text_config": sizes, "vision_config": vision}


def _vision(hidden: int, layers: int, wide: int, patch_px: int, **more: Any) -> dict[str, Any]:
    return {"hidden_size": hidden, "depth": layers, "intermediate_size": wide, "patch_size": patch_px, **more}


_VISION_2_5 = _vision(1280, 32, 3420, 14)
_VISION_3_4B = _vision(1024, 24, 4096, 16, num_position_embeddings=2304, deepstack_visual_indexes=[5, 11, 17])
_VISION_3_8B = _vision(1152, 27, 4304, 16, num_position_embeddings=2304, deepstack_visual_indexes=[8, 16, 24])

KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen2.5-VL-3B-Instruct": _config("qwen2_5_vl", (2048, 36, 16, 2, 11008, 151936), _VISION_2_5, tied=True),
    "Qwen2.5-VL-7B-Instruct": _config("qwen2_5_vl", (3584, 28, 28, 4, 18944, 152064), _VISION_2_5, tied=False),
    "Qwen3-VL-4B-Instruct": _config("qwen3_vl", (2560, 36, 32, 8, 9728, 151936), _VISION_3_4B, tied=True),
    "Qwen3-VL-8B-Instruct": _config("qwen3_vl", (4096, 36, 32, 8, 12288, 151936), _VISION_3_8B, tied=False),
}
"""The sizes in the configs of the models that this package has groups for, where the checkpoint is not at hand."""


def find_shape(path: str) -> tuple[ModelShape, str]:
    """Find the sizes of a model without touching its weights or the network.

    Args:
        path: `actor_rollout_ref.model.path`: a folder with a config.json, or a name on the hub.
    Returns:
        The shape, and where it was found.
    Raises:
        ValueError: the path has no config here and no known name.
    """
    file = Path(path).expanduser() / "config.json"
    if file.is_file():
        return ModelShape.from_config(json.loads(file.read_text(encoding="utf-8")), where=str(file)), str(file)
    name = path.rstrip("/").rpartition("/")[2]
    if name in KNOWN_CONFIGS:
        return ModelShape.from_config(KNOWN_CONFIGS[name], where=name), f"the known sizes of {name}"
    raise ValueError(
        f"actor_rollout_ref.model.path={path!r} holds no config.json and is none of {', '.join(KNOWN_CONFIGS)}; "
        "expected a checkpoint on this machine, or one of those names; download its config.json, or choose "
        "+videomtr/model=..."
    )
