# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Real clips of public packages, where `python benchmarks/real_clips.py` has fetched them."""

from pathlib import Path

import numpy as np
import pytest

from verl_videomtr.video.decoders import decode
from verl_videomtr.video.errors import DamagedVideoError
from verl_videomtr.video.plan import PoolConfig, make_plan
from verl_videomtr.video.pool import open_pool

CLIPS = Path(__file__).parents[2] / ".cache" / "real_clips"
FRAMES = {
    "Megamind.avi": 270,
    "Megamind_bugy.avi": 270,
    "tree.avi": 68,
    "vtest.avi": 795,
    "cup.mp4": 217,
    "bigbuckbunny.mp4": 132,
    "bikes.mp4": 250,
    "carphone_distorted.mp4": 120,
    "carphone_pristine.mp4": 120,
}


def _clip(name):
    if not (CLIPS / name).exists():
        pytest.skip("python benchmarks/real_clips.py fetches it")
    return CLIPS / name


@pytest.mark.parametrize("name", FRAMES)
def test_a_sparse_read_of_a_real_clip_equals_a_full_decode(name):
    plan = make_plan(_clip(name), PoolConfig(num_frames=16, max_tokens=64))
    assert plan.num_video_frames == FRAMES[name]
    rows = np.arange(plan.num_frames)
    assert np.array_equal(decode(plan, rows, "auto")[0], decode(plan, rows, "pyav-full")[0])


@pytest.mark.parametrize("name", ["cup.mp4", "bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"])
def test_decord_sees_the_same_pictures(name):
    config = {"num_frames": 16, "max_tokens": 64}
    ours = open_pool(_clip(name), PoolConfig(**config)).read(range(16)).astype(int)
    theirs = open_pool(_clip(name), PoolConfig(**config, decoder="decord")).read(range(16))
    assert np.abs(ours - theirs).mean() < 3
    shifted = np.abs(ours[1:] - theirs[:-1]).mean(axis=(1, 2, 3))
    assert np.all(np.abs(ours[1:] - theirs[1:]).mean(axis=(1, 2, 3)) < shifted)


def test_a_clip_with_a_broken_first_frame_is_refused():
    with pytest.raises(DamagedVideoError, match="cannot be decoded"):
        open_pool(_clip("box.mp4"))
