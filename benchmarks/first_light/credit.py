# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Stage a: bi-level GAE on the device: equal to the CPU's results, and timed against verl's one-level loop."""

from __future__ import annotations

import torch

from benchmarks.first_light.record import Record
from benchmarks.gae import make_batch, seconds
from verl_videomtr.gae import bi_level_gae

TOLERANCE = 1e-4
"""Between devices: sums in another order, in float64, rounded to float32."""


def run(record: Record, *, rehearse: bool) -> None:
    device = "cpu" if rehearse else "cuda"
    for rows, width in ((8, 256), (8, 512)) if rehearse else ((1024, 8192), (1024, 32768)):
        for fill in ("sparse", "dense") if width >= 2048 else ("dense",):
            _compare(record, rows, width, fill, device)


def _compare(record: Record, rows: int, width: int, fill: str, device: str) -> None:
    on_cpu = make_batch(rows, width, fill, "cpu")
    batch = {name: tensor.to(device) for name, tensor in on_cpu.items()}
    differences = [
        float((ours.cpu() - expected).abs().max())
        for ours, expected in zip(bi_level_gae(**batch), bi_level_gae(**on_cpu), strict=True)
    ]
    ours = seconds(lambda: bi_level_gae(**batch), 3, device)
    loop = seconds(lambda: one_level_loop(batch, whiten=True), 1, device)
    record.write(
        f"{rows} x {width} {fill}",
        ours_seconds=ours,
        verl_loop_seconds=loop,
        loop_over_ours=loop / ours,
        largest_difference=max(differences),
    )
    if not max(differences) <= TOLERANCE:
        raise AssertionError(f"{device} differs from the CPU by {max(differences)}; expected at most {TOLERANCE}")


def one_level_loop(batch: dict[str, torch.Tensor], *, whiten: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """GAE with gamma = lambda = 1 as verl 0.9.1 computes it, column by column; for machines without verl.

    Where the mask is 0, the value and the running sum of the token behind it go on unchanged.
    Returns:
        (advantages, returns), each (bs, response_length).
    """
    rewards, values, mask = (batch[name] for name in ("token_level_rewards", "values", "response_mask"))
    next_value = running = torch.zeros_like(values[:, 0])
    columns = []
    for column in reversed(range(values.shape[1])):
        kept = mask[:, column]
        delta = rewards[:, column] + next_value - values[:, column]
        next_value = values[:, column] * kept + (1 - kept) * next_value
        running = (delta + running) * kept + (1 - kept) * running
        columns.append(running)
    advantages = torch.stack(columns[::-1], dim=1)
    returns = advantages + values
    if whiten:
        trained = advantages[mask.bool()]
        advantages = (advantages - trained.mean()) * torch.rsqrt(trained.var() + 1e-8)
    return advantages, returns
