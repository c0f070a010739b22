# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Credit assignment: hand examples, laws against plain loops and verl's own GAE, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videomtr.gae import assign_credit, bi_level_gae, literal_gae, plain_gae


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


@settings(max_examples=60, deadline=None)
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
        assert (advantages[~mask] == 0).all()
        torch.testing.assert_close(advantages.double(), whitened(expected, mask), rtol=1e-4, atol=1e-5)


def make_batch(*rows, seed=0):
    """Rows as strings: a digit is a token of that turn, "." none, "x" a rejected token of the turn before it."""
    width = max(len(row) for row in rows)
    turn_ids = torch.full((len(rows), width), -1)
    mask = torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        for j, char in enumerate(row):
            if char != ".":
                turn_ids[i, j] = turn_ids[i, j - 1] if char == "x" else int(char)
                mask[i, j] = char != "x"
    rewards, values = torch.randn((2, len(rows), width), generator=torch.Generator().manual_seed(seed))
    return rewards, values, mask, turn_ids


def is_turn_end(turn_ids):
    following = torch.nn.functional.pad(turn_ids, (0, 1), value=-1)[:, 1:]
    return (turn_ids >= 0) & (turn_ids != following)


def test_hand_example():
    # One trajectory, two turns of two tokens: |a b . c d|, rewards 0.6 on b and 1.1 on d.
    turn_ids = torch.tensor([[0, 0, -1, 1, 1]])
    mask = (turn_ids >= 0).long()
    rewards = torch.tensor([[0.0, 0.6, 0.0, 0.0, 1.1]])
    values = torch.tensor([[0.5, 0.4, 9.0, 0.3, 0.2]])
    advantages, returns = bi_level_gae(rewards, values, mask, turn_ids, whiten=False)
    # A_1 = 1.1 - 0.2 = 0.9.  A_0 = 0.6 + 0.95 * 0.2 - 0.4 + 0.95 * 0.9 = 1.245.
    # Targets: A_1 + 0.2 = 1.1 and A_0 + 0.4 = 1.645 = 0.6 + 0.95 * 1.1, the discounted return.
    torch.testing.assert_close(returns, torch.tensor([[1.645, 1.645, 0.0, 1.1, 1.1]]))
    torch.testing.assert_close(advantages, torch.tensor([[1.145, 1.245, 0.0, 0.8, 0.9]]))
    # With lam_turn = 0: A_0 = 0.6 + 0.19 - 0.4 = 0.39. With lam_token = 0, token a sees V(b) - V(a) alone.
    advantages, _ = bi_level_gae(rewards, values, mask, turn_ids, lam_turn=0.0, lam_token=0.0, whiten=False)
    torch.testing.assert_close(advantages, torch.tensor([[-0.1, 0.39, 0.0, -0.1, 0.9]]))
    # The paper's sentence with R_acc = 1: the end of turn 0 gets 0.6 + 0.95 * 1, that of turn 1 its own 1.1.
    _, returns = literal_gae(rewards, values, mask, turn_ids, accuracy_rewards=torch.tensor([1.0]), whiten=False)
    torch.testing.assert_close(returns, torch.tensor([[1.55, 1.55, 0.0, 1.1, 1.1]]))
    # Without R_acc the whole of 1.1 flows back.
    _, returns = literal_gae(rewards, values, mask, turn_ids, whiten=False)
    torch.testing.assert_close(returns, torch.tensor([[1.645, 1.645, 0.0, 1.1, 1.1]]))


def test_literal_lets_only_the_answer_flow_back():
    # Three turns; a retrieval reward of turn 1 reaches turn 0 under bi_level_gae and not under literal_gae.
    turn_ids = torch.tensor([[0, 1, 2]])
    rewards = torch.tensor([[0.1, 0.6, 1.1]])
    zeros, mask = torch.zeros(1, 3), torch.ones(1, 3)
    _, literal = literal_gae(rewards, zeros, mask, turn_ids, accuracy_rewards=torch.tensor([1.0]), whiten=False)
    torch.testing.assert_close(literal, torch.tensor([[0.1 + 0.95**2, 0.6 + 0.95, 1.1]]))
    _, bi_level = bi_level_gae(rewards, zeros, mask, turn_ids, whiten=False)
    torch.testing.assert_close(bi_level, torch.tensor([[0.1 + 0.95 * 0.6 + 0.95**2 * 1.1, 0.6 + 0.95 * 1.1, 1.1]]))


