# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A batch's response tokens side by side: padded rows -> packed tokens and turns, and results back into rows.

A row of a multi-turn batch is mostly observations and padding. Credit assignment works on the response tokens alone,
so it packs them once, in float64 and in reversed order, and puts its results back at the end. What counts as a response
token is `turn_ids`, the episode's own record; see `verl_videomtr.gae`.

One row, three tokens a, b, c in two turns, an observation "-" between them and padding "." behind:

    response         a  b  -  c  .        packed           c  b  a      (num_tokens,) = (3,), last token first
    turn_ids         0  0 -1  1 -1        positions        3  1  0      in the flattened batch
    values          .2 .3  0 .5  0        values          .5 .3 .2
    rewards          0 .6  0 1.1 0        rewards        1.1 .6  0

    turns            turn 1  turn 0       (num_turns,) = (2,), the trajectory's last turn first
    ends             0       1            where c and b, the turns' last tokens, stand among the packed ones
    lengths          1       2
    gaps             0       1            turn 0 is one turn before the next, turn 1 has none behind it
    last             0       0            the last turn of both is the one at position 0

In this order "the next token" and "the next turn" stand before each element, so every recursion runs forward.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

WHITEN_EPS = 1e-8
"""Added to the variance, as verl does."""


@dataclass(frozen=True)
class Turns:
    """The turns of a batch, those of one trajectory side by side from last to first; every field (num_turns,)."""

    ends: torch.Tensor
    """Position of e_k among the packed tokens."""
    lengths: torch.Tensor
    """Number of tokens."""
    rows: torch.Tensor
    """Row in the batch."""
    numbers: torch.Tensor
    """Number of the turn in its trajectory."""
    trajectories: torch.Tensor
    """Number of the trajectory."""
    gaps: torch.Tensor
    """Turns from this one to the next of its trajectory, 1 if none is missing; 0 for the last turn."""
    last: torch.Tensor
    """Position in these fields of the trajectory's last turn."""


@dataclass(frozen=True)
class PackedTokens:
    """The response tokens of a batch, packed in reversed order, so that every recursion runs forward."""

    positions: torch.Tensor
    """(num_tokens,) position in the flattened batch."""
    rewards: torch.Tensor
    """(num_tokens,) float64."""
    values: torch.Tensor
    """(num_tokens,) float64."""
    is_trained: torch.Tensor | None
    """(num_tokens,) bool; None where all are."""
    turns: Turns
    shape: torch.Size
    """(bs, response_length)"""
    dtype: torch.dtype
    """Of the results."""


def pack(
    token_level_rewards: torch.Tensor,
    values: torch.Tensor,
    response_mask: torch.Tensor,
    turn_ids: torch.Tensor,
    trajectory_ids: torch.Tensor | Sequence[Hashable] | None,
) -> PackedTokens:
    """Check a batch and gather its response tokens."""
    shapes = [tuple(x.shape) for x in (token_level_rewards, values, response_mask, turn_ids)]
    if len(set(shapes)) != 1 or values.dim() != 2:
        raise ValueError(
            f"token_level_rewards, values, response_mask, turn_ids have shapes {shapes}; "
            "expected one shape (bs, response_length); credit assignment"
        )
    positions = (turn_ids >= 0).flatten().nonzero().squeeze(1)
    # Where each row begins among the tokens; dividing every position by the width would cost as much as all the rest.
    row_starts = torch.searchsorted(positions, torch.arange(len(values) + 1, device=values.device) * values.shape[1])
    positions = positions.flip(0)
    is_trained = response_mask.flatten().index_select(0, positions) != 0
    num_trained = int(torch.count_nonzero(is_trained))
    if num_trained != int(torch.count_nonzero(response_mask)):
        _check_mask(response_mask, row_starts.diff() > 0, num_trained)
    dtype = torch.promote_types(token_level_rewards.dtype, values.dtype)
    return PackedTokens(
        positions=positions,
        rewards=token_level_rewards.flatten().index_select(0, positions).double(),
        values=values.flatten().index_select(0, positions).double(),
        is_trained=None if num_trained == len(positions) else is_trained,
        turns=_find_turns(
            turn_ids.flatten().index_select(0, positions), row_starts, _trajectory_numbers(trajectory_ids, turn_ids)
        ),
        shape=values.shape,
        dtype=dtype if dtype.is_floating_point else torch.float32,
    )


