"""Credit assignment: hand examples, laws against plain loops and verl's own GAE, errors."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videomtr.gae import bi_level_gae


def loop_bi_level(rewards, values, turn_ids, trajectory_ids, gamma_turn, gamma_token, lam_turn, lam_token):
    """The specification, word by word, in Python floats: advantages before whitening, of every response token."""
    advantages = torch.zeros(rewards.shape, dtype=torch.float64)
    by_trajectory: dict = {}
    for row, name in enumerate(trajectory_ids):
        for column, turn in enumerate(turn_ids[row].tolist()):
            if turn >= 0:
                by_trajectory.setdefault(name, {}).setdefault(turn, []).append((row, column))
    for turns in by_trajectory.values():
        later_number, later_value, later_advantage = None, 0.0, 0.0
        for number in sorted(turns, reverse=True):
            end = turns[number][-1]
            value, gap = float(values[end]), 0 if later_number is None else later_number - number
            delta = float(rewards[end]) + gamma_turn**gap * later_value - value
            turn_advantage = delta + (gamma_turn * lam_turn) ** gap * later_advantage
            next_value, running = 0.0, 0.0
            for token in reversed(turns[number]):
                reward = turn_advantage + value if token == end else float(rewards[token])
                running = reward + gamma_token * next_value - float(values[token]) + gamma_token * lam_token * running
                next_value = float(values[token])
                advantages[token] = running
            later_number, later_value, later_advantage = number, value, turn_advantage
    return advantages


def whitened(advantages, mask):
    """verl's masked_whiten in float64, zero outside."""
    chosen = advantages[mask]
    out = torch.zeros_like(advantages)
    out[mask] = (chosen - chosen.mean()) * torch.rsqrt(chosen.var(unbiased=True) + 1e-8)
    return out


@st.composite
def batches(draw):
    """Random batches: turns of 1 to 6 tokens between gaps of 0 to 3, several rows per trajectory, holes, rejections."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    num_rows, width = draw(st.integers(1, 7)), draw(st.integers(1, 40))
    num_trajectories = draw(st.integers(1, num_rows))
    turn_ids = torch.full((num_rows, width), -1)
    trajectory_ids = torch.randint(0, num_trajectories, (num_rows,), generator=generator).tolist()
    next_turn = dict.fromkeys(trajectory_ids, 0)
    for row in torch.randperm(num_rows, generator=generator).tolist():
        if draw(st.integers(0, 5)) == 0:
            continue
        column = int(torch.randint(0, 4, (1,), generator=generator))
        while column < width:
            length = int(torch.randint(1, 7, (1,), generator=generator))
            turn_ids[row, column : column + length] = next_turn[trajectory_ids[row]]
            next_turn[trajectory_ids[row]] += int(torch.randint(1, 3, (1,), generator=generator))
            column += length + int(torch.randint(0, 4, (1,), generator=generator))
    turn_ids[torch.rand(turn_ids.shape, generator=generator) < 0.1] = -1
    mask = (turn_ids >= 0) & (torch.rand(turn_ids.shape, generator=generator) > 0.1)
    rewards, values = torch.randn((2, num_rows, width), generator=generator)
    return rewards, values, mask, turn_ids, trajectory_ids


unit = st.sampled_from([0.0, 0.3, 0.95, 0.999, 1.0]) | st.floats(0, 1)


@settings(max_examples=150, deadline=None)
@given(batch=batches(), gamma_turn=unit, gamma_token=unit, lam_turn=unit, lam_token=unit)
def test_equals_a_plain_loop_written_from_the_equations(batch, gamma_turn, gamma_token, lam_turn, lam_token):
    rewards, values, mask, turn_ids, trajectory_ids = batch
    discounts = {
        "gamma_turn": gamma_turn,
        "gamma_token": gamma_token,
        "lam_turn": lam_turn,
        "lam_token": lam_token,
    }
    advantages, returns = bi_level_gae(
        rewards, values, mask, turn_ids, trajectory_ids=trajectory_ids, whiten=False, **discounts
    )
    expected = loop_bi_level(rewards, values, turn_ids, trajectory_ids, **discounts)
    assert advantages.dtype == torch.float32
    torch.testing.assert_close(advantages.double(), expected * mask, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(returns.double(), (expected + values) * mask, rtol=1e-5, atol=1e-5)
    if mask.sum() > 2:
        advantages, _ = bi_level_gae(rewards, values, mask, turn_ids, trajectory_ids=trajectory_ids, **discounts)
        torch.testing.assert_close(advantages.double(), whitened(expected, mask), rtol=1e-4, atol=1e-5)
