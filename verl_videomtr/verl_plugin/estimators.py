# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The advantage estimator `bi_level_gae`, as verl calls it.

verl hands a registered estimator the rewards and the mask only. The critic's values, the turns and the bonus reach it
through `BatchContext`, which the plugin's trainer modes open around verl's own `_compute_advantage`.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from verl.trainer.ppo.core_algos import register_adv_est

from verl_videomtr.credit import CreditConfig
from verl_videomtr.gae import assign_credit
from verl_videomtr.verl_plugin.batch_rows import TrajectoryRow


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchContext:
    """What an estimator needs of the step's batch beside verl's arguments; rows in the batch's order."""

    values: torch.Tensor
    """(bs, response_length) the critic's values."""
    turn_ids: torch.Tensor
    """(bs, response_length) the turn's number in its trajectory on its response tokens, -1 elsewhere."""
    trajectory_ids: torch.Tensor
    """(bs,) equal for rows of one trajectory."""
    bonus: torch.Tensor
    """(bs, response_length) exploration bonus, at the last token of a retrieval's turn."""
    accuracy_rewards: torch.Tensor
    """(bs,) R_acc of the row's trajectory; the literal form alone reads it."""
    credit: CreditConfig


def make_batch_context(
    rows: Sequence[TrajectoryRow], *, keys: Sequence[str], values: torch.Tensor, bonus: float, credit: CreditConfig
) -> BatchContext:
    """Lay the records of a batch's rows out as tensors.

    Args:
        rows: the rows that are no padding, in any order.
        keys: verl's key of every row of the batch, `{uid}_{session}_{row number}`.
        values: (bs, response_length) the critic's values.
        bonus: exploration bonus of every retrieval that brought frames back.
    """
    turn_ids = torch.full(values.shape, -1, dtype=torch.long)
    bonus_tokens = torch.zeros(values.shape, dtype=torch.float32)
    accuracy = torch.zeros(len(values), dtype=torch.float32)
    for row in rows:
        trajectory = row.trajectory
        accuracy[row.place] = trajectory.components.get("acc", float(trajectory.correct))
        for turn, (number, (start, end)) in enumerate(zip(trajectory.turn_rows, trajectory.turn_spans, strict=True)):
            if number != row.number:
                continue
            turn_ids[row.place, start:end] = turn
            if end > start and trajectory.earns_bonus(turn):
                bonus_tokens[row.place, end - 1] = bonus
    names: dict[str, int] = {}
    trajectory_ids = [names.setdefault(key.rsplit("_", 1)[0], len(names)) for key in keys]
    return BatchContext(
        values=values,
        turn_ids=turn_ids,
        trajectory_ids=torch.tensor(trajectory_ids),
        bonus=bonus_tokens,
        accuracy_rewards=accuracy,
        credit=credit,
    )


_batch: contextvars.ContextVar[BatchContext | None] = contextvars.ContextVar("videomtr_batch", default=None)


@contextlib.contextmanager
def batch_context(context: BatchContext) -> Iterator[None]:
    """Make a batch known to the estimators called inside."""
    token = _batch.set(context)
    try:
        yield
    finally:
        _batch.reset(token)


@register_adv_est("bi_level_gae")
def bi_level_gae_estimator(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, config: Any = None, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the advantages of the step's trajectories in the form of `videomtr.credit`; see `verl_videomtr.gae`.

    Args:
        token_level_rewards: (bs, response_length); the turns' rewards, and KL penalties where verl adds them.
        response_mask: (bs, response_length); rejection sampling may have cleared parts of it.
    Returns:
        advantages (whitened) and returns, each (bs, response_length).
    Raises:
        RuntimeError: the trainer mode is not one of the plugin's, so the critic's values are out of reach.
    """
    context = _batch.get()
    if context is None:
        raise RuntimeError(
            "algorithm.adv_estimator=bi_level_gae got no critic values, which verl hands to no registered estimator; "
            "expected one of the plugin's trainer modes; set trainer.v1.trainer_mode=video_mtr_sync"
        )
    return assign_credit(
        context.credit.form,
        token_level_rewards + context.bonus.to(token_level_rewards),
        context.values.to(token_level_rewards),
        response_mask,
        context.turn_ids.to(response_mask.device),
        trajectory_ids=context.trajectory_ids.to(response_mask.device),
        accuracy_rewards=context.accuracy_rewards.to(token_level_rewards),
        gamma_turn=context.credit.gamma_turn,
        gamma_token=context.credit.gamma_token,
        lam_turn=context.credit.lam_turn,
        lam_token=context.credit.lam_token,
    )
