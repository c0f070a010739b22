# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Processors that verl 0.9.1 refuses: any that transformers has for a model that generates text from images.

verl.utils.hf_processor knows seven classes by name and makes None of every other, so that a vision-language model
would train as a text model. Imported by the registration as soon as verl.utils is.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from typing import Any

import verl.utils.tokenizer.tokenizer as verl_tokenizer
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

_stock_hf_processor = verl_tokenizer.hf_processor
_REFUSED = "Unsupported processor type"
_POSITION_METHODS = ("get_rope_index", "get_vision_position_ids")


def hf_processor(name_or_path: Any, **kwargs: Any) -> Any:
    """Load a processor as verl does, and those that it refuses for their class's name too.

    Returns:
        The processor, with the model's config and, where its positions have several axes, the model's own methods that
        compute them; None where verl finds none and the model is no image-text-to-text model.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        processor = _stock_hf_processor(name_or_path, **kwargs)
    refused = [warning for warning in caught if _REFUSED in str(warning.message)]
    for warning in caught:
        if warning not in refused:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if processor is not None or not refused:
        return processor
    config = AutoConfig.from_pretrained(name_or_path, **kwargs)
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        return None
    processor = AutoProcessor.from_pretrained(name_or_path, **kwargs)
    processor.config = config
    generation: Any = AutoModelForImageTextToText._model_mapping[type(config)]
    backbone = _backbone(generation)
    for name in _POSITION_METHODS:
        if hasattr(backbone, name):
            setattr(processor, name, types.MethodType(getattr(backbone, name), processor))
    return processor


def _backbone(generation_class: type) -> type | None:
    """Return the class below the language head, by transformers' naming; None where it has another."""
    module = importlib.import_module(generation_class.__module__)
    return getattr(module, generation_class.__name__.replace("ForConditionalGeneration", "Model"), None)


# By their names: verl itself may be half imported, and then has no attribute `utils` yet.
for _owner in (verl_tokenizer, sys.modules["verl.utils.tokenizer"], sys.modules["verl.utils"]):
    _owner.hf_processor = hf_processor  # type: ignore[attr-defined]
