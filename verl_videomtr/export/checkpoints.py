# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Finding a checkpoint of verl and reading its model: one or many FSDP shards in, whole tensors by name out.

    RUN/checkpoints/global_step_24/actor/{fsdp_config.json, model_world_size_2_rank_0.pt, ..., huggingface/}

Nothing is converted on the way: a tensor has the dtype that it was trained in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# Importing it makes sharded tensors loadable with weights_only=True: nothing else that a file names is run.
from torch.distributed.tensor import DTensor, Replicate, Shard

LATEST = "latest_checkpointed_iteration.txt"
"""verl's note of the newest checkpoint, beside the `global_step_N` folders."""
FSDP_CONFIG = "fsdp_config.json"
HUGGINGFACE = "huggingface"
"""Folder of a checkpoint with the model's config, tokenizer and processor."""
ROLES = ("actor", "critic")


class ExportError(ValueError):
    """A checkpoint is not there, not whole, or of a form that cannot be exported."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The model of one role at one step."""

    folder: Path
    """Holds the shards, their description, and `huggingface/`."""
    role: str
    step: int | None
    """None where the folder's name does not say."""


def find_checkpoint(path: Path, *, role: str = "actor") -> Checkpoint:
    """Find the newest checkpoint below a run's folder, or take the one that is named.

    Args:
        path: a run, its `checkpoints` folder, a `global_step_N` folder, or a role's folder in one.
        role: "actor" or "critic"; a role's own folder decides it by its name.
    Raises:
        ExportError: there is none.
    """
    if (path / FSDP_CONFIG).is_file():
        role_here = path.name if path.name in ROLES else role
        return Checkpoint(folder=path, role=role_here, step=_step(path.absolute().parent.name))
    for place in (path, path / "checkpoints"):
        if (place / LATEST).is_file():
            step = (place / LATEST).read_text(encoding="utf-8").strip()
            return _in_step(place / f"global_step_{step}", role)
    if _step(path.absolute().name) is not None:
        return _in_step(path, role)
    raise ExportError(
        f"no checkpoint found; expected a run's folder, its checkpoints folder (with {LATEST}), global_step_N or "
        f"global_step_N/{role}; {path}; name one of them"
    )


def read_model(folder: Path) -> dict[str, torch.Tensor]:
    """Read the shards and join them.

    Returns:
        Name in the training process -> whole tensor, in the dtype that was saved.
    Raises:
        ExportError: a shard is missing or unreadable, or shards do not fit together.
    """
    world_size = _world_size(folder)
    paths = [folder / f"model_world_size_{world_size}_rank_{rank}.pt" for rank in range(world_size)]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ExportError(
            f"{len(missing)} of {world_size} shards are not there {missing[:3]}; expected one of each rank; {folder}; "
            "copy the checkpoint folders of all nodes into one"
        )
    shards = [_load(path) for path in paths]
    names = shards[0].keys()
    for path, shard in zip(paths, shards, strict=True):
        if shard.keys() != names:
            raise ExportError(
                f"the shard holds {len(shard)} tensors, the first one {len(names)}; expected the same names in both; "
                f"{path}; its checkpoint was not written whole, take an earlier one"
            )
    return {name: join([shard[name] for shard in shards], name=name) for name in list(names)}


def join(parts: Sequence[torch.Tensor], *, name: str) -> torch.Tensor:
    """Make one tensor of its parts, in rank order.

    Args:
        parts: what each rank saved: a sharded tensor's local part, or the whole of one that is not sharded.
    Raises:
        ExportError: they do not make up the tensor that they say they are parts of.
    """
    first = parts[0]
    if not isinstance(first, DTensor):
        if any(isinstance(part, DTensor) or not torch.equal(part, first) for part in parts[1:]):
            raise ExportError(f"{name} is not sharded, but ranks hold different values; expected copies of one tensor")
        return first
    placement = _placement(first, name)
    local = [_local(part, name) for part in parts]
    if isinstance(placement, Replicate):
        whole = local[0]
    else:
        # With replicas of the shards (hybrid sharding), the last mesh dimension counts within one replica.
        num_shards = first.device_mesh.shape[-1]
        try:
            whole = torch.cat(local[:num_shards], dim=placement.dim)
        except RuntimeError as error:
            shapes = [tuple(part.shape) for part in local[:num_shards]]
            raise ExportError(
                f"the shards of {name} have shapes {shapes[:4]}; expected parts of {tuple(first.shape)} along "
                f"dimension {placement.dim}; the checkpoint mixes files of different runs; take another one"
            ) from error
    if whole.shape != first.shape:
        raise ExportError(
            f"the shards of {name} make up {tuple(whole.shape)}; expected {tuple(first.shape)}; "
            "the checkpoint mixes files of different runs; take another one"
        )
    return whole


def _placement(tensor: DTensor, name: str) -> Shard | Replicate:
    *outer, inner = tensor.placements
    if isinstance(inner, (Shard, Replicate)) and all(isinstance(placement, Replicate) for placement in outer):
        return inner
    raise ExportError(
        f"{name} is placed as {tensor.placements}; expected FSDP shards, with or without replicas; "
        "export it with verl's own model_merger"
    )


def _local(part: torch.Tensor, name: str) -> torch.Tensor:
    if not isinstance(part, DTensor):
        raise ExportError(f"{name} is sharded on the first rank and whole on another; expected the same on all")
    # to_local asks for a process group, which only training has.
    return part._local_tensor


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ... by how the file is damaged.
        raise ExportError(
            f"not a readable shard ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            f"expected what verl's FSDP engine saves; {path}; take an earlier checkpoint"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ExportError(f"the shard holds something else than tensors; expected verl's FSDP form; {path}")
    if not any(value.is_floating_point() for value in state.values()):
        raise ExportError(
            f"the shard holds {len(state)} tensors and no weight; expected a model; {path}; take an earlier checkpoint"
        )
    return state


def _world_size(folder: Path) -> int:
    path = folder / FSDP_CONFIG
    try:
        size = json.loads(path.read_text(encoding="utf-8"))["world_size"]
    except (OSError, ValueError, KeyError, TypeError):
        size = None
    if not isinstance(size, int) or size < 1:
        raise ExportError(
            f"{FSDP_CONFIG} does not say how many shards there are; expected a checkpoint of verl's FSDP engine; "
            f"{folder}; export Megatron checkpoints with verl's own model_merger"
        )
    return size


def _in_step(folder: Path, role: str) -> Checkpoint:
    if not (folder / role / FSDP_CONFIG).is_file():
        found = [name for name in ROLES if (folder / name / FSDP_CONFIG).is_file()]
        raise ExportError(
            f"no {role} in the checkpoint; expected {role}/{FSDP_CONFIG}, found {found or 'nothing'}; {folder}; "
            "a run without a critic has none, and one that was killed while saving may lack it"
        )
    return Checkpoint(folder=folder / role, role=role, step=_step(folder.absolute().name))


def _step(name: str) -> int | None:
    match = re.fullmatch(r"global_step_(\d+)", name)
    return int(match[1]) if match else None
