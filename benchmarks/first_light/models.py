# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Stage b: one update of actor and critic at their true shapes with random weights, padded and packed.

Through transformers and the plugin's value head, bf16 throughout (weights, gradients, Adam's states), with gradient
checkpointing. The vision tower attends through torch's own variable-length kernel where a case does not say otherwise
(verl_videomtr/vision_attention.py). Positions count up along each row on every axis, and the weights are random:
neither changes the cost.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from benchmarks.first_light.planned import forward_flops, gpu_of
from benchmarks.first_light.record import Record
from benchmarks.first_light.shapes import MODEL, TINY, frame_grid, model_config, trajectories
from verl_videomtr.verl_plugin.value_heads import value_class
from verl_videomtr.vision_attention import NAME

LARGE, LARGE_LAYERS = "Qwen2.5-VL-7B-Instruct", (4, 8)
ROUNDS = 3


@dataclass(frozen=True)
class Update:
    """One update to measure."""

    model: str
    role: str
    """ "actor" or "critic"."""
    budget: int
    """Frames of the longer trajectory."""
    layout: str
    """ "padded": one row a trajectory; "packed": all in one row."""
    attention: str
    layers: int | None = None
    """Of the language model; None: its own."""
    vision: str = NAME
    """Attention of the vision tower."""

    def __str__(self) -> str:
        layers = f", {self.layers} layers" if self.layers else ""
        sizes = f"{self.model}{layers}, {self.role}, budget {self.budget}"
        return f"{sizes}, {self.layout} {self.attention}, vision {self.vision}"


def cases(*, rehearse: bool) -> list[Update]:
    ways = [("padded", "sdpa"), ("packed", "sdpa")]
    if rehearse:
        return [Update(TINY, role, 4, *way, vision="sdpa") for role in ("actor", "critic") for way in ways]
    padded = [Update(MODEL, role, budget, "padded", "sdpa") for budget in (32, 80) for role in ("actor", "critic")]
    larger = [Update(LARGE, "actor", 32, "padded", "sdpa", layers) for layers in LARGE_LAYERS]
    # The packed mask of sdpa is a whole square, and its tower's loop takes seconds: both last.
    packed = [
        Update(MODEL, "actor", budget, "packed", way) for way in ("flex_attention", "sdpa") for budget in (32, 80)
    ]
    return padded + larger + packed + [Update(MODEL, "actor", 32, "padded", "sdpa", vision="sdpa")]


def run(record: Record, *, rehearse: bool) -> None:
    device = "cpu" if rehearse else "cuda"
    failed, seconds = [], {}
    for case in cases(rehearse=rehearse):
        try:
            figures = measure(case, device)
        except Exception as error:
            record.write(f"{case}: failed", error=f"{type(error).__name__}: {str(error)[:200]}")
            failed.append(str(case))
        else:
            record.write(str(case), **figures)
            seconds[case.model, case.layers] = figures["update_seconds"]
        gc.collect()
        torch.cuda.empty_cache()
    few, more = (seconds.get((LARGE, layers)) for layers in LARGE_LAYERS)
    if few and more:
        whole = model_config(LARGE).text_config.num_hidden_layers
        per_layer = (more - few) / (LARGE_LAYERS[1] - LARGE_LAYERS[0])
        record.write(f"{LARGE}, extrapolated from {LARGE_LAYERS} layers", seconds=few + per_layer * (whole - 4))
    if failed:
        raise RuntimeError(f"{len(failed)} cases failed: {failed}; their lines in the results say why")