@pytest.mark.parametrize("gamma", [1.0, 0.97])
@pytest.mark.parametrize("lam", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("whiten", [True, False])
def test_one_turn_equals_verls_own_gae(gamma, lam, whiten):
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    rewards, values, mask, turn_ids = make_batch("..000.00..", "0000000000", ".00.......", "0.0.0.0...")
    expected, expected_returns = core_algos.compute_gae_advantage_return(rewards, values, mask, gamma, lam)
    if not whiten:
        expected = expected_returns - values
    ours = bi_level_gae(rewards, values, mask, turn_ids, gamma_token=gamma, lam_token=lam, whiten=whiten)
    plain = plain_gae(rewards, values, mask, turn_ids, gamma=gamma, lam=lam, whiten=whiten)
    for advantages, returns in (ours, plain):
        torch.testing.assert_close(advantages, expected * mask, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(returns, expected_returns * mask, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.99, 0.95)])
def test_plain_equals_verls_own_gae_over_turns(gamma, lam):
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    rewards, values, mask, turn_ids = make_batch("00..111..22", "0.1.2.3.4.5", "...........", ".000000....")
    expected, expected_returns = core_algos.compute_gae_advantage_return(rewards, values, mask, gamma, lam)
    advantages, returns = plain_gae(rewards, values, mask, turn_ids, gamma=gamma, lam=lam)
    torch.testing.assert_close(advantages, expected * mask, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(returns, expected_returns * mask, rtol=1e-5, atol=1e-5)


def test_whitening_equals_verls():
    verl_functional = pytest.importorskip("verl.utils.torch_functional")
    rewards, values, mask, turn_ids = make_batch("00..111..22", "0x.1.2.3x4.5", ".....")
    raw, _ = bi_level_gae(rewards, values, mask, turn_ids, whiten=False)
    ours, _ = bi_level_gae(rewards, values, mask, turn_ids)
    torch.testing.assert_close(ours, verl_functional.masked_whiten(raw, mask) * mask, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gamma_turn", [0.0, 0.5, 0.95, 1.0])
def test_closed_form_with_every_lambda_one(gamma_turn):
    rewards, values, mask, turn_ids = make_batch("00..111..22.33", "0.1.2.........", seed=3)
    rewards = rewards * is_turn_end(turn_ids)
    _, returns = bi_level_gae(rewards, values, mask, turn_ids, gamma_turn=gamma_turn, whiten=False)
    for row in range(2):
        ends = [(int(turn_ids[row, t]), float(rewards[row, t])) for t in is_turn_end(turn_ids)[row].nonzero().flatten()]
        for column in (turn_ids[row] >= 0).nonzero().flatten():
            k = int(turn_ids[row, column])
            expected = sum(gamma_turn ** (j - k) * reward for j, reward in ends if j >= k)
            assert float(returns[row, column]) == pytest.approx(expected, abs=1e-6)


def test_kl_in_the_reward_stays_in_its_own_turn():
    rewards, values, mask, turn_ids = make_batch("00..111..22")
    shaped = rewards.clone()
    shaped[0, 5] -= 0.25  # the middle token of turn 1
    before, _ = bi_level_gae(rewards, values, mask, turn_ids, whiten=False)
    after, _ = bi_level_gae(shaped, values, mask, turn_ids, whiten=False)
    expected = before.clone()
    expected[0, 4:6] -= 0.25
    torch.testing.assert_close(after, expected)


def test_a_turn_with_zero_reward_keeps_its_boundary():
    turn_ids = torch.tensor([[0, 0, 1, 1, 2, 2]])
    rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    values, mask = torch.full((1, 6), 0.3), torch.ones(1, 6)
    _, returns = bi_level_gae(rewards, values, mask, turn_ids, whiten=False)
    torch.testing.assert_close(returns, torch.tensor([[0.9025, 0.9025, 0.95, 0.95, 1.0, 1.0]]))
    nothing, _ = bi_level_gae(torch.zeros(1, 6), torch.zeros(1, 6), mask, turn_ids)
    assert (nothing == 0).all()


def test_a_missing_turn_still_takes_its_discount():
    turn_ids = torch.tensor([[0, 2]])
    rewards, mask = torch.tensor([[0.0, 1.0]]), torch.ones(1, 2)
    values = torch.tensor([[0.2, 0.4]])
    _, returns = bi_level_gae(rewards, values, mask, turn_ids, whiten=False)
    torch.testing.assert_close(returns, torch.tensor([[0.9025, 1.0]]))
    advantages, _ = bi_level_gae(rewards, values, mask, turn_ids, lam_turn=0.0, whiten=False)
    torch.testing.assert_close(advantages, torch.tensor([[0.9025 * 0.4 - 0.2, 0.6]]))


VARIANTS = [
    lambda *batch, **names: bi_level_gae(*batch, lam_turn=0.9, lam_token=0.95, gamma_token=0.99, **names),
    lambda *batch, **names: literal_gae(*batch, gamma_token=0.99, lam_token=0.95, **names),
    lambda *batch, **names: plain_gae(*batch, gamma=0.99, lam=0.95, **names),
]
variants = pytest.mark.parametrize("variant", VARIANTS, ids=["bi_level", "literal", "plain"])


@variants
def test_padding_changes_nothing(variant):
    rewards, values, mask, turn_ids = make_batch("00..111..22", "0.1.2......")
    advantages, returns = variant(rewards, values, mask, turn_ids)
    wide = [torch.nn.functional.pad(x, (3, 5, 0, 2), value=7.0) for x in (rewards, values)]
    wide += [torch.nn.functional.pad(mask, (3, 5)), torch.nn.functional.pad(turn_ids, (3, 5), value=-1)]
    # Two rows without turns: garbage for rewards and values, and a mask of ones, as copies of real rows have.
    wide[2] = torch.nn.functional.pad(wide[2], (0, 0, 0, 2), value=1.0)
    wide[3] = torch.nn.functional.pad(wide[3], (0, 0, 0, 2), value=-1)
    wide[1][2:] = float("nan")
    wide_advantages, wide_returns = variant(*wide)
    torch.testing.assert_close(wide_advantages[:2, 3:14], advantages)
    torch.testing.assert_close(wide_returns[:2, 3:14], returns)
    for result in (wide_advantages, wide_returns):
        outside = torch.ones_like(result, dtype=torch.bool)
        outside[:2, 3:14] = wide[3][:2, 3:14] < 0
        assert (result[outside] == 0).all()


@variants
def test_batch_order_changes_nothing(variant):
    batch = make_batch("00..111..22", "0.1.2......", "...........", "000000000.1", "0..........")
    order = torch.tensor([3, 0, 4, 2, 1])
    for before, after in zip(variant(*batch), variant(*(x[order] for x in batch)), strict=True):
        torch.testing.assert_close(after, before[order])


@variants
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_splitting_a_trajectory_over_rows_changes_nothing(variant, order):
    rewards, values, mask, turn_ids = make_batch("00..111..22", ".00000..111")
    advantages, returns = variant(rewards, values, mask, turn_ids)
    # Row 0's three turns go to rows 0, 1 and 2 (as a sliding window has them), row 1 stays whole.
    source = torch.tensor([0, 0, 0, 1])
    split_ids = turn_ids[source].clone()
    for row in range(3):
        split_ids[row][split_ids[row] != row] = -1
    split_mask = mask[source] * (split_ids >= 0)
    split = [rewards[source], values[source], split_mask, split_ids]
    names = ["a", "a", "a", "b"]
    split_advantages, split_returns = variant(*(x[order] for x in split), trajectory_ids=[names[i] for i in order])
    back = torch.tensor(order).argsort()
    for whole, parts in ((advantages, split_advantages[back]), (returns, split_returns[back])):
        torch.testing.assert_close(parts[:3].sum(0), whole[0])
        torch.testing.assert_close(parts[3], whole[1])


def test_trajectory_ids_may_be_a_tensor_or_names():
    batch = make_batch("00.", "11.", "000")
    by_name = bi_level_gae(*batch, trajectory_ids=["x", "x", "y"])
    by_number = bi_level_gae(*batch, trajectory_ids=torch.tensor([7, 7, 2]))
    torch.testing.assert_close(by_name, by_number, rtol=0, atol=0)


@variants
def test_observations_inside_a_turn_do_not_exist(variant):
    rewards, values, mask, turn_ids = make_batch("00.0..111")
    kept = turn_ids[0] >= 0
    dense = variant(*(x[:, kept] for x in (rewards, values, mask, turn_ids)))
    holed = variant(rewards, values, mask, turn_ids)
    for with_holes, without in zip(holed, dense, strict=True):
        torch.testing.assert_close(with_holes[:, kept], without)


@variants
def test_rejecting_a_token_changes_no_other(variant):
    kept = make_batch("000.111.22", seed=5)
    rejected = make_batch("00x.1x1.2x", seed=5)  # turn ends among them
    before, after = variant(*kept, whiten=False), variant(*rejected, whiten=False)
    trained = rejected[2] > 0
    for whole, part in zip(before, after, strict=True):
        torch.testing.assert_close(part[trained], whole[trained])
        assert (part[~trained] == 0).all()
    whitened_part, _ = variant(*rejected)
    chosen = whitened_part[trained]
    assert float(chosen.mean()) == pytest.approx(0, abs=1e-6)
    assert float(chosen.std()) == pytest.approx(1, abs=1e-5)


@variants
def test_small_batches_are_handled_plainly(variant):
    # One trained token has no spread to scale by: its advantage is 0, its return stays.
    one = variant(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[0.25, 0.0]]), torch.tensor([[1, 0]]), torch.tensor([[0, -1]])
    )
    assert one[0].tolist() == [[0.0, 0.0]]
    assert one[1].tolist() == [[1.0, 0.0]]
    for shape in ((3, 4), (0, 4), (3, 0)):
        empty = torch.zeros(shape)
        for result in variant(empty, empty, empty, torch.full(shape, -1)):
            assert result.shape == shape
            assert (result == 0).all()


