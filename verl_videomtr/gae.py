# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Credit assignment with two discounts: rewards at turn ends -> an advantage and a return for every token.

    turn level:   delta_k = r_k + gamma_turn * V(e_{k+1}) - V(e_k),  A_k = delta_k + gamma_turn * lam_turn * A_{k+1}
    token level:  GAE inside each turn alone, with the reward A_k + V(e_k) at the turn's end e_k

Three ways to give credit share their shapes: `bi_level_gae` (the default), `literal_gae` (the paper's sentence taken at
its word) and `plain_gae` (one level, for comparison); `assign_credit` picks one by name. All of them work
on the packed response tokens in float64, with no loop over rows or tokens, on the device of their inputs.

What counts as a response token is `turn_ids`, the episode's own record, never where a reward or the mask is non-zero:
- e_k is the last token with turn id k. A turn without reward, or one whose tokens were rejected, keeps its end.
- A token with a turn id but response_mask 0 was sampled and is not trained (rejection by rollout correction). It stays
  in the recursions, so that rejecting it changes no other token; its own results are 0 and it is no part of whitening.
- A token without a turn id (an observation within or between turns, padding) does not exist for the recursions.
- A turn number that no row holds (a response of no tokens, a lost row) still takes its discount: gamma_turn^2 lies
  between turns 0 and 2.

The example of `verl_videomtr.token_packing` (turn 0 = tokens a, b with reward .6; turn 1 = token c with reward 1.1;
V of a, b, c = .2, .3, .5), gamma_turn = .95, everything else 1:

    turns     A_1 = 1.1 - .5 = .6;  A_0 = (.6 + .95 * .5 - .3) + .95 * A_1 = .775 + .57 = 1.345
    tokens    turn 1 ends with A_1 + V(c) = 1.1, turn 0 with A_0 + V(b) = 1.645, in place of their rewards
    c         1.1 - .5 = .6;   b  1.645 - .3 = 1.345;   a  1.645 - .2 = 1.445   (return 1.645 = .6 + .95 * 1.1)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch

from verl_videomtr.credit import Credit
from verl_videomtr.token_packing import PackedTokens, Turns, pack, unpack

_BLOCK_DECAY = 2.0**-200
"""Over one block of `_decayed_cumsum`, weights fall to this; it keeps them far from float64's limits."""


