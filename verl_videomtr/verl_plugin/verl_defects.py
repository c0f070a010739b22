# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of verl 0.9.1 that stop a multimodal PPO run, repaired in the processes that hold the models.

Each function states the fault, where it is, and what replaces it. Imported when verl's workers are.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import verl.utils.model
from wrapt import register_post_import_hook

logger = logging.getLogger(__name__)

_load_stock_value_model = verl.utils.model.load_valuehead_model


def _load_value_model(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
    """Load a critic for the vision-language models that transformers has no value class for.

    verl.utils.model.load_valuehead_model turns every failure into "please install trl", and through trl a VLM's
    critic does not work. Other models keep verl's own path.
    """
    from verl_videomtr.verl_plugin import value_heads

    if value_heads.supports(model_config):
        return value_heads.load_value_model(local_path, torch_dtype, model_config, trust_remote_code)
    return _load_stock_value_model(local_path, torch_dtype, model_config, trust_remote_code)


verl.utils.model.load_valuehead_model = _load_value_model


def _accept_micro_batches_without_images(module: Any) -> None:
    """Let a micro-batch of verl's own padding rows, which hold no image, pass the vision tower.

    verl/models/transformers/qwen2_vl.py runs the tower on zeros there so that every rank takes part, then calls
    `.mean()` on what transformers 5 returns as an output object.
    """
    with_media = module._get_input_embeds

    def get_input_embeds(
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if pixel_values is not None or pixel_values_videos is not None:
            return with_media(
                model, input_ids, attention_mask, pixel_values, pixel_values_videos, image_grid_thw, video_grid_thw
            )
        embeds = model.get_input_embeddings()(input_ids)
        vision = model.config.vision_config
        side = 2 * vision.spatial_merge_size
        patch_dim = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        blank = torch.zeros((side * side, patch_dim), dtype=embeds.dtype, device=embeds.device)
        grid = torch.tensor([[1, side, side]], dtype=torch.long, device=embeds.device)
        features, _ = module.unpack_visual_output(model.visual(blank, grid_thw=grid))
        embeds = embeds + 0.0 * features.mean()
        return embeds, None if attention_mask is None else attention_mask.to(embeds.device)

    module._get_input_embeds = get_input_embeds


register_post_import_hook(_accept_micro_batches_without_images, "verl.models.transformers.qwen2_vl")


class _UnpackedTower:
    """A vision tower whose output object is replaced by the features in it."""

    def __init__(self, tower: Any, unpack: Any) -> None:
        self._tower, self._unpack = tower, unpack
        self.dtype = tower.dtype

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._unpack(self._tower(*args, **kwargs))[0]


class _UnpackedModel:
    """A model as verl's GLM code sees it: everything but its tower's output is its own."""

    def __init__(self, model: Any, unpack: Any) -> None:
        self._model = model
        self.visual = _UnpackedTower(model.visual, unpack)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _unpack_features_of_glm(module: Any) -> None:
    """verl/models/transformers/glm4v.py takes the tower's output for a tensor; transformers 5 returns an object."""
    from verl.utils.transformers_compat import unpack_visual_output

    stock = module._get_input_embeds

    def get_input_embeds(model: Any, *args: Any, **kwargs: Any) -> Any:
        return stock(_UnpackedModel(model, unpack_visual_output), *args, **kwargs)

    module._get_input_embeds = get_input_embeds


register_post_import_hook(_unpack_features_of_glm, "verl.models.transformers.glm4v")


def _has_verls_forward(model: Any) -> bool:
    return any(type(part).forward.__module__.startswith("verl.") for part in (model, model.base_model))


def _prepare_models(engine: Any) -> None:
    """Let families without a forward pass of verl's own pass a micro-batch without images too: see `blank_image`.

    And where a GPU has no flash-attn, let the vision tower attend in one kernel: see `vision_attention`.
    """
    stock = engine.apply_monkey_patch

    def apply_monkey_patch(model: Any, *args: Any, **kwargs: Any) -> None:
        stock(model, *args, **kwargs)
        if torch.cuda.is_available():
            from verl_videomtr.vision_attention import pack_vision_tower

            pack_vision_tower(model)
        if getattr(model.config, "vision_config", None) is not None and not _has_verls_forward(model):
            from verl_videomtr.verl_plugin.blank_image import use_blank_image

            use_blank_image(model, model.config._name_or_path)

    engine.apply_monkey_patch = apply_monkey_patch


register_post_import_hook(_prepare_models, "verl.workers.engine.fsdp.transformer_impl")


def _keep_embeddings_of_towers_whole(module: Any) -> None:
    """verl/utils/fsdp_utils.py shards every nn.Embedding by itself; a tower that reads its `.weight` gets a shard."""
    stock = module._select_fsdp2_wrap_targets

    def select(model: Any, layer_classes: Any) -> list[Any]:
        of_tower = {id(part) for name, part in model.named_modules() if "visual" in name or "vision" in name}
        return [
            part
            for part in stock(model, layer_classes)
            if not (isinstance(part, torch.nn.Embedding) and id(part) in of_tower)
        ]

    module._select_fsdp2_wrap_targets = select


register_post_import_hook(_keep_embeddings_of_towers_whole, "verl.utils.fsdp_utils")


def _estimate_flops_of_any_family(module: Any) -> None:
    """verl/utils/flops_counter.py reads sizes at the root of a config, where GLM-4.1V's has none."""
    stock = module.FlopsCounter.estimate_flops

    def estimate_flops(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return stock(self, *args, **kwargs)
        except AttributeError as error:
            logger.warning("perf/mfu is 0 for %s: %s", self.config.model_type, error)
            return 0.0, module.get_device_flops()

    module.FlopsCounter.estimate_flops = estimate_flops


register_post_import_hook(_estimate_flops_of_any_family, "verl.utils.flops_counter")
