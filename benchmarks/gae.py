# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Time two-level credit assignment against the loops it replaces.

    python -m benchmarks.gae [--rows 32 1024] [--width 8192] [--fill sparse dense] [--device cpu] [--json PATH]

What runs, on the same random batch of three-turn trajectories:
- `ours`: `bi_level_gae`, packed and vectorised, whitening included;
- `verl gae`: verl's own one-level estimator, which loops over the tokens of the padded batch, whitening included;
- `two loops`: the form in which two-level GAE is published, rewritten here: for each row, a loop over its turn ends and
  then a loop over its tokens, both on tensor elements. It is timed on `--loop-rows` rows and scaled to the batch, since
  its time is proportional to the rows; whitening left out;
- `floor`: two additions over arrays of the batch's size (four reads, two writes), a stand-in for memory bandwidth.
One warm-up run each, then the median of `--rounds`: CPU seconds of the process on a CPU, so that other work on the
machine counts less, and wall seconds on a GPU. One thread, unless `--threads` says otherwise.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch

from verl_videomtr.gae import bi_level_gae

NUM_TURNS = 3
LEAST_SECONDS = 0.05
"""Of a round."""


def make_batch(num_rows: int, width: int, fill: str, device: str) -> dict[str, torch.Tensor]:
    """Trajectories of three turns: "sparse" has about 930 response tokens per row, "dense" fills nine tenths of it."""
    generator = torch.Generator().manual_seed(0)
    turn_ids = torch.full((num_rows, width), -1)
    for row in range(num_rows):
        starts = torch.arange(NUM_TURNS) * width // NUM_TURNS
        longest = 340 if fill == "sparse" else width // NUM_TURNS
        lengths = (longest * (0.82 + 0.18 * torch.rand(NUM_TURNS, generator=generator))).long()
        for turn, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            turn_ids[row, start : start + length] = turn
    mask = (turn_ids >= 0).long()
    rewards = torch.zeros(num_rows, width)
    is_end = (turn_ids >= 0) & (turn_ids != torch.nn.functional.pad(turn_ids, (0, 1), value=-1)[:, 1:])
    rewards[is_end] = torch.rand(int(is_end.sum()), generator=generator)
    values = torch.randn(num_rows, width, generator=generator)
    batch = {"token_level_rewards": rewards, "values": values, "response_mask": mask, "turn_ids": turn_ids}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def two_loops(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Two-level GAE as nested Python loops over tensor elements; gamma_turn 0.95, all else 1; not whitened."""
    rewards, values, turn_ids = (batch[name] for name in ("token_level_rewards", "values", "turn_ids"))
    advantages = torch.zeros_like(values)
    targets = rewards.clone()
    for row in range(len(values)):
        tokens = (turn_ids[row] >= 0).nonzero().flatten()
        ends = [
            tokens[i] for i in range(len(tokens)) if i + 1 == len(tokens) or _turn_changes(turn_ids[row], tokens, i)
        ]
        running = 0.0
        for i in reversed(range(len(ends))):
            next_value = values[row, ends[i + 1]] if i + 1 < len(ends) else 0.0
            delta = rewards[row, ends[i]] + 0.95 * next_value - values[row, ends[i]]
            running = delta + 0.95 * running
            targets[row, ends[i]] = running + values[row, ends[i]]
        running = 0.0
        for i in reversed(range(len(tokens))):
            is_end = i + 1 == len(tokens) or _turn_changes(turn_ids[row], tokens, i)
            next_value = 0.0 if is_end else values[row, tokens[i + 1]]
            running = targets[row, tokens[i]] + next_value - values[row, tokens[i]] + (0.0 if is_end else running)
            advantages[row, tokens[i]] = running
    return advantages


def _turn_changes(turns: torch.Tensor, tokens: torch.Tensor, i: int) -> bool:
    return bool(turns[tokens[i + 1]] != turns[tokens[i]])


def seconds(run: Callable[[], object], rounds: int, device: str) -> float:
    """Median time of a call; short ones are repeated within a round, so that the clock's own cost does not count."""
    clock = time.process_time if device == "cpu" else time.perf_counter

    def timed(repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        return (clock() - start) / repeats

    timed(1)
    repeats = max(1, round(LEAST_SECONDS / max(timed(1), 1e-7)))
    return statistics.median(timed(repeats) for _ in range(rounds))


def measure(num_rows: int, width: int, fill: str, device: str, rounds: int, loop_rows: int) -> dict[str, object]:
    """Time all four on one shape, and compare the results of ours with those of the loops."""
    from verl.trainer.ppo.core_algos import compute_gae_advantage_return

    batch = make_batch(num_rows, width, fill, device)
    few = {name: tensor[:loop_rows].cpu() for name, tensor in batch.items()}
    rewards, values = batch["token_level_rewards"], batch["values"]
    first, second = torch.empty_like(values), torch.empty_like(values)

    def floor() -> None:
        torch.add(rewards, values, out=first)
        torch.add(values, rewards, out=second)

    def verl() -> object:
        return compute_gae_advantage_return(rewards, values, batch["response_mask"], 1.0, 1.0)

    start = time.process_time()
    expected = two_loops(few)
    loop_seconds = (time.process_time() - start) * num_rows / min(loop_rows, num_rows)
    ours, _ = bi_level_gae(**few, whiten=False)
    return {
        "rows": num_rows,
        "width": width,
        "fill": fill,
        "tokens": int(batch["response_mask"].sum()),
        "ours": seconds(lambda: bi_level_gae(**batch), rounds, device),
        "verl gae": seconds(verl, max(1, rounds // 3), device),
        "two loops": loop_seconds,
        "floor": seconds(floor, rounds, device),
        "largest difference to the loops": float((ours - expected).abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[32, 1024],
        help="numbers of trajectories, one measurement each (default: %(default)s)",
    )
    parser.add_argument("--width", type=int, default=8192, help="tokens of the padded batch (default: %(default)s)")
    parser.add_argument(
        "--fill",
        nargs="+",
        choices=("sparse", "dense"),
        default=["sparse", "dense"],
        help="how much of a row is trained (default: both)",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where the batch lies (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the figures are medians (default: %(default)s)")
    parser.add_argument(
        "--loop-rows", type=int, default=4, help="rows that the slow loops are timed on (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = [
        measure(rows, args.width, fill, args.device, args.rounds, args.loop_rows)
        for fill in args.fill
        for rows in args.rows
    ]
    print(f"torch {torch.__version__}, python {platform.python_version()}, {args.device}, {args.threads} thread(s)")
    print(f"{'shape':>12} {'fill':>6} {'tokens':>9} {'ours s':>9} {'verl s':>8} {'loops s':>8} {'floor s':>9}", end="")
    print(f" {'verl/ours':>9} {'loops/ours':>10} {'ours/floor':>10} {'max diff':>9}")
    for r in results:
        ours, floor = float(r["ours"]), float(r["floor"])
        print(
            f"{r['rows']:>5} x {r['width']:<5} {r['fill']:>5} {r['tokens']:>9} {ours:9.4f} {r['verl gae']:8.3f}", end=""
        )
        print(f" {r['two loops']:8.2f} {floor:9.6f} {r['verl gae'] / ours:9.0f} {r['two loops'] / ours:10.0f}", end="")
        print(f" {ours / floor:10.1f} {r['largest difference to the loops']:9.1e}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
