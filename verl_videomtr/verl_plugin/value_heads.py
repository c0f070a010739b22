# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Value models for PPO's critic on vision-language models, and a loader that cannot lose weights silently.

transformers 5.9 has a token-classification class for hardly any of these models, so one is made from whatever class
generates with the checkpoint. transformers also renames a checkpoint's tensors by the name of the class that loads
them: a new class without that mapping misses every tensor of the language model and starts from random ones, with a
warning only.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.modeling_layers import GenericForTokenClassification
from transformers.utils import is_flash_attn_2_available

logger = logging.getLogger(__name__)


class ValueModel(GenericForTokenClassification):
    """One linear value head on every token of a backbone; the class of a family adds its backbone to this."""

    def prepare_inputs_for_generation(self, *_args: Any, **_kwargs: Any) -> dict[str, Any]:
        """Refuse: verl wraps a critic's adapters as a causal language model's, and peft looks for this method."""
        raise TypeError(f"{type(self).__name__} has a value head; expected a model that generates")


def supports(model_config: Any) -> bool:
    """Whether a value model can be made for this config: any image-text-to-text model of transformers."""
    return type(model_config) in AutoModelForImageTextToText._model_mapping


_made: dict[type[PretrainedConfig], tuple[type[PreTrainedModel], str]] = {}


def value_class(config_class: type[PretrainedConfig]) -> tuple[type[PreTrainedModel], str]:
    """Make and register the value model of a family.

    Returns:
        The class, and the name of the generation class whose checkpoint layout it reads.
    Raises:
        KeyError: transformers generates text from images with no model of this config.
    """
    if config_class in _made:
        return _made[config_class]
    generation: Any = AutoModelForImageTextToText._model_mapping[config_class]
    base = next(cls for cls in generation.__mro__[1:] if issubclass(cls, PreTrainedModel))
    name = generation.__name__.replace("ForConditionalGeneration", "") + "ForTokenClassification"
    # Of its family's module: transformers reads that file to see what may be chosen for attention and experts.
    body = {"__module__": generation.__module__, "__doc__": f"{name}: a value head on every token."}
    made = type(name, (ValueModel, base), body)
    AutoModelForTokenClassification.register(config_class, made, exist_ok=True)
    mapping = get_checkpoint_conversion_mapping(generation.__name__)
    if mapping is not None:
        register_checkpoint_conversion_mapping(name, mapping, overwrite=True)
    _made[config_class] = (made, generation.__name__)
    return _made[config_class]


def load_value_model(
    local_path: str, torch_dtype: torch.dtype, model_config: PretrainedConfig, trust_remote_code: bool
) -> PreTrainedModel:
    """Load a checkpoint's backbone under a new value head; everything but the head must come from the checkpoint.

    Args:
        local_path: a checkpoint in the hub's layout, or one that this class saved (then the head loads too).
        torch_dtype: dtype of the parameters.
        model_config: the model's config, one that `supports` accepts.
        trust_remote_code: passed on to transformers.
    Raises:
        RuntimeError: a tensor besides the head is missing, or one of the checkpoint's has no place in the model.
    """
    family_class, generation_class = value_class(type(model_config))
    asked = getattr(model_config, "_attn_implementation", None)
    attention = asked or ("flash_attention_2" if is_flash_attn_2_available() else "sdpa")
    loaded: Any = family_class.from_pretrained(
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
    logger.info("critic: %s from %s, new tensors: %s", family_class.__name__, local_path, sorted(info["missing_keys"]))
    return model


def _is_language_head(name: str) -> bool:
    return name.startswith("lm_head.") or ".lm_head." in name
