# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's own word on its arguments: what it is asked, and what becomes of its answer."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys

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


ASKED = (
    ({"load_format": "dumy"}, "Load format `dumy` is not supported"),
    (
        {"max_num_seqs": 64, "max_num_batched_tokens": 32},
        r"max_num_batched_tokens \(32\) must be greater than or equal to max_num_seqs \(64\)\.$",
    ),
    ({"max_num_seqs": 64, "max_num_batched_tokens": 64, "max_model_len": 64, "load_format": "auto"}, "^$"),
)
IN_A_FRESH_PROCESS = """
import json, sys
import verl_videomtr.verl_plugin.register
from verl_videomtr.verl_plugin.doctor import engine
json.dump([engine.answer(given) for given in json.loads(sys.argv[1])], open(sys.argv[2], "w"))
"""


def test_vllm_is_asked_for_more_than_its_command_line_checks(checkpoint, tmp_path):
    pytest.importorskip("vllm")
    given = json.dumps([{"model": str(checkpoint), **asked} for asked, _ in ASKED])
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, given, str(tmp_path / "said")]
    subprocess.run(command, check=True, env=os.environ | {"VERL_PLATFORM": "cpu"}, capture_output=True)
    for said, (asked, expected) in zip(json.loads((tmp_path / "said").read_text()), ASKED, strict=True):
        assert re.search(expected, said), asked


@pytest.mark.slow
def test_vllm_itself_refuses_in_the_fresh_process(measured, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")  # as the configuration's trainer.device
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here")
    for given, check in (([f"{ROLLOUT}.dtype=float99"], "engine.arguments"), ([], None)):
        case = measured(*given)
        found = bad(installation.check_registration(case, installation.start_fresh_process(case)))
        assert [finding.check for finding in found] == ([check] if check else [])
