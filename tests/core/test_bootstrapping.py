# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The exploration schedule: stages, the unbroken run, the cap, the end, and resuming."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_videomtr.bootstrapping import BootstrapConfig, ExplorationBootstrap, RateOf, Stage, count_batch

TABLE = [
    # what happens, K_max, [(retrievals, turns, bonus, stage after)]
    ("cold start pays 1.0", 3, [(0, 32, 1.0, Stage.COLD_START), (3, 32, 1.0, Stage.COLD_START)]),
    ("stage I ends at a rate of exactly 0.1", 3, [(1, 10, 0.5, Stage.BOOTSTRAPPING)]),
    ("stages go one way", 3, [(4, 32, 0.5, Stage.BOOTSTRAPPING), (0, 32, 0.5, Stage.BOOTSTRAPPING)]),
    (
        "a batch at the threshold gets nothing",
        3,
        [(8, 16, 0.0, Stage.BOOTSTRAPPING), (7, 16, 0.5, Stage.BOOTSTRAPPING)],
    ),
    (
        "five good batches in a row end it for good",
        3,
        [(20, 32, 0.0, Stage.BOOTSTRAPPING)] * 4 + [(16, 32, 0.0, Stage.OFF), (0, 32, 0.0, Stage.OFF)],
    ),
    (
        "a batch below the threshold breaks the run",
        3,
        [(20, 32, 0.0, Stage.BOOTSTRAPPING)] * 4
        + [(15, 32, 0.5, Stage.BOOTSTRAPPING)]
        + [(20, 32, 0.0, Stage.BOOTSTRAPPING)] * 4
        + [(20, 32, 0.0, Stage.OFF)],
    ),
    ("at K_max 2 the threshold is 0.375", 2, [(37, 100, 0.5, Stage.BOOTSTRAPPING), (3, 8, 0.0, Stage.BOOTSTRAPPING)]),
    ("at K_max 5 it is 0.5 again", 5, [(49, 100, 0.5, Stage.BOOTSTRAPPING), (50, 100, 0.0, Stage.BOOTSTRAPPING)]),
    ("at K_max 1 there is nothing to pay", 1, [(0, 32, 0.0, Stage.OFF)]),
    (
        "a batch without turns changes nothing",
        3,
        [(0, 0, 0.0, Stage.COLD_START)]
        + [(20, 32, 0.0, Stage.BOOTSTRAPPING)] * 4
        + [(0, 0, 0.0, Stage.BOOTSTRAPPING), (20, 32, 0.0, Stage.OFF)],
    ),
]


@pytest.mark.parametrize(("max_turns", "steps"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_schedule(max_turns, steps):
    bootstrap = ExplorationBootstrap(BootstrapConfig(max_turns=max_turns))
    for num_retrievals, num_turns, bonus, stage in steps:
        assert bootstrap.update(num_retrievals, num_turns) == bonus
        assert bootstrap.stage is stage


def test_disabled_never_pays():
    bootstrap = ExplorationBootstrap(BootstrapConfig(enabled=False))
    assert bootstrap.stage is Stage.OFF
    assert bootstrap.update(0, 32) == 0.0


def test_released_code_decides_every_batch_by_itself_and_never_ends():
    bootstrap = ExplorationBootstrap(BootstrapConfig.preset("released_code"))
    assert bootstrap.config.rate_of is RateOf.TRAJECTORIES
    assert [bootstrap.update(n, 32) for n in (0, 4, 3, 15)] == [1.0, 0.5, 1.0, 0.5]
    assert [bootstrap.update(32, 32) for _ in range(20)] == [0.0] * 20
    assert bootstrap.update(0, 32) == 1.0


def test_the_cap_is_for_turns_alone():
    assert BootstrapConfig(max_turns=2).threshold == 0.375
    assert BootstrapConfig(max_turns=2, rate_of="trajectories").threshold == 0.5


def test_what_is_counted():
    # Two retrievals and an answer; an answer alone, wrong; two invalid turns, no positive reward.
    batch = {"num_retrievals": [2, 0, 0], "turn_rewards": [[0.6, 0.05, 1.1], [0.1], [0.0, 0.0]]}
    assert count_batch(RateOf.TURNS, **batch) == (2, 6)
    assert count_batch(RateOf.TRAJECTORIES, **batch) == (1, 2)
    assert count_batch(RateOf.TURNS, num_retrievals=[], turn_rewards=[]) == (0, 0)


counts = st.integers(0, 64).flatmap(lambda turns: st.tuples(st.integers(0, turns), st.just(turns)))


@given(before=st.lists(counts, max_size=30), after=st.lists(counts, max_size=30), max_turns=st.integers(1, 6))
def test_a_schedule_saved_after_any_step_goes_on_as_if_never_stopped(before, after, max_turns):
    config = BootstrapConfig(max_turns=max_turns)
    whole = ExplorationBootstrap(config)
    for step in before:
        whole.update(*step)
    resumed = ExplorationBootstrap(config)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert [whole.update(*step) for step in after] == [resumed.update(*step) for step in after]
    assert whole.state_dict() == resumed.state_dict()


@given(steps=st.lists(counts, max_size=60), max_turns=st.integers(2, 6))
def test_stages_only_move_forward_and_bonuses_never_grow(steps, max_turns):
    bootstrap = ExplorationBootstrap(BootstrapConfig(max_turns=max_turns))
    order = list(Stage)
    stage, highest = bootstrap.stage, 1.0
    for step in steps:
        bonus = bootstrap.update(*step)
        assert order.index(bootstrap.stage) >= order.index(stage)
        stage = bootstrap.stage
        highest = {Stage.COLD_START: 1.0, Stage.BOOTSTRAPPING: 0.5, Stage.OFF: 0.0}[stage]
        assert 0.0 <= bonus <= highest


@pytest.mark.parametrize("retrievals_turns", [(-1, 4), (5, 4), (1, 0)])
def test_impossible_counts_are_errors(retrievals_turns):
    with pytest.raises(ValueError, match="expected 0 <= num_retrievals <= num_turns"):
        ExplorationBootstrap().update(*retrievals_turns)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"stage": "off"},
        {"stage": "III", "num_good_batches": 0},
        {"stage": "off", "num_good_batches": -1},
        {"stage": "off", "num_good_batches": True},
        {"stage": "off", "num_good_batches": 0, "more": 1},
    ],
)
def test_a_foreign_state_is_an_error(state):
    with pytest.raises(ValueError, match="bootstrap state"):
        ExplorationBootstrap().load_state_dict(state)


def test_a_saved_state_does_not_switch_a_disabled_bonus_on():
    bootstrap = ExplorationBootstrap(BootstrapConfig(enabled=False))
    bootstrap.load_state_dict(ExplorationBootstrap().state_dict())
    assert bootstrap.update(0, 32) == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {"max_turns": 0},
        {"patience": 0},
        {"target_rate": 1.5},
        {"cold_start_rate": 0.6},
        {"bonus": -1.0},
        {"cold_start_bonus": float("nan")},
        {"rate_of": "frames"},
    ],
)
def test_impossible_constants_are_errors(fields):
    with pytest.raises(ValueError, match="|".join(["expected", "is not a valid RateOf"])):
        BootstrapConfig(**fields)


def test_an_unknown_preset_is_an_error():
    with pytest.raises(ValueError, match="'paper', 'released_code'"):
        BootstrapConfig.preset("vagen")
