"""Value models for PPO's critic on vision-language models, and a loader that cannot lose weights silently.

transformers 5.9 has no token-classification class for these models, and it renames a checkpoint's tensors by the
name of the class that loads them: a new class without that mapping misses every tensor of the language model and
starts from random ones, with a warning only.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import AutoModelForTokenClassification, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.modeling_layers import GenericForTokenClassification
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPreTrainedModel
from transformers.models.qwen2_vl import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLPreTrainedModel
from transformers.models.qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLPreTrainedModel
from transformers.utils import is_flash_attn_2_available

logger = logging.getLogger(__name__)


class Qwen2VLForTokenClassification(GenericForTokenClassification, Qwen2VLPreTrainedModel):
    """Qwen2-VL with one linear value head on every token."""


class Qwen2_5_VLForTokenClassification(GenericForTokenClassification, Qwen2_5_VLPreTrainedModel):
    """Qwen2.5-VL with one linear value head on every token."""


class Qwen3VLForTokenClassification(GenericForTokenClassification, Qwen3VLPreTrainedModel):
    """Qwen3-VL with one linear value head on every token."""


VALUE_CLASSES: dict[type[PretrainedConfig], tuple[type[PreTrainedModel], str]] = {
    Qwen2VLConfig: (Qwen2VLForTokenClassification, "Qwen2VLForConditionalGeneration"),
    Qwen2_5_VLConfig: (Qwen2_5_VLForTokenClassification, "Qwen2_5_VLForConditionalGeneration"),
    Qwen3VLConfig: (Qwen3VLForTokenClassification, "Qwen3VLForConditionalGeneration"),
}
"""Config class -> value model, and the generation class whose checkpoint layout it reads."""

for _config_class, (_value_class, _generation_class) in VALUE_CLASSES.items():
    AutoModelForTokenClassification.register(_config_class, _value_class, exist_ok=True)
    _mapping = get_checkpoint_conversion_mapping(_generation_class)
    if _mapping is not None:
        register_checkpoint_conversion_mapping(_value_class.__name__, _mapping, overwrite=True)


def load_value_model(
    local_path: str, torch_dtype: torch.dtype, model_config: PretrainedConfig, trust_remote_code: bool
) -> PreTrainedModel:
    """Load a checkpoint's backbone under a new value head; everything but the head must come from the checkpoint.

    Args:
        local_path: a checkpoint in the hub's layout, or one that this class saved (then the head loads too).
        torch_dtype: dtype of the parameters.
        model_config: the model's config, an instance of one of `VALUE_CLASSES`.
        trust_remote_code: passed on to transformers.
    Raises:
        RuntimeError: a tensor besides the head is missing, or one of the checkpoint's has no place in the model.
    """
    value_class, generation_class = VALUE_CLASSES[type(model_config)]
    asked = getattr(model_config, "_attn_implementation", None)
    attention = asked or ("flash_attention_2" if is_flash_attn_2_available() else "sdpa")
    loaded: Any = value_class.from_pretrained(
        local_path,
        dtype=torch_dtype,
        config=model_config,
        attn_implementation=attention,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    model, info = loaded
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("score."))
    unexpected = sorted(name for name in info["unexpected_keys"] if not _is_language_head(name))
    mismatched = sorted(str(entry) for entry in info["mismatched_keys"])
    if missing or unexpected or mismatched:
        raise RuntimeError(
            f"the critic's backbone did not load whole from {local_path!r}: {len(missing)} tensors missing "
            f"{missing[:3]}, {len(unexpected)} without a place {unexpected[:3]}, {len(mismatched)} of another shape "
            f"{mismatched[:3]}; expected only the value head (score.*) to be new; critic.model.path must be a "
            f"{generation_class} checkpoint as transformers saves it"
        )
    logger.info("critic: %s from %s, new tensors: %s", value_class.__name__, local_path, sorted(info["missing_keys"]))
    return model


def _is_language_head(name: str) -> bool:
    return name.startswith("lm_head.") or ".lm_head." in name


def supports(model_config: Any) -> bool:
    """Whether `load_value_model` knows the model of this config."""
    return type(model_config) in VALUE_CLASSES
