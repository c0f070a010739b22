# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Tests in several processes: a file stays in one, and all that start servers share one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import SERVERS, group_of

TESTS = Path(__file__).parents[1]
STARTERS = (
    "data_prep/test_vllm.py",
    "recipes/test_learning_study.py",
    "report/test_browser.py",
    "serving/test_vllm.py",
    "verl_plugin/doctor/test_command.py",
    "verl_plugin/doctor/test_doctor.py",
    "verl_plugin/test_cluster_watch.py",
    "verl_plugin/test_device_patches.py",
    "verl_plugin/test_loop_workers.py",
    "verl_plugin/test_pools_command.py",
    "verl_plugin/test_registration.py",
    "verl_plugin/test_shared_frames.py",
    "verl_plugin/test_weight_sockets.py",
)


def test_files_that_start_servers_are_those_of_the_group_and_no_others():
    servers = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py") if group_of(path) == "servers"}
    assert servers == {*STARTERS, *(path.relative_to(TESTS).as_posix() for path in TESTS.glob("e2e/test_*.py"))}


def test_every_word_finds_a_file():
    texts = [path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")]
    assert not [word for word in SERVERS if not any(word in text for text in texts)]


def test_two_processes_keep_files_whole_and_servers_together(tmp_path):
    pytest.importorskip("xdist", reason="pytest-xdist is not installed: pip install verl-videomtr[dev]")
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    names = ("test_a_server", "test_b_server", "test_c", "test_d")
    for name in names:
        # The files with most tests are handed out first: without the group, one to each process.
        word, count = (SERVERS[0], 4) if "server" in name else ("", 3)
        code = f"# {word}\nimport pytest\n@pytest.mark.parametrize('i', range({count}))\ndef test(i):\n    pass\n"
        (tmp_path / f"{name}.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-n", "2", "-v", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    processes = defaultdict(list)
    for process, name in re.findall(r"^\[(gw\d)\] .* PASSED (\w+)\.py::", done.stdout, re.M):
        processes[name].append(process)
    assert {name: len(ran) for name, ran in processes.items()} == dict(zip(names, (4, 4, 3, 3), strict=True))
    assert all(len(set(ran)) == 1 for ran in processes.values())
    assert processes["test_a_server"] == processes["test_b_server"]
    assert processes["test_c"][0] != processes["test_a_server"][0]
