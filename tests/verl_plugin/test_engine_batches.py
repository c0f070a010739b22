# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of frames in verl's own engine: dynamic batches, packed sequences, and sequences cut among ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

pytest_plugins = ["doctor_setting"]

SCRIPT = Path(__file__).parents[1] / "support" / "engine_batches.py"


def run(model: Path, kind: str, num_ranks: int, out: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Run the ranks; return what the first says, with rows of patches and of frames."""
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = f"{SCRIPT.parents[2]}:{SCRIPT.parent}"
    call = [sys.executable, str(SCRIPT), str(model), kind, str(num_ranks)]
    ranks = [
        subprocess.Popen([*call, str(rank), str(out)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(num_ranks)
    ]
    try:
        errors = [rank.communicate(timeout=500)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), errors[0][-3000:]
    return torch.load(f"{out}.0", weights_only=True)


@pytest.fixture(scope="module", params=["language_model", "value_model"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def alone(checkpoint, kind, tmp_path_factory):
    return run(checkpoint, kind, 1, tmp_path_factory.mktemp("alone") / "results")


def same(results):
    old, new = results["old"], results["new"]
    assert set(old) == set(new)
    assert len(old) > 20  # gradients of the tower and of the language model
    for name in old:
        assert torch.equal(old[name], new[name]), name
    assert any(old[name].abs().sum() > 0 for name in old if "visual" in name)


def test_packed_sequences_in_dynamic_batches_are_equal(alone):
    same(alone)


def test_sequences_cut_among_ranks_are_equal(alone, checkpoint, kind, tmp_path):
    cut = run(checkpoint, kind, 2, tmp_path / "results")
    same(cut)
    (name,) = {"log_probs", "values"} & set(cut["new"])
    if name == "log_probs":  # a critic's new head is drawn at random in every run
        assert torch.allclose(cut["new"][name], alone["new"][name], atol=1e-4)
