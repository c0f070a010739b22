# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Writing a model in the hub's layout, loading it again as a server would, and comparing it with what was trained."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForTokenClassification,
    AutoProcessor,
    PretrainedConfig,
)

from verl_videomtr.export.checkpoints import HUGGINGFACE, ExportError
from verl_videomtr.serving.texts import one_line
from verl_videomtr.verl_plugin.value_heads import value_class

RECORD = "export.json"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
VALUE_HEAD = "score.weight"


def write_model(state: dict[str, torch.Tensor], source: Path, out: Path, *, record: dict[str, Any]) -> None:
    """Write tensors and everything that a server needs beside them; check it; only then give it its name.

    Args:
        state: the training process's names -> whole tensors, in the dtype to write.
        source: the checkpoint's folder; its `huggingface/` has config, tokenizer, processor and template.
        out: the folder to make; must not exist, or be empty.
        record: written as `export.json`.
    Raises:
        ExportError: the folder is taken, or what was written does not load to the very tensors that were given.
    """
    require_places(source, out)
    beside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        shutil.copytree(source / HUGGINGFACE, beside, ignore=shutil.ignore_patterns(*WEIGHTS))
        _save_weights(state, beside)
        check_model(state, beside)
        check_text_files(source / HUGGINGFACE, beside)
        (beside / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def require_places(source: Path, out: Path) -> None:
    """Look at both folders: before minutes of reading, what can be known then.

    Raises:
        ExportError: the checkpoint has no description of its model, or `out` is taken or cannot be made.
    """
    if not (source / HUGGINGFACE / "config.json").is_file():
        raise ExportError(
            f"the checkpoint has no {HUGGINGFACE}/config.json; expected the model's description; {source}; "
            "its saving was cut short, take an earlier one"
        )
    try:
        AutoConfig.from_pretrained(source / HUGGINGFACE)
    except (OSError, ValueError) as error:
        raise ExportError(
            f"the checkpoint's description cannot be read ({one_line(str(error))[:200]}); expected a model that this "
            f"version of transformers knows; {source / HUGGINGFACE / 'config.json'}; take an earlier checkpoint, or "
            "install the version that trained it"
        ) from error
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"the folder is not empty; expected a new one; {out}; give another --out, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ExportError(
            f"the folder cannot be made ({error.strerror or error}); expected one below a folder to write in; {out}; "
            "give another --out"
        ) from error


def require_finite(state: dict[str, torch.Tensor], source: Path, *, dtype: str) -> None:
    """Look for what no server can answer with.

    Raises:
        ExportError: a tensor holds NaN or infinity; the message names the first ones.
    """
    if wrong := [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise ExportError(
            f"{len(wrong)} of {len(state)} tensors hold NaN or infinity {wrong[:3]}; expected numbers that {dtype=} "
            f"holds; {source}; the training has diverged: take an earlier checkpoint (above 65504: not float16)"
        )


def load_model(folder: Path, *, is_value_model: bool, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """Load a folder as transformers does, with its report of what did not fit."""
    auto_class = _auto_class(AutoConfig.from_pretrained(folder), is_value_model=is_value_model)
    model, info = auto_class.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    return model, info


def check_model(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Load what was written and compare every tensor, bit for bit.

    Raises:
        ExportError: a tensor is missing, has no place, or differs; the message names the first ones.
    """
    dtype = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    model, info = load_model(folder, is_value_model=VALUE_HEAD in state, dtype=dtype)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found := sorted(map(str, info[kind])):
            raise ExportError(f"the exported model loads with {len(found)} {kind} {found[:3]}; expected none; {folder}")
    loaded = model.state_dict()
    if lost := sorted(state.keys() - loaded.keys()):
        raise ExportError(f"{len(lost)} trained tensors are not in the model {lost[:3]}; expected every one; {folder}")
    # The other way round only tied copies may be new: they are in the model under a second name.
    trained = {tensor.data_ptr() for name, tensor in loaded.items() if name in state}
    if new := sorted(name for name, value in loaded.items() if name not in state and value.data_ptr() not in trained):
        raise ExportError(
            f"{len(new)} tensors of the model were not in the checkpoint {new[:3]}; expected all; {folder}"
        )
    if wrong := [name for name, tensor in state.items() if not torch.equal(loaded[name], tensor)]:
        raise ExportError(
            f"{len(wrong)} of {len(state)} tensors load with other values than were trained {wrong[:3]}; "
            f"expected the same bits; {folder}; this model's layout is not written faithfully here, please report it"
        )


def _auto_class(config: PretrainedConfig, *, is_value_model: bool) -> Any:
    if not is_value_model:
        return AutoModelForImageTextToText
    value_class(type(config))  # transformers has none of its own
    return AutoModelForTokenClassification


def check_text_files(source: Path, folder: Path) -> None:
    """Load the processor (tokenizer, image processor, template) and compare its template with the training run's.

    Raises:
        ExportError: it does not load, or renders with another template.
    """
    try:
        exported = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ExportError(
            f"the exported processor does not load ({error}); expected tokenizer and image processor; {source}"
        ) from error
    words = exported.tokenizer.vocab_files_names.values()
    if not any((folder / name).is_file() for name in words):
        # transformers makes an empty tokenizer of nothing.
        raise ExportError(f"the processor has no tokenizer; expected one of {sorted(words)}; {source}")
    if not getattr(exported, "chat_template", None):
        raise ExportError(f"the processor has no chat template; expected the one that was trained with; {source}")
    if exported.chat_template != AutoProcessor.from_pretrained(source).chat_template:
        raise ExportError(f"the exported chat template differs from the checkpoint's; expected the same; {source}")


def _save_weights(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Let transformers write the tensors: it knows the hub's names of each family."""
    config = AutoConfig.from_pretrained(folder)
    builder = _auto_class(config, is_value_model=VALUE_HEAD in state)
    dtype = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    if VALUE_HEAD in state:
        config.num_labels = state[VALUE_HEAD].shape[0]
    with torch.device("meta"):
        model = builder.from_config(config, dtype=dtype)
    unknown = sorted(state.keys() - model.state_dict().keys())
    if unknown:
        raise ExportError(
            f"{len(unknown)} trained tensors have no place in {type(model).__name__} {unknown[:3]}; expected the "
            f"names of that class; {folder}"
        )
    # Of tensors that the model ties, one copy is written.
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    generation = folder / "generation_config.json"
    kept = generation.read_bytes() if generation.is_file() else None
    try:
        model.save_pretrained(folder, state_dict={name: value for name, value in state.items() if name not in tied})
    except SafetensorError as error:
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        raise ExportError(
            f"the weights cannot be written ({error}); expected {num_bytes / 1e9:.1f} GB of room; {folder.parent}; "
            "make room, or give another --out"
        ) from error
    if kept is not None:
        # What the base model came with, not what a fresh configuration would say.
        generation.write_bytes(kept)
