# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of a vision-language model, from its config.json alone: parameters, and bytes of its key-value cache.

A config in, counts out. Parameters are counted on transformers' own class for the config, made without memory (torch's
meta device), so any family that generates text from images is counted exactly. No weights are read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLAIN_LAYERS = ("full_attention", "attention")
"""`layer_types` of a text config whose keys and values are all kept."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a config says about sizes."""

    family: str
    """`model_type` of the config's root."""
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    num_language_params: int
    """Embedding, decoder layers and final norm; without the language head."""
    num_head_params: int
    """The language head, where it has weights of its own."""
    num_vision_params: int
    """The vision tower, and what joins it to the language model."""
    lora_width: int
    """Inputs and outputs of every linear layer of the decoder, added up."""
    vision_hidden: int
    """0 where the config names no size of the tower that is known here; likewise the next two."""
    vision_layers: int
    vision_intermediate: int
    patch_px: int
    temporal_patch: int
    """Frames that one patch spans; a single image is repeated to fill it."""
    merge: int
    """Patches a side that become one visual token."""
    channels: int = 3
    doubts: tuple[str, ...] = ()
    """What of a plan does not hold for this family, and why."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, where: str = "config.json") -> ModelShape:
        """Read a config as transformers saves it, or in the flat layout of older Qwen-VL checkpoints.

        Raises:
            ValueError: transformers has no model of this type that generates text from images, or the config lacks a
                size.
        """
        return _count(json.dumps(dict(config), sort_keys=True, default=str), where)

    @property
    def factor_px(self) -> int:
        """Side of one visual token in pixels."""
        return self.patch_px * self.merge

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
        return rank * self.lora_width

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


@functools.lru_cache(maxsize=16)
def _count(config_json: str, where: str) -> ModelShape:
    """Make the model without memory and count."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    raw = json.loads(config_json)
    family = str(raw.pop("model_type", None))
    try:
        config: Any = AutoConfig.for_model(family, **raw)
    except ValueError as error:
        raise ValueError(f"model_type={family!r} of {where}; expected one that transformers knows") from error
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise ValueError(
            f"model_type={family!r} of {where}; expected a model of transformers that generates text from images; plan "
            "with a model of the nearest size instead"
        )
    grid = read_grid(config.to_dict())
    if grid is None:
        raise ValueError(f"{where} has no vision_config.patch_size; expected the config of a {family} checkpoint")
    text, vision = config.get_text_config(), config.vision_config
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    is_tied = head is None or head.weight is model.get_input_embeddings().weight
    num_language, num_head = _num_params(decoder), 0 if is_tied else head.weight.numel()
    tower, doubts = _tower(vision), _doubts(text)
    return ModelShape(
        family=family,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        intermediate=text.intermediate_size,
        vocab=text.vocab_size,
        num_language_params=num_language,
        num_head_params=num_head,
        num_vision_params=_num_params(model) - num_language - num_head,
        lora_width=sum(
            part.in_features + part.out_features for part in decoder.modules() if isinstance(part, torch.nn.Linear)
        ),
        vision_hidden=tower[0],
        vision_layers=tower[1],
        vision_intermediate=tower[2],
        patch_px=grid[0],
        merge=grid[1],
        temporal_patch=getattr(vision, "temporal_patch_size", 1),
        doubts=doubts if all(tower) else (*doubts, "the vision tower's activations are left out: its sizes have names "
                                          "that are not known here"),
    )  # fmt: skip


def _num_params(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _tower(vision: Any) -> tuple[int, int, int]:
    """Width, layers and inner width of a vision tower; 0 for what the config does not name."""
    # Qwen2-VL calls its vision width embed_dim, and hidden_size what it hands over.
    hidden = getattr(vision, "embed_dim", None) or getattr(vision, "hidden_size", None) or 0
    layers = getattr(vision, "depth", None) or getattr(vision, "num_hidden_layers", None) or 0
    wide = getattr(vision, "intermediate_size", None) or hidden * getattr(vision, "mlp_ratio", 0)
    return int(hidden), int(layers), int(wide)


def _doubts(text: Any) -> tuple[str, ...]:
    doubts = []
    if getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None):
        doubts.append("time and activations are counted as if every token went through every expert")
    others = sorted(set(getattr(text, "layer_types", None) or ()) - set(PLAIN_LAYERS))
    if others:
        doubts.append(f"the key-value cache and its time are upper bounds: some layers are {', '.join(others)}")
    return tuple(doubts)


def read_grid(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Read how a model cuts an image: (side of a patch in pixels, patches a side of one visual token).

    Args:
        config: the content of a config.json.
    Returns:
        None where it names no patch.
    """
    vision = config.get("vision_config") or {}
    patch = vision.get("patch_size")
    patch = patch[0] if isinstance(patch, (list, tuple)) else patch
    if not patch:
        return None
    merge = vision.get("spatial_merge_size") or config.get("spatial_merge_size") or vision.get("pooling_kernel_size")
    if not merge:
        ratio = config.get("downsample_ratio")  # InternVL: of a side
        merge = round(1 / ratio) if ratio else 1
    return int(patch), int(merge)


def find_grid(path: str) -> tuple[int, int]:
    """Find the grid of a model: off its config where that is here, else the known one, else Qwen2.5-VL's, the paper's.

    Args:
        path: `actor_rollout_ref.model.path`.
    """
    try:
        config, _ = find_config(path)
    except ValueError:
        return 14, 2
    return read_grid(config) or (14, 2)


def _config(
    family: str, text: tuple[int, int, int, int, int, int], vision: dict[str, Any], *, tied: bool
) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    sizes = dict(zip((*names, "vocab_size"), text, strict=True))
    vision = {**vision, "out_hidden_size": sizes["hidden_size"]}
    return {"model_type": family, "tie_word_embeddings": tied, "text_config": sizes, "vision_config": vision}


def _vision(hidden: int, layers: int, wide: int, patch_px: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "depth": layers, "intermediate_size": wide}
    return {**sizes, "patch_size": patch_px, "spatial_merge_size": 2, **more}


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


def find_config(path: str) -> tuple[dict[str, Any], str]:
    """Find the config of a model without touching its weights or the network.

    Args:
        path: `actor_rollout_ref.model.path`: a folder with a config.json, or a name on the hub.
    Returns:
        The config, and where it was found.
    Raises:
        ValueError: the path has no config here and no known name.
    """
    file = Path(path).expanduser() / "config.json"
    if not file.is_file() and path.count("/") == 1 and not path.startswith((".", "~", "/")):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(path, "config.json")
        file = Path(cached) if isinstance(cached, str) else file
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8")), str(file)
    name = path.rstrip("/").rpartition("/")[2]
    if name in KNOWN_CONFIGS:
        return KNOWN_CONFIGS[name], f"the known sizes of {name}"
    raise ValueError(
        f"actor_rollout_ref.model.path={path!r} holds no config.json and is none of {', '.join(KNOWN_CONFIGS)}; "
        "expected a checkpoint on this machine, or one of those names; download its config.json, or choose "
        "+videomtr/model=..."
    )


def find_shape(path: str) -> tuple[ModelShape, str]:
    """Find the sizes of a model: as `find_config`, counted.

    Raises:
        ValueError: there is no config, or it is no image-text-to-text model's.
    """
    config, where = find_config(path)
    return ModelShape.from_config(config, where=where), where
