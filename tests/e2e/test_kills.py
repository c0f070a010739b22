# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A run whose process dies or stops ends by itself and says so; `python -m benchmarks.kills` does it to all of them."""

from __future__ import annotations

import random
import re
import signal
from pathlib import Path

import pytest
from trainer_runs import build_model, make_data

from benchmarks.kills import PHASE_MINUTES, kill_one

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

WHERE = r"\(pid \d+ on [\d.]+, its log: /\S+\.err\)"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), num_train=16)


@pytest.mark.parametrize(
    ("role", "number", "says"),
    [
        ("agent-loop worker", signal.SIGKILL, rf"agent-loop worker 0 died {WHERE}.*last checkpoint is step \d+"),
        ("reward worker", signal.SIGKILL, rf"reward worker 0 died {WHERE}"),
        ("vLLM server", signal.SIGSTOP, rf"nothing has moved for .*do not answer: .*vllm server 0\.0 {WHERE}"),
        ("training worker", signal.SIGSTOP, rf"nothing has moved for .*do not answer: .*training worker 0 {WHERE}"),
        ("trainer", signal.SIGSTOP, r"the trainer's process \(pid \d+ on node \w+\) has not been heard of for"),
    ],
)
def test_a_run_without_one_of_its_processes_ends_and_says_which(tmp_path, data, role, number, says):
    outcome = kill_one(tmp_path / "run", data, build_model(), role=role, number=number, rng=random.Random(0))
    assert outcome.seconds is not None, "the run had to be ended"
    assert outcome.seconds < (60 if number == signal.SIGKILL else 60 * PHASE_MINUTES + 60)
    assert re.search(says, outcome.said), outcome.said
    assert outcome.left == []
