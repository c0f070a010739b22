# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's own word on its arguments and on the sampling parameters: what it is asked, and what becomes of its answer."""

from __future__ import annotations

import importlib.util

import pytest
from doctor_setting import ROLLOUT, bad

from verl_videomtr.verl_plugin.doctor import engine, installation
from verl_videomtr.verl_plugin.doctor.findings import Level

pytest_plugins = ["doctor_setting"]


def test_what_vllm_is_asked(measured, checkpoint):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here")
    given = [f"{ROLLOUT}.load_format=dumy", f"{ROLLOUT}.top_p=0.9", f"{ROLLOUT}.val_kwargs.top_k=7"]
    asked = engine.questions(measured(*given, f"+{ROLLOUT}.engine_kwargs.vllm.block_size=16"))
    assert asked["arguments"]["load_format"] == "dumy"
    assert asked["arguments"]["tensor_parallel_size"] == 1
    assert asked["arguments"]["block_size"] == 16
    assert str(asked["arguments"]["model"]) == str(checkpoint)
    assert asked["sampling"][ROLLOUT]["top_p"] == 0.9
    assert asked["sampling"][f"{ROLLOUT}.val_kwargs"]["top_k"] == 7
    # Nothing, where another engine plays or another machine runs.
    assert not engine.questions(measured(f"{ROLLOUT}.name=sglang"))
    case = measured()
    case.elsewhere = True
    assert not engine.questions(case)


def test_what_vllm_answers_is_said():
    found = list(engine.judge([["arguments", "invalid choice: 'dumy'"], [ROLLOUT, "top_p must be in (0, 1]"]]))
    assert [(each.check, each.level) for each in found] == [
        ("engine.arguments", Level.ERROR),
        ("engine.sampling", Level.ERROR),
    ]
    assert ROLLOUT in found[1].what
    assert [each.level for each in engine.judge([])] == [Level.OK]


@pytest.mark.slow
def test_vllm_itself_refuses_in_the_fresh_process(measured):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here")
    for given, check in (([f"{ROLLOUT}.dtype=float99"], "engine.arguments"), ([], None)):
        case = measured(*given)
        found = bad(installation.check_registration(case, installation.start_fresh_process(case)))
        assert [finding.check for finding in found] == ([check] if check else [])
