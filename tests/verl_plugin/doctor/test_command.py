# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The command: exit codes, JSON, and, slow, whole runs of it beside the run that it speaks of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from doctor_setting import GROUPS, paths

from verl_videomtr.cli import main

pytest_plugins = ["doctor_setting"]

ROOT = Path(__file__).parents[3]


def test_overrides_that_do_not_compose_end_with_two(capsys):
    assert main(["doctor", "+videomtr=paper", "trainer.nnode=2"]) == 2
    printed = capsys.readouterr()
    assert "did you mean trainer.nnodes" in printed.err
    assert not printed.out


def test_errors_end_with_one(capsys):
    assert main(["doctor", "--quiet", "+videomtr=paper", "videomtr.episode.max_turns=0"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("error   config.settings     videomtr.episode.max_turns=0; ")
    assert lines[1].startswith("this configuration would not run: 1 error, 0 warnings")


def test_json_is_for_programs(capsys):
    assert main(["doctor", "--json", "+videomtr=paper", "videomtr.credit.form=flat"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["errors"], report["warnings"]) == (False, 1, 0)
    assert set(report["findings"][0]) == {"level", "check", "what", "why", "fix", "overrides"}


def run(arguments, folder, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VERL_")}
    environment |= {"VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "RAY_worker_niceness": "0"}
    environment |= {"TORCHDYNAMO_DISABLE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=900,
    )


def report_of(overrides, folder, **variables):
    result = run(["verl_videomtr.cli", "doctor", "--json", *overrides], folder, **variables)
    report = json.loads(result.stdout)
    assert result.returncode == int(not report["ok"]), result.stderr[-2000:]
    return report


@pytest.mark.slow
def test_a_process_without_the_plugin(checkpoint, videos, tmp_path):
    overrides = [*GROUPS, *paths(checkpoint, videos)]
    report = report_of(overrides, tmp_path, VERL_USE_EXTERNAL_PLUGINS="none")
    found = [finding for finding in report["findings"] if finding["check"] == "install.plugin"]
    assert {finding["level"] for finding in found} == {"error"}
    assert "unset VERL_USE_EXTERNAL_PLUGINS" in found[0]["fix"]
    look = "from verl.trainer.ppo.v1 import get_trainer_cls; get_trainer_cls('video_mtr_sync')"
    for variables, works in (({"VERL_USE_EXTERNAL_PLUGINS": "none"}, False), ({}, True)):
        code = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, env={**os.environ, **variables}).returncode
        assert (code == 0) is works


@pytest.mark.slow
def test_a_device_that_only_the_configuration_names(tmp_path):
    look = "from verl.utils.device import get_device_name; print('device', get_device_name())"
    clean = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    for variables, device in (({}, "cuda"), ({"VERL_PLATFORM": "cpu"}, "cpu")):
        result = subprocess.run(
            [sys.executable, "-c", look], cwd=tmp_path, env={**clean, **variables}, capture_output=True, text=True
        )
        assert f"device {device}" in result.stdout


@pytest.mark.slow
@pytest.mark.e2e
def test_the_trainer_fails_as_foretold_and_runs_once_mended(checkpoint, videos, tmp_path):
    overrides = [*GROUPS, *paths(checkpoint, videos), "trainer.total_training_steps=1", "trainer.save_freq=-1"]
    overrides += ["trainer.logger=[console]", "trainer.val_before_train=false", "trainer.test_freq=-1"]
    overrides += ["trainer.resume_mode=disable"]
    fault = [*overrides, "++critic.ppo_infer_max_token_len_per_gpu=80"]
    report = report_of(fault, tmp_path)
    errors = [finding for finding in report["findings"] if finding["level"] == "error"]
    assert [finding["check"] for finding in errors] == ["lengths.micro"]
    assert "critic.ppo_infer_max_token_len_per_gpu is 80" in errors[0]["what"]
    broken = run(["verl.trainer.main_ppo", *fault], tmp_path)
    assert broken.returncode != 0
    assert "max_token_len must be greater than the sequence length" in broken.stdout + broken.stderr
    fixed = [*overrides, *(f"++{item.lstrip('+')}" for item in errors[0]["overrides"])]
    assert report_of(fixed, tmp_path)["ok"]
    result = run(["verl.trainer.main_ppo", *fixed], tmp_path)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
