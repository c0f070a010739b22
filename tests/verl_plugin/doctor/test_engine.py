# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's own word on its arguments: what it is asked, and what becomes of its answer."""

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
    given = [f"{ROLLOUT}.load_format=dumy", f"+{ROLLOUT}.engine_kwargs.vllm.block_size=16"]
    asked = engine.arguments(measured(*given))
    assert asked["load_format"] == "dumy"
    assert asked["tensor_parallel_size"] == 1
    assert asked["block_size"] == 16
    assert str(asked["model"]) == str(checkpoint)
    # Nothing, where another engine plays or another machine runs.
    assert not engine.arguments(measured(f"{ROLLOUT}.name=sglang"))
    case = measured()
    case.elsewhere = True
    assert not engine.arguments(case)


def test_what_vllm_answers_is_said():
    (refused,) = engine.judge("invalid choice: 'dumy'")
    assert (refused.check, refused.level, refused.what) == ("engine.arguments", Level.ERROR, "invalid choice: 'dumy'")
    (accepted,) = engine.judge("")
    assert accepted.level is Level.OK


@pytest.mark.slow
def test_vllm_itself_refuses_in_the_fresh_process(measured, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")  # as the configuration's trainer.device
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here")
    for given, check in (([f"{ROLLOUT}.dtype=float99"], "engine.arguments"), ([], None)):
        case = measured(*given)
        found = bad(installation.check_registration(case, installation.start_fresh_process(case)))
        assert [finding.check for finding in found] == ([check] if check else [])
