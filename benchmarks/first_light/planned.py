# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Stage d: what the planner foretold for exactly the cases of stage b, beside what was measured, as ratios."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.first_light.record import Record, read
from benchmarks.first_light.shapes import RESPONSE_TOKENS, frame_grid, model_shape, trajectories
from verl_videomtr.planner import GPUS, TRAIN_SHARE, Gpu, Plan, PlannedRun, Trained, make_plan

NOT_THERE = ("gathered weights", "contexts")
"""Parts of the plan that torch's own peak of one process without FSDP does not hold."""


def run(record: Record, *, rehearse: bool) -> None:
    measured = [line for line in read(record.folder) if line["stage"] in ("b", "v") and "update_seconds" in line]
    if not measured:
        record.write("not run", why="stages b and v measured nothing in this folder")
    for line in measured:
        gpu = gpu_of(line["device"])
        plan = foretell(
            line["model"],
            line["layers"],
            line["budget"],
            role=line["role"],
            gpu=gpu or GPUS["h100"],
            bytes_per_param=line.get("bytes_per_param", 2),
            padded=line["padded_tokens"] > 0,
        )
        update = 4 * plan.seconds["log-probabilities"]
        memory = sum(size for part, size in plan.actor_update.items() if part not in NOT_THERE)
        figures = {"foretold_gib": memory / 2**30, "foretold_seconds": update}
        figures["measured_over_foretold_seconds"] = line["update_seconds"] / update
        if line["peak_gib"] is not None:
            figures["measured_over_foretold_memory"] = line["peak_gib"] / figures["foretold_gib"]
        record.write(line["check"], **figures, data_sheet=gpu.name if gpu else "unknown: H100's, ratios say nothing")


def gpu_of(device: str) -> Gpu | None:
    """The data sheet of a device by torch's name for it."""
    return next((gpu for key, gpu in GPUS.items() if key in device.lower()), None)


def foretell(
    name: str, layers: int | None, budget: int, *, role: str, gpu: Gpu, bytes_per_param: int = 2, padded: bool = False
) -> Plan:
    """Plan one update on one GPU.

    Args:
        role: "actor" or "critic"; a critic has no logits.
        bytes_per_param: of weights, gradients and each of Adam's states; 2 for bf16.
        padded: every row is as long as the longest, as without verl's remove_padding.
    """
    shape = model_shape(name, layers)
    height, width = frame_grid(name)
    rows = tuple(trajectories(name, budget))
    if padded:
        longest = max(row.tokens for row in rows)
        rows = tuple(replace(row, prompt_tokens=row.prompt_tokens + longest - row.tokens) for row in rows)
    params = shape.num_params if role == "actor" else shape.num_value_params
    trained = Trained(
        num_params=params,
        num_trained=params,
        bytes_per_param=bytes_per_param,
        tokens_per_gpu=sum(row.tokens for row in rows),
        has_logits=role == "actor",
        num_logit_copies=2,
    )
    return make_plan(
        PlannedRun(
            shape=shape,
            rows=rows,
            num_frames=sum(row.num_frames for row in rows),
            frame_tokens=height * width // 4,
            max_turns=3,
            max_response_tokens=RESPONSE_TOKENS,
            episodes_per_step=1,
            nodes=1,
            gpus_per_node=1,
            actor=trained,
            critic=None,
            reference_bytes_per_param=None,
            gpu=gpu,
        )
    )


def forward_flops(name: str, layers: int | None, budget: int) -> float:
    """Operations of one forward pass over both trajectories, as the planner counts them."""
    gpu = GPUS["h100"]
    plan = foretell(name, layers, budget, role="actor", gpu=gpu)
    return plan.seconds["log-probabilities"] * gpu.flops * TRAIN_SHARE
