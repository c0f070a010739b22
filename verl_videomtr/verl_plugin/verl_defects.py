"""Faults of verl 0.9.1 that stop a multimodal PPO run, mended in the processes that hold the models.

Each function states the fault, where it is, and what replaces it. Imported when verl's workers are.
"""

from __future__ import annotations

from typing import Any

import torch
import verl.utils.model
from wrapt import register_post_import_hook

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