def measure(case: Update, device: str) -> dict[str, Any]:
    """Time an update after two that warm up."""
    model = build(case, device)
    inputs, labels = make_inputs(case, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device == "cuda")
    for _ in range(2):
        _update(model, inputs, labels, optimizer, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    parts = [_update(model, inputs, labels, optimizer, device) for _ in range(ROUNDS)]
    forward, backward, step = (sorted(part)[ROUNDS // 2] for part in zip(*parts, strict=True))
    return {
        **describe(case, device, update_seconds=forward + backward),
        "forward_ms": 1000 * forward,
        "backward_ms": 1000 * backward,
        "optimizer_ms": 1000 * step,
    }


def describe(case: Update, device: str, *, update_seconds: float) -> dict[str, Any]:
    """What a case is, and the figures that follow from its time."""
    lengths = [row.tokens for row in trajectories(case.model, case.budget)]
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    gpu = gpu_of(name)
    flops = 3 * forward_flops(case.model, case.layers, case.budget)  # the recomputed forward is no useful work
    return {
        "model": case.model,
        "layers": case.layers,
        "budget": case.budget,
        "role": case.role,
        "device": name,
        "tokens": sum(lengths),
        "padded_tokens": len(lengths) * max(lengths) - sum(lengths) if case.layout == "padded" else 0,
        "update_seconds": update_seconds,
        "tokens_per_second": sum(lengths) / update_seconds,
        "share_of_bf16_peak": flops / update_seconds / gpu.flops if gpu else None,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }


def build(case: Update, device: str) -> torch.nn.Module:
    """The model of a case with random weights."""
    config = model_config(case.model, case.layers)
    with torch.device(device):
        if case.role == "actor":
            made = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        else:
            config.num_labels = 1
            family, _ = value_class(type(config))
            made = family._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    # Set here: transformers refuses flex_attention for this family by name, though its layers look attention up freely.
    made.model.language_model.config._attn_implementation = case.attention
    made.model.visual.config._attn_implementation = case.vision
    made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return made.train()


def make_inputs(case: Update, device: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Lay both trajectories out: text, then frames, then text.

    Returns:
        The model's inputs, and labels (rows, length): the next token, -100 on padding.
    """
    config, rows = model_config(case.model, case.layers), trajectories(case.model, case.budget)
    height, width = frame_grid(case.model)
    generator = torch.Generator().manual_seed(0)
    sequences = []
    for row in rows:
        ids = torch.randint(0, 400, (row.tokens,), generator=generator)
        ids[16 : 16 + row.num_frames * height * width // 4] = config.image_token_id
        sequences.append(ids)
    places = [torch.arange(len(ids)) for ids in sequences]
    frames, patch = sum(row.num_frames for row in rows), 3 * 2 * 14 * 14
    inputs = {
        "pixel_values": torch.randn(frames * height * width, patch, generator=generator).to(torch.bfloat16),
        "image_grid_thw": torch.tensor([[1, height, width]] * frames),
    }
    if case.layout == "packed":
        input_ids, positions = torch.cat(sequences)[None], torch.cat(places)[None]
        labels = input_ids.clone()
    else:
        pad = torch.nn.utils.rnn.pad_sequence
        input_ids, positions = pad(sequences, batch_first=True), pad(places, batch_first=True)
        labels = pad(sequences, batch_first=True, padding_value=-100)
        inputs["attention_mask"] = (labels != -100).long()
    inputs |= {"input_ids": input_ids, "position_ids": positions.expand(4, *positions.shape)}
    return {name: tensor.to(device) for name, tensor in inputs.items()}, labels.to(device)


def _update(
    model: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    device: str,
) -> tuple[float, float, float]:
    """Seconds of forward, backward and optimizer step."""
    optimizer.zero_grad(set_to_none=True)
    times = [now(device)]
    logits = model(**inputs, use_cache=False).logits
    if logits.shape[-1] == 1:
        loss = (logits[..., 0] - 1.0).square()[labels >= 0].mean()
    else:
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    times.append(now(device))
    loss.backward()
    times.append(now(device))
    optimizer.step()
    times.append(now(device))
    if not torch.isfinite(loss):
        raise FloatingPointError(f"loss is {float(loss)}; expected a finite number")
    return times[1] - times[0], times[2] - times[1], times[3] - times[2]


def now(device: str) -> float:
    """Seconds, once the device has finished what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
