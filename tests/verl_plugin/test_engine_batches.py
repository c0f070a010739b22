# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of frames in verl's own engine: dynamic batches, packed sequences, and sequences cut among ranks."""

from __future__ import annotations

import json
import os
import shutil
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
    out.parent.mkdir(exist_ok=True)
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
    if kind != "value_model":  # a critic's new head is drawn at random in every run
        close(cut["new"], alone["new"], "log_probs", "entropy")


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_head_in_pieces_says_and_learns_the_same(checkpoint, num_ranks, tmp_path):
    tied = tmp_path / "tied"
    shutil.copytree(checkpoint, tied)
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    whole, fused = (
        run(tied, kind, num_ranks, tmp_path / kind / "results")["new"] for kind in ("language_model", "fused")
    )
    close(fused, whole, *whole)


def close(found, wanted, *names):
    for name in names:
        assert torch.allclose(found[name], wanted[name], atol=1e-4, rtol=1e-3), name
