# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr export`: a run's checkpoint -> a model that vLLM, SGLang and transformers load, checked."""

from __future__ import annotations

import argparse
import functools
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_videomtr.serving.server import serve_command

if TYPE_CHECKING:
    import torch

DTYPES = ("trained", "float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: videomtr export outputs/run_001 --out models/run_001; docs/serving.md says how to serve it"
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="RUN_OR_CHECKPOINT",
        help="a run's folder (its newest checkpoint is taken), global_step_N, or global_step_N/actor",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--role", choices=("actor", "critic"), default="actor", help="which model (default: actor)")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="trained",
        help="dtype of the weights; bfloat16 is what servers compute in (default: as they were trained, often float32)",
    )
    parser.add_argument(
        "--base", type=Path, metavar="DIR", help="the model that was trained; needed where adapters alone were saved"
    )


def run(args: argparse.Namespace) -> int:
    """Export and print what came out.

    Raises:
        ExportError: the checkpoint cannot be exported, or does not load to what was trained.
    """
    began = time.monotonic()
    # Expected here: shards are read outside of the process groups that wrote them.
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
    record = export(args.checkpoint, args.out, role=args.role, dtype=args.dtype, base=args.base)
    rounded = "" if args.dtype == "trained" else f", in {record['dtype']}"
    lora = (
        f", LoRA of rank {record['lora']['rank']} merged into {record['lora']['layers']} layers"
        if record["lora"]
        else ""
    )
    print(
        f"exported {record['role']} of step {record['step']}: {record['parameters']:,} parameters in "
        f"{record['dtype']}{lora}; loaded again, all {record['tensors']} tensors equal what was trained{rounded}; "
        f"{time.monotonic() - began:.0f} s"
    )
    if record["role"] == "actor":
        print(f"serve it: {serve_command(str(args.out))}  (docs/serving.md has the flags)")
    return 0


def export(
    path: Path, out: Path, *, role: str = "actor", dtype: str = "trained", base: Path | None = None
) -> dict[str, Any]:
    """Export one model; return the record that is written beside it.

    Args:
        path: see `checkpoints.find_checkpoint`.
        out: the folder to make.
        dtype: one of DTYPES.
        base: the plain model, for checkpoints of adapters alone.
    Raises:
        ExportError: see `run`.
    """
    # torch and transformers take seconds: only a command that runs pays for them.
    from transformers.utils import logging as transformers_logging

    from verl_videomtr.export.adapters import has_adapters, merge
    from verl_videomtr.export.checkpoints import ExportError, find_checkpoint, read_model
    from verl_videomtr.export.writing import require_finite, require_places, write_model

    out = out.absolute()  # "." has no name
    transformers_logging.disable_progress_bar()
    checkpoint = find_checkpoint(path, role=role)
    require_places(checkpoint.folder, out)
    if base is not None and not (base / "config.json").is_file():
        # transformers would take it for a name on the hub, and ask there.
        raise ExportError(f"no config.json in the folder of --base; expected the model that was trained; {base}")
    state = read_model(checkpoint.folder)
    lora = None
    if has_adapters(state):
        state, lora = merge(state, checkpoint.folder, base=None if base is None else _base_tensors(base))
    state = _cast(state, dtype)
    require_finite(state, checkpoint.folder, dtype=dtype)
    record = {
        "source": str(Path(checkpoint.folder.parent.name) / checkpoint.folder.name),
        "role": checkpoint.role,
        "step": checkpoint.step,
        "dtype": _dtype_name(state),
        "lora": None if lora is None else {"rank": lora.rank, "alpha": lora.alpha, "layers": lora.num_layers},
        "tensors": len(state),
        "parameters": sum(tensor.numel() for tensor in state.values()),
    }
    write_model(state, checkpoint.folder, out, record=record)
    return record


def _base_tensors(base: Path) -> dict[str, torch.Tensor]:
    from verl_videomtr.export.writing import load_model

    model, _ = load_model(base, is_value_model=False, dtype="auto")  # type: ignore[arg-type]
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


def _cast(state: dict[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """Convert what is floating point; "trained" is the narrowest dtype that holds every tensor without loss."""
    import torch

    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    target = functools.reduce(torch.promote_types, kinds) if dtype == "trained" else getattr(torch, dtype)
    return {name: tensor.to(target) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _dtype_name(state: dict[str, torch.Tensor]) -> str:
    return str(next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())).removeprefix("torch.")