@variants
def test_inputs_are_not_changed_and_types_are_kept(variant):
    rewards, values, mask, turn_ids = make_batch("00..1x1..22", "0.1.2......")
    copies = [x.clone() for x in (rewards, values, mask, turn_ids)]
    reference = variant(rewards, values, mask, turn_ids)
    for before, after in zip(copies, (rewards, values, mask, turn_ids), strict=True):
        assert torch.equal(before, after)
    for dtype in (torch.float64, torch.bfloat16):
        for result, expected in zip(
            variant(rewards, values.to(dtype), mask.bool(), turn_ids.int()), reference, strict=True
        ):
            assert result.dtype == torch.promote_types(torch.float32, dtype)
            assert torch.isfinite(result).all()
            torch.testing.assert_close(result.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@variants
def test_cuda_gives_what_the_cpu_gives(variant):
    batch = make_batch("00..1x1..22", "0.1.2......", "...........")
    on_gpu = variant(*(x.cuda() for x in batch))
    for expected, result in zip(variant(*batch), on_gpu, strict=True):
        assert result.is_cuda
        torch.testing.assert_close(result.cpu(), expected)


def test_assign_credit_names_the_three():
    batch = make_batch("00..11.22", "0.0.1.1..")
    accuracy = torch.tensor([1.0, 0.0])
    options = {"gamma_turn": 0.9, "gamma_token": 0.99, "lam_turn": 0.8, "lam_token": 0.7, "accuracy_rewards": accuracy}
    expected = {
        "bi_level": bi_level_gae(*batch, gamma_turn=0.9, gamma_token=0.99, lam_turn=0.8, lam_token=0.7),
        "literal": literal_gae(*batch, accuracy_rewards=accuracy, gamma_turn=0.9, gamma_token=0.99, lam_token=0.7),
        "plain": plain_gae(*batch, gamma=0.99, lam=0.7),
    }
    for name, results in expected.items():
        torch.testing.assert_close(assign_credit(name, *batch, **options), results, rtol=0, atol=0)
    assert not torch.allclose(expected["bi_level"][0], expected["literal"][0])
    with pytest.raises(ValueError, match="'grpo' is not a valid Credit"):
        assign_credit("grpo", *batch)


def test_long_turns_stay_exact_in_float32():
    # 200,000 tokens in one turn, float32 inputs: against the same sum in float64, for slow and fast decay.
    num = 200_000
    rewards, values = torch.randn((2, 1, num), generator=torch.Generator().manual_seed(1))
    turn_ids, mask = torch.zeros(1, num, dtype=torch.long), torch.ones(1, num)
    for decay in (1.0, 0.9999, 0.5, 1e-70):
        advantages, _ = bi_level_gae(rewards, values, mask, turn_ids, lam_token=decay, whiten=False)
        running, expected, next_value = 0.0, [], 0.0
        for reward, value in zip(reversed(rewards[0].tolist()), reversed(values[0].tolist()), strict=True):
            running = reward + next_value - value + decay * running
            next_value = value
            expected.append(running)
        expected = torch.tensor(expected[::-1], dtype=torch.float64)
        torch.testing.assert_close(advantages[0].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("decay", [0.9999, 0.999, 0.9])
def test_many_long_turns_stay_exact(decay):
    # What flows in over a turn's end is taken off again: that must not cost precision, however long the turns.
    generator = torch.Generator().manual_seed(2)
    turn_ids = torch.arange(4).repeat_interleave(torch.tensor([3000, 1, 5000, 2000])).repeat(3, 1)
    rewards, values = torch.randn((2, *turn_ids.shape), generator=generator)
    options = {"gamma_turn": 0.95, "gamma_token": decay, "lam_turn": 0.97, "lam_token": 1.0}
    advantages, _ = bi_level_gae(rewards, values + 5, turn_ids >= 0, turn_ids, whiten=False, **options)
    expected = loop_bi_level(rewards, values + 5, turn_ids, [0, 1, 2], **options)
    torch.testing.assert_close(advantages.double(), expected, rtol=2e-7, atol=2e-6)


@variants
def test_a_trained_token_without_a_turn_is_an_error(variant):
    rewards, values, mask, turn_ids = make_batch("00..11")
    mask[0, 2] = 1
    with pytest.raises(ValueError, match="1 tokens have response_mask 1 and turn id -1"):
        variant(rewards, values, mask, turn_ids)


@pytest.mark.parametrize("rows", [("00.11", "11..."), ("0.1.0",), ("00.00", "0....")])
def test_a_turn_that_appears_twice_is_an_error(rows):
    batch = make_batch(*rows)
    if rows == ("00.00", "0...."):
        assert bi_level_gae(*batch)[0].shape == (2, 5)  # rows of their own, and an observation is no second turn
    with pytest.raises(ValueError, match="appears twice"):
        bi_level_gae(*batch, trajectory_ids=[0] * len(rows))


def test_wrong_arguments_are_errors():
    batch = make_batch("00.11")
    with pytest.raises(ValueError, match="expected one shape"):
        bi_level_gae(batch[0][:, :3], *batch[1:])
    with pytest.raises(ValueError, match=r"lam_token=1.5; expected a number in \[0, 1\]"):
        bi_level_gae(*batch, lam_token=1.5)
    with pytest.raises(ValueError, match="2 trajectory_ids; expected one for each of the 1 rows"):
        bi_level_gae(*batch, trajectory_ids=["a", "b"])
    with pytest.raises(ValueError, match=r"accuracy_rewards has shape \(2,\)"):
        literal_gae(*batch, accuracy_rewards=torch.ones(2))
