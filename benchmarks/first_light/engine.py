# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Stage v: the updates of stage b through verl's own FSDP engine, on one device: float32 weights, bf16 arithmetic.

The engine is verl's, unchanged; only its weights are random instead of read from a folder. Two rows, each its own
sequence, laid out as verl's trainer hands them over (jagged, pixels beside), one micro-batch, verl's default AdamW.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.first_light.models import ROUNDS, Update, describe, make_inputs, now
from benchmarks.first_light.record import Record
from benchmarks.first_light.shapes import MODEL, TINY, model_config, trajectories

NEEDED = ("verl", "ray", "tensordict", "peft")
BYTES_PER_PARAM = 4
"""verl's engine trains float32 weights unless `model_dtype` says otherwise."""


def run(record: Record, *, rehearse: bool) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        record.write("not run", missing=", ".join(missing), what_to_do="carry them: benchmarks.first_light.wheels")
        return
    device = "cpu" if rehearse else "cuda"
    failed = []
    for case in cases(rehearse=rehearse):
        # A process each: FSDP holds weights and optimizer longer than the engine that made them.
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                record.write(f"verl's FSDP engine: {case}", **pool.submit(measure, case, device).result())
            except Exception as error:
                record.write(f"{case}: failed", error=f"{type(error).__name__}: {str(error)[:200]}")
                failed.append(str(case))
    if failed:
        raise RuntimeError(f"{len(failed)} cases failed: {failed}; their lines in the results say why")


def cases(*, rehearse: bool) -> list[Update]:
    if rehearse:
        return [Update(TINY, role, 4, "padded", "sdpa", vision="sdpa") for role in ("actor", "critic")]
    return [Update(MODEL, role, budget, "padded", "sdpa") for budget in (32, 80) for role in ("actor", "critic")]


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """A group of one process."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "gloo" if device == "cpu" else "nccl"
        torch.distributed.init_process_group(backend, f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


def measure(case: Update, device: str) -> dict[str, Any]:
    """Time one update after one that warms up."""
    with process_group(device):
        return _measure(case, device)


def _measure(case: Update, device: str) -> dict[str, Any]:
    engine, batch = build(case, device), make_batch(case)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    with engine.train_mode():
        for _ in range(1 + ROUNDS):
            begin = now(device)
            found = engine.train_batch(batch.copy(), loss_function=_loss)
            seconds.append(now(device) - begin)
    loss, grad_norm = sum(found["loss"]), float(found["metrics"]["grad_norm"])
    if not (loss == loss and 0 < grad_norm < float("inf")):
        raise FloatingPointError(f"loss {loss}, gradient norm {grad_norm}; expected finite ones, the norm not 0")
    return {
        **describe(case, device, update_seconds=sorted(seconds[1:])[ROUNDS // 2]),
        "first_seconds": seconds[0],
        "bytes_per_param": BYTES_PER_PARAM,
        "grad_norm": grad_norm,
    }


def build(case: Update, device: str) -> Any:
    """verl's engine around a model of random weights."""
    import verl_videomtr.verl_plugin.register  # noqa: F401  isort: skip  before verl: it hooks verl's imports
    import verl.workers.engine_workers  # noqa: F401  as the trainer's worker does: the plugin's value heads come with it
    from transformers import AutoModelForImageTextToText, PreTrainedModel
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
    from verl.workers.engine import EngineRegistry

    config = model_config(case.model, case.layers)
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    strategy = "fsdp2" if device == "cpu" else "fsdp"  # verl's default; on the CPU only the second works
    kind = "language_model" if case.role == "actor" else "value_model"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
        model = HFModelConfig(
            path=folder,
            load_tokenizer=False,
            use_remove_padding=False,
            override_config={"attn_implementation": case.attention},
            model_type=kind,
        )

        def random_weights(cls: type[Any], *_: Any, config: Any, **arguments: Any) -> Any:
            made_by = cls._from_config if issubclass(cls, PreTrainedModel) else cls.from_config
            dtype = arguments.get("dtype") or arguments["torch_dtype"]
            with torch.device(device):
                made = made_by(config, dtype=dtype)
            made.model.visual.config._attn_implementation = case.vision
            nothing = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
            return (made, nothing) if arguments.get("output_loading_info") else made

        engine = EngineRegistry.new(
            model_type=kind,
            backend=strategy,
            model_config=model,
            engine_config=FSDPEngineConfig(
                strategy=strategy,
                use_torch_compile=False,
                use_remove_padding=False,
                mixed_precision={"param_dtype": "fp32"}
                if device == "cpu"
                else None,  # bf16 takes a CPU ten times as long
            ),
            optimizer_config=FSDPOptimizerConfig(lr=1e-6, total_training_steps=10),
            checkpoint_config=CheckpointConfig(),
        )
        with (
            mock.patch.object(AutoModelForImageTextToText, "from_pretrained", classmethod(random_weights)),
            mock.patch.object(PreTrainedModel, "from_pretrained", classmethod(random_weights)),
        ):
            engine.initialize()
    return engine


def make_batch(case: Update) -> Any:
    """Both trajectories as verl's trainer hands them to a worker."""
    from verl.utils import tensordict_utils

    inputs, labels = make_inputs(case, "cpu")
    lengths = (labels >= 0).sum(dim=1).tolist()
    frames = [row.num_frames for row in trajectories(case.model, case.budget)]
    patches = inputs["pixel_values"].float().split([num * _patches_per_frame(inputs) for num in frames])
    grids = inputs["image_grid_thw"].split(frames)
    rows = [inputs["input_ids"][row, :length] for row, length in enumerate(lengths)]
    positions = [inputs["position_ids"][:, row, :length] for row, length in enumerate(lengths)]
    jagged = {"layout": torch.jagged}
    return tensordict_utils.get_tensordict(
        {
            "input_ids": torch.nested.as_nested_tensor(rows, **jagged),
            "position_ids": torch.nested.nested_tensor_from_jagged(
                torch.cat(positions, dim=1), offsets=torch.tensor([0, *lengths]).cumsum(0), jagged_dim=2
            ),
            "loss_mask": torch.nested.as_nested_tensor([torch.ones(length) for length in lengths], **jagged),
            "multi_modal_inputs": [
                {"pixel_values": pixels, "image_grid_thw": grid} for pixels, grid in zip(patches, grids, strict=True)
            ],
        },
        non_tensor_dict={
            "use_remove_padding": False,
            "use_dynamic_bsz": False,
            "micro_batch_size_per_gpu": len(rows),
            "temperature": 1.0,
            "global_batch_size": len(rows),
        },
    )


def _patches_per_frame(inputs: dict[str, torch.Tensor]) -> int:
    return int(inputs["image_grid_thw"][0].prod())


def _loss(model_output: dict[str, torch.Tensor], data: Any, dp_group: Any = None) -> tuple[torch.Tensor, dict]:
    if "values" in model_output:
        return (model_output["values"].values() - 1.0).square().mean(), {}
    return -model_output["log_probs"].values().mean(), {}