def unpack(tokens: PackedTokens, advantages: torch.Tensor, whiten: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Whiten, and put the trained tokens' results where the tokens stand."""
    positions, values = tokens.positions, tokens.values
    if tokens.is_trained is not None:
        positions, values, advantages = (x[tokens.is_trained] for x in (positions, values, advantages))
    returns = advantages + values
    if whiten and len(advantages):
        advantages = advantages.sub_(advantages.mean())
        variance = advantages.dot(advantages) / max(1, len(advantages) - 1)
        advantages.mul_(torch.rsqrt(variance + WHITEN_EPS))
    results = torch.zeros((2, tokens.shape.numel()), dtype=tokens.dtype, device=values.device)
    for result, chosen in zip(results, (advantages, returns), strict=True):
        result.index_copy_(0, positions, chosen.to(tokens.dtype))
    return results[0].view(tokens.shape), results[1].view(tokens.shape)


def _find_turns(token_turns: torch.Tensor, row_starts: torch.Tensor, trajectory_of_row: torch.Tensor) -> Turns:
    """Find the turns among packed tokens: runs of one turn number in one row.

    Args:
        token_turns: (num_tokens,) turn number of each token, in reversed order.
        row_starts: (bs + 1,) where each row begins among the tokens in their own order, and where the last one ends.
        trajectory_of_row: (bs,)
    """
    num_tokens = len(token_turns)
    starts_run = torch.ones_like(token_turns, dtype=torch.bool)
    torch.ne(token_turns[1:], token_turns[:-1], out=starts_run[1:])
    # A row's last token stands first in reversed order, behind the first token of the next row with tokens.
    starts_run[num_tokens - row_starts[row_starts > 0]] = True
    ends = starts_run.nonzero().squeeze(1)
    lengths = torch.diff(ends, append=ends.new_tensor([num_tokens]))
    rows = torch.searchsorted(row_starts, num_tokens - 1 - ends, right=True) - 1
    numbers, trajectories = token_turns[ends].long(), trajectory_of_row[rows]
    # By trajectory, and in it from the last turn to the first: the second sort is stable and keeps the first's order.
    order = numbers.argsort(descending=True, stable=True)
    order = order[trajectories[order].argsort(stable=True)]
    ends, lengths, rows, numbers, trajectories = (x[order] for x in (ends, lengths, rows, numbers, trajectories))
    has_next = torch.zeros_like(ends, dtype=torch.bool)
    has_next[1:] = trajectories[1:] == trajectories[:-1]
    gaps = torch.where(has_next, numbers.roll(1) - numbers, 0)
    if bool((has_next & (gaps == 0)).any()):
        twice = int((has_next & (gaps == 0)).nonzero()[0])
        raise ValueError(
            f"turn {int(numbers[twice])} of the trajectory of row {int(rows[twice])} appears twice; "
            "expected each turn once, as one run in one row; turn_ids and trajectory_ids; "
            "give rows of different trajectories different ids"
        )
    return Turns(
        ends=ends,
        lengths=lengths,
        rows=rows,
        numbers=numbers,
        trajectories=trajectories,
        gaps=gaps,
        # A trajectory's last turn writes its own position, all others 0; the running maximum carries it to them.
        last=torch.where(has_next, 0, torch.arange(len(ends), device=ends.device)).cummax(0).values,
    )


def _trajectory_numbers(
    trajectory_ids: torch.Tensor | Sequence[Hashable] | None, turn_ids: torch.Tensor
) -> torch.Tensor:
    """(bs,) the trajectory of each row as a number."""
    num_rows, device = len(turn_ids), turn_ids.device
    if trajectory_ids is None:
        return torch.arange(num_rows, device=device)
    if len(trajectory_ids) != num_rows:
        raise ValueError(f"{len(trajectory_ids)} trajectory_ids; expected one for each of the {num_rows} rows")
    names = trajectory_ids.tolist() if isinstance(trajectory_ids, torch.Tensor) else list(trajectory_ids)
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in names], dtype=torch.long, device=device)


def _check_mask(response_mask: torch.Tensor, has_turns: torch.Tensor, num_trained: int) -> None:
    """Refuse trained tokens without a turn, except in rows without turns, which are padding."""
    num_outside = int(torch.count_nonzero(response_mask[has_turns])) - num_trained
    if num_outside:
        raise ValueError(
            f"{num_outside} tokens have response_mask 1 and turn id -1; expected every trained token "
            "to belong to a turn; turn_ids; number the tokens from the episode's record"
        )
