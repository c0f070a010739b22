# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The candidate pool: which frames, at which size, and that a sparse read equals a full one."""

import awkward_videos as awkward
import numpy as np
import pytest

from verl_videomtr.video.decoders import decode
from verl_videomtr.video.errors import VideoTimestampError
from verl_videomtr.video.plan import PoolConfig, choose_frames, make_plan
from verl_videomtr.video.pool import open_pool
from verl_videomtr.video.sizing import grid_size


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "plain.mp4"
    awkward.write_video(path, count=150)
    return path


def test_frames_are_the_nearest_to_the_middles_of_equal_parts():
    # 10 frames at 1 s: the middles of 4 parts of 2.5 s are 1.25, 3.75, 6.25 and 8.75 s.
    assert choose_frames(np.arange(10.0), 10.0, PoolConfig(num_frames=4)).tolist() == [1, 4, 6, 9]


def test_a_video_shorter_than_the_pool_gives_every_frame():
    assert choose_frames(np.arange(5.0), 5.0, PoolConfig(num_frames=128)).tolist() == [0, 1, 2, 3, 4]


def test_rate_mode_takes_frames_per_second_up_to_the_pool_size():
    times = np.arange(300) / 30
    assert len(choose_frames(times, 10.0, PoolConfig(mode="rate", fps=1.0))) == 10
    assert len(choose_frames(times, 10.0, PoolConfig(mode="rate", fps=1.0, num_frames=4))) == 4


def test_frames_around_a_long_gap_are_taken_once():
    times = np.array([0.0, 0.1, 0.2, 99.8, 99.9, 100.0])
    assert choose_frames(times, 100.1, PoolConfig(num_frames=5)).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (720, 1280, (224, 420)),
        (480, 640, (252, 364)),
        (144, 176, (140, 168)),
        (1920, 1080, (420, 224)),
        (8, 8, (112, 112)),
    ],
)
def test_grid_size_keeps_to_the_grid_and_the_bounds(height, width, size):
    got = grid_size(height, width, factor_px=28, min_pixels=16 * 784, max_pixels=128 * 784)
    assert got == size
    assert got[0] % 28 == got[1] % 28 == 0
    assert 16 * 784 <= got[0] * got[1] <= 128 * 784


def test_a_read_returns_frames_in_the_order_asked_for_with_repeats(video):
    pool = open_pool(video, PoolConfig(num_frames=30))
    numbers = [awkward.read_number(frame) for frame in pool.read([20, 3, 3, 29])]
    assert numbers == [awkward.read_number(pool.read([i])[0]) for i in (20, 3, 3, 29)]
    assert numbers == [round(pool.times_seconds[i] * 30) for i in (20, 3, 3, 29)]
    assert pool.read([]).shape == (0, pool.height_px, pool.width_px, 3)


def test_an_index_outside_the_pool_is_an_error(video):
    with pytest.raises(IndexError, match=r"5\.\.30; expected 0\.\.29"):
        open_pool(video, PoolConfig(num_frames=30)).read([5, 30])


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "libvpx-vp9"])
def test_a_sparse_read_equals_a_full_sequential_decode(tmp_path, codec):
    path = tmp_path / ("v.webm" if codec.startswith("libvpx") else "v.mp4")
    awkward.write_video(path, codec=codec, count=100, gop=33, options={"bf": "3"} if codec == "mpeg4" else None)
    plan = make_plan(path, PoolConfig(num_frames=13))
    rows = np.array([0, 1, 2, 6, 9, 12])
    sparse, name = decode(plan, rows, "pyav")
    full, full_name = decode(plan, rows, "pyav-full")
    assert (name, full_name) == ("pyav", "pyav-full")
    assert np.array_equal(sparse, full)


def test_a_file_replaced_after_it_was_opened_is_not_read(tmp_path):
    path = tmp_path / "v.mp4"
    awkward.write_video(path, count=40)
    pool = open_pool(path)
    awkward.write_video(path, count=60)
    with pytest.raises(VideoTimestampError, match="changed since it was opened"):
        pool.read([0])


def test_an_exact_size_is_kept_and_stretches(video):
    assert open_pool(video, PoolConfig(size=(100, 301))).read([0]).shape == (1, 100, 301, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames=0; expected at least 1"),
        ({"mode": "all"}, "mode='all'; expected 'uniform' or 'rate'"),
        ({"mode": "rate"}, "fps=None"),
        ({"fps": 2.0}, "fps=2.0"),
        ({"max_tokens": 8}, "max_tokens=8"),
        ({"size": (0, 4)}, "size="),
        ({"decoder": "opencv"}, "decoder='opencv'"),
    ],
)
def test_a_wrong_configuration_says_so(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        PoolConfig(**arguments)