@torch.no_grad()
def bi_level_gae(
    token_level_rewards: torch.Tensor,
    values: torch.Tensor,
    response_mask: torch.Tensor,
    turn_ids: torch.Tensor,
    *,
    trajectory_ids: torch.Tensor | Sequence[Hashable] | None = None,
    gamma_turn: float = 0.95,
    gamma_token: float = 1.0,
    lam_turn: float = 1.0,
    lam_token: float = 1.0,
    whiten: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute advantages and returns with one GAE over turns and one inside each turn.

    delta_k = r_k + gamma_turn * V(e_{k+1}) - V(e_k), V(e_{K+1}) = 0, r_k the reward on the token e_k;
    A_k = delta_k + gamma_turn * lam_turn * A_{k+1}. Inside turn k, GAE with gamma_token and lam_token over its tokens'
    rewards, with A_k + V(e_k) in place of the reward on e_k and nothing flowing in from the next turn. So at
    gamma_token = lam_token = lam_turn = 1 the return of a token in turn k is
    sum_{j>=k} gamma_turn^(j-k) r_j, plus the per-token rewards from that token to the end of its own turn.

    Args:
        token_level_rewards: (bs, response_length) float; turn rewards on turn ends, and any per-token KL penalty.
        values: (bs, response_length) float; the critic's V of each token.
        response_mask: (bs, response_length); 1 = a token that is trained, 0 = observation, rejected token or padding.
        turn_ids: (bs, response_length) int; number of the token's turn in its trajectory, -1 outside responses.
        trajectory_ids: (bs,) names the trajectory of each row, in any order; a turn lies in one row. None: each row
            is a trajectory of its own.
        gamma_turn: discount per turn.
        gamma_token: discount per token within a turn.
        lam_turn: GAE's lambda between turns.
        lam_token: GAE's lambda within a turn.
        whiten: shift and scale advantages to mean 0 and variance 1 over the trained tokens.
    Returns:
        (advantages, returns), each (bs, response_length), in the inputs' floating type; exactly 0 where response_mask
        is 0 and in rows without turns (padding). returns = advantages before whitening + values.
    Raises:
        ValueError: shapes differ, a trained token has no turn, a turn of one trajectory is in two rows or is split by
            another turn, or a discount is outside [0, 1].
    Source: arXiv 2508.20478v2, section 3.4, in the bi-level form of the framework that it was trained with.
    """
    _check_unit(gamma_turn=gamma_turn, gamma_token=gamma_token, lam_turn=lam_turn, lam_token=lam_token)
    tokens = pack(token_level_rewards, values, response_mask, turn_ids, trajectory_ids)
    turns = tokens.turns
    end_values = tokens.values[turns.ends]
    next_values = torch.where(turns.gaps > 0, end_values.roll(1), 0.0)
    deltas = tokens.rewards[turns.ends] + gamma_turn ** turns.gaps.double() * next_values - end_values
    turn_advantages = _turn_scan(deltas, turns, gamma_turn * lam_turn)
    return unpack(tokens, _gae_within_turns(tokens, turn_advantages + end_values, gamma_token, lam_token), whiten)


@torch.no_grad()
def literal_gae(
    token_level_rewards: torch.Tensor,
    values: torch.Tensor,
    response_mask: torch.Tensor,
    turn_ids: torch.Tensor,
    *,
    trajectory_ids: torch.Tensor | Sequence[Hashable] | None = None,
    accuracy_rewards: torch.Tensor | None = None,
    gamma_turn: float = 0.95,
    gamma_token: float = 1.0,
    lam_token: float = 1.0,
    whiten: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute advantages and returns as the paper's sentence has it: only the answer flows back over turns.

    The reward at the end of turn k < K is r_k + gamma_turn^(K-k) * R_acc, that of the last turn K is r_K; then GAE
    inside each turn alone.

    Args:
        accuracy_rewards: (bs,) R_acc of each row's trajectory. None takes the whole reward on the trajectory's last
            turn end for it, R_format^K included.
    Other arguments, results and errors: as in `bi_level_gae`.
    Source: arXiv 2508.20478v2, section 3.4. Departs from it: nowhere with `accuracy_rewards`.
    """
    _check_unit(gamma_turn=gamma_turn, gamma_token=gamma_token, lam_token=lam_token)
    tokens = pack(token_level_rewards, values, response_mask, turn_ids, trajectory_ids)
    turns = tokens.turns
    end_rewards = tokens.rewards[turns.ends]
    if accuracy_rewards is None:
        accuracy = end_rewards[turns.last]
    elif accuracy_rewards.shape == (len(values),):
        accuracy = accuracy_rewards.to(tokens.rewards)[turns.rows]
    else:
        raise ValueError(
            f"accuracy_rewards has shape {tuple(accuracy_rewards.shape)}; expected ({len(values)},); literal_gae"
        )
    turns_left = turns.numbers[turns.last] - turns.numbers
    flowing_back = torch.where(turns_left > 0, gamma_turn ** turns_left.double() * accuracy, 0.0)
    return unpack(tokens, _gae_within_turns(tokens, end_rewards + flowing_back, gamma_token, lam_token), whiten)


@torch.no_grad()
def plain_gae(
    token_level_rewards: torch.Tensor,
    values: torch.Tensor,
    response_mask: torch.Tensor,
    turn_ids: torch.Tensor,
    *,
    trajectory_ids: torch.Tensor | Sequence[Hashable] | None = None,
    gamma: float = 1.0,
    lam: float = 1.0,
    whiten: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute advantages and returns with one GAE over all response tokens of a trajectory, turn after turn.

    On one row per trajectory this is verl's own `gae`; turns in several rows are joined in their order.

    Args:
        gamma: discount per token.
        lam: GAE's lambda.
    Other arguments, results and errors: as in `bi_level_gae`.
    Source: arXiv 1506.02438, equation 16.
    """
    _check_unit(gamma=gamma, lam=lam)
    tokens = pack(token_level_rewards, values, response_mask, turn_ids, trajectory_ids)
    turns = tokens.turns
    # Join the turns of each trajectory, last to first; within a turn the tokens already stand last to first.
    first = turns.lengths.cumsum(0) - turns.lengths
    joined = torch.arange(len(tokens.values), device=values.device)
    joined += (turns.ends - first).repeat_interleave(turns.lengths)
    advantages = torch.empty_like(tokens.values)
    advantages[joined] = _gae(tokens.rewards[joined], tokens.values[joined], first[turns.gaps == 0], gamma, lam)
    return unpack(tokens, advantages, whiten)


def assign_credit(
    credit: Credit | str,
    token_level_rewards: torch.Tensor,
    values: torch.Tensor,
    response_mask: torch.Tensor,
    turn_ids: torch.Tensor,
    *,
    trajectory_ids: torch.Tensor | Sequence[Hashable] | None = None,
    accuracy_rewards: torch.Tensor | None = None,
    gamma_turn: float = 0.95,
    gamma_token: float = 1.0,
    lam_turn: float = 1.0,
    lam_token: float = 1.0,
    whiten: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute advantages and returns in the named way, with those of the arguments that it knows.

    "plain" takes gamma_token and lam_token for all tokens; only "literal" reads `accuracy_rewards`.
    """
    batch = (token_level_rewards, values, response_mask, turn_ids)
    if Credit(credit) is Credit.PLAIN:
        return plain_gae(*batch, trajectory_ids=trajectory_ids, gamma=gamma_token, lam=lam_token, whiten=whiten)
    if Credit(credit) is Credit.LITERAL:
        return literal_gae(
            *batch,
            trajectory_ids=trajectory_ids,
            accuracy_rewards=accuracy_rewards,
            gamma_turn=gamma_turn,
            gamma_token=gamma_token,
            lam_token=lam_token,
            whiten=whiten,
        )
    return bi_level_gae(
        *batch,
        trajectory_ids=trajectory_ids,
        gamma_turn=gamma_turn,
        gamma_token=gamma_token,
        lam_turn=lam_turn,
        lam_token=lam_token,
        whiten=whiten,
    )


def _turn_scan(deltas: torch.Tensor, turns: Turns, decay: float) -> torch.Tensor:
    """Solve A_k = delta_k + decay^(gap to the next turn) * A_next over every trajectory, by doubling the reach.

    A loop over turns would take a step on the device for each; here 8 turns take 3. With three turns, last to first,
    and decay d, `sums` holds

        reach 1    delta_2    delta_1                delta_0                             what each turn sees by itself
        reach 2    delta_2    delta_1 + d delta_2    delta_0 + d delta_1                 and one turn further
        reach 4    delta_2    delta_1 + d delta_2    delta_0 + d delta_1 + d^2 delta_2   and up to three further

    since adding the sum that stands `reach` places before, which itself reaches that far, doubles what is seen.

    Args:
        deltas: (num_turns,), in the order of `turns`: a trajectory's turns side by side, last to first.
    Returns:
        (num_turns,) A_k in the same order.
    """
    sums, reach = deltas, 1
    while reach < len(sums):
        # Side by side lie other trajectories' turns, too: nothing flows between them.
        same = turns.trajectories[reach:] == turns.trajectories[:-reach]
        if not bool(same.any()):
            break
        distance = torch.where(same, turns.numbers[:-reach] - turns.numbers[reach:], 0)
        further = torch.where(same, decay ** distance.double() * sums[:-reach], 0.0)
        sums = torch.cat([sums[:reach], sums[reach:] + further])
        reach *= 2
    return sums


def _gae_within_turns(tokens: PackedTokens, end_rewards: torch.Tensor, gamma: float, lam: float) -> torch.Tensor:
    """Run GAE inside each turn, with these rewards on the turn ends: (num_tokens,), in packed order."""
    rewards = tokens.rewards.index_copy(0, tokens.turns.ends, end_rewards)
    return _gae(rewards, tokens.values, tokens.turns.ends.sort().values, gamma, lam)


def _gae(rewards: torch.Tensor, values: torch.Tensor, starts: torch.Tensor, gamma: float, lam: float) -> torch.Tensor:
    """Run GAE over runs of tokens in reversed order: x_i = delta_i + gamma * lam * x_{i-1}, afresh at every start.

    A start is the last token of its run, with V = 0 behind it.

    Args:
        starts: (num_runs,) ascending; the first is 0.
    """
    decay = gamma * lam
    if decay == 1:
        # The values cancel: the return is the sum of the rewards to the end of the run.
        return _run_sums(rewards, starts, decay).sub_(values)
    deltas = rewards - values
    deltas[1:] += gamma * values[:-1]
    deltas[starts] = rewards[starts] - values[starts]
    return _run_sums(deltas, starts, decay) if decay else deltas


def _run_sums(x: torch.Tensor, starts: torch.Tensor, decay: float) -> torch.Tensor:
    """Compute y_i = x_i + decay * y_{i-1}, afresh at every start; overwrites x.

    A first pass runs over the starts. It tells what each run ends at by itself, and that, taken off where the next run
    starts, makes the second pass begin there afresh. With the runs (p) and (q, r):

        first pass     p    q + decay p    r + decay q + decay^2 p
        x              p    q - decay p    r                          the second run starts without what p leaves behind
        second pass    p    q              r + decay q

    Args:
        x: (num_tokens,), in packed order.
        starts: (num_runs,) ascending; where each run begins.
    """
    sums = _decayed_cumsum(x, decay)
    before = torch.where(starts > 0, sums[starts - 1], 0.0)
    # Of the sum before a start, what this run alone has gathered: the runs before it are taken out.
    last = before[1:] - decay ** torch.diff(starts).double() * before[:-1]
    x[starts[1:]] -= decay * last
    return _decayed_cumsum(x, decay)


def _decayed_cumsum(x: torch.Tensor, decay: float) -> torch.Tensor:
    """Compute y_i = x_i + decay * y_{i-1}.

    y_i = decay^i * cumsum(decay^-j x_j), in blocks so short that decay^-j stays finite and so long that what comes
    from before the previous block has decayed to nothing. Partial sums grow with the weights, so nothing cancels.
    """
    num = len(x)
    if decay == 1 or num == 0:
        return x.cumsum(0)
    block = min(num, max(1, math.floor(math.log(_BLOCK_DECAY) / math.log(decay))))
    weights = decay ** torch.arange(block, device=x.device, dtype=x.dtype)
    blocks = torch.nn.functional.pad(x, (0, -num % block)).view(-1, block)
    sums = (blocks / weights).cumsum(1) * weights
    sums[1:] += decay * weights * sums[:-1, -1:].clone()
    return sums.flatten()[:num]


def _check_unit(**discounts: float) -> None:
    for name, value in discounts.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}; expected a number in [0, 1]; credit assignment")
