# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Keys that are set in vain: the table speaks of verl's own code, and each entry is said and unsaid."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from doctor_setting import ACTOR, REF, ROLLOUT, bad

from verl_videomtr.verl_plugin.compose import compose
from verl_videomtr.verl_plugin.doctor import unread
from verl_videomtr.verl_plugin.doctor.findings import Level

pytest_plugins = ["doctor_setting"]

INERT = [
    "algorithm.gamma=0.9",
    "algorithm.lam=0.95",
    "algorithm.norm_adv_by_std_in_grpo=false",
    "algorithm.use_pf_ppo=true",
    f"{ACTOR}.freeze_vision_tower=true",
    f"{ACTOR}.grad_clip=0.5",
    "critic.grad_clip=0.5",
    f"{ACTOR}.ppo_micro_batch_size_per_gpu=4",
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=4",
    f"{REF}.log_prob_micro_batch_size_per_gpu=4",
    "critic.ppo_micro_batch_size_per_gpu=4",
    "critic.forward_micro_batch_size_per_gpu=4",
    "critic.use_dynamic_bsz=false",
    "critic.ulysses_sequence_parallel_size=2",
    "trainer.balance_batch=false",
    "trainer.esi_redundant_time=60",
    f"{ROLLOUT}.do_sample=false",
    f"+{ROLLOUT}.repetition_penalty=1.1",
    f"{ROLLOUT}.multi_turn.max_assistant_turns=5",
    "reward.reward_manager.name=dapo",
    "skip.rollout.enable=true",
]


@pytest.mark.parametrize("override", INERT)
def test_a_key_that_nothing_reads(measured, override):
    key = override.lstrip("+").partition("=")[0]
    (finding,) = [each for each in bad(unread.check_unread(measured(override))) if key in each.what]
    assert finding.level is Level.WARNING
    assert f"{key}=" in finding.what.lower()
    assert "has no effect" in finding.what
    assert finding.overrides or finding.fix.startswith(f"leave {key} out")
    fixed = measured(override, *finding.overrides) if finding.overrides else measured()
    assert not [each for each in bad(unread.check_unread(fixed)) if key in each.what]


def test_keys_that_another_setting_makes_count(measured):
    """The same keys, where they are read."""
    for override, reads in (
        ("algorithm.gamma=0.9", "algorithm.adv_estimator=gae"),
        ("algorithm.norm_adv_by_std_in_grpo=false", "algorithm.adv_estimator=grpo"),
        (f"{ACTOR}.kl_loss_coef=0.01", f"{ACTOR}.use_kl_loss=true"),
        ("algorithm.kl_ctrl.kl_coef=0.01", "algorithm.use_kl_in_reward=true"),
        (f"{ACTOR}.ppo_micro_batch_size_per_gpu=4", f"{ACTOR}.use_dynamic_bsz=false"),
    ):
        key = override.partition("=")[0]
        assert [each for each in bad(unread.check_unread(measured(override))) if key in each.what], override
        found = bad(unread.check_unread(measured(override, reads)))
        assert not [each for each in found if key in each.what.partition("has no effect")[0]], override


def test_the_good_case_sets_nothing_in_vain(measured):
    assert [each.level for each in unread.check_unread(measured())] == [Level.OK]


def test_a_key_whose_name_is_nowhere_in_verl(measured):
    (finding,) = bad(unread.check_unread(measured("+trainer.save_frequency=5")))
    assert "save_frequency occurs nowhere in verl" in finding.what
    assert finding.overrides == ("~trainer.save_frequency",)
    assert finding.advice == "or trainer.save_freq=5 if that was meant"
    assert "save_frequency" not in compose(["+trainer.save_frequency=5", *finding.overrides]).trainer
    # Handed on as they are, to who knows them.
    assert not bad(unread.check_unread(measured(f"+{ROLLOUT}.engine_kwargs.vllm.no_such_word_anywhere=1")))


@pytest.mark.parametrize("name", ["balance_batch", "freeze_vision_tower", "esi_redundant_time"])
def test_verl_s_new_trainer_and_engines_do_not_read_it(name):
    """The table's word on keys that no setting makes count, held against the installed verl."""
    folder = Path(importlib.util.find_spec("verl").origin).parent
    for part in ("trainer/ppo/v1", "workers/engine/fsdp", "workers/engine_workers.py"):
        place = folder / part
        assert place.exists()
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            reads = re.findall(rf"\.{name}\b|get\(\"{name}\"", file.read_text())
            assert not reads, file
