# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Every decoder on every awkward file: the right frames or an honest error, in time."""

import logging
import random
import time

import awkward_marks  # noqa: F401 - registers its kinds
import awkward_videos as awkward
import pytest

from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.pool import PoolConfig, open_pool

QUICKLY = [pytest.param(name, marks=[pytest.mark.slow] * (name in awkward.SLOW)) for name in awkward.KINDS]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Make a file once, when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("awkward"), {}

    def get(name):
        if name not in made:
            file_name, make = awkward.KINDS[name]
            made[name] = (folder / file_name, make(folder / file_name))
        return made[name]

    return get


def test_there_are_at_least_twenty_kinds():
    assert len(awkward.KINDS) >= 20


@pytest.mark.parametrize("name", QUICKLY)
def test_auto_gives_right_frames_or_an_honest_error_within_ten_seconds(files, name):
    path, truth = files(name)
    began = time.monotonic()
    result = awkward.verdict(path, truth)
    assert not result.startswith("WRONG"), result
    assert time.monotonic() - began < 10
    if not truth.errors:
        assert result == "right frames"


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("name", QUICKLY)
def test_a_decoder_chosen_by_name_is_never_silently_wrong(files, name, decoder):
    path, truth = files(name)
    result = awkward.verdict(path, truth, decoder=decoder)
    assert not result.startswith("WRONG"), result


@pytest.mark.slow
@pytest.mark.parametrize("name", awkward.KINDS)
def test_torchcodec_is_never_silently_wrong(files, name):
    pytest.importorskip("torchcodec")
    path, truth = files(name)
    result = awkward.verdict(path, truth, decoder="torchcodec")
    assert not result.startswith("WRONG"), result


@pytest.mark.parametrize("num_frames", [1, 2, 119, 120, 500])
def test_pools_of_every_size_hold_the_right_frames(files, num_frames):
    path, truth = files("edit_list_cut" if num_frames < 100 else "plain")
    assert awkward.verdict(path, truth, num_frames=num_frames) == "right frames"


@pytest.mark.parametrize("name", ["plain", "matroska", "transport_stream_mpeg2", "avi", "vp8_with_hidden_frames"])
def test_damaged_bytes_end_in_frames_or_a_video_error(files, name, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    path, _ = files(name)
    whole = path.read_bytes()
    for seed in range(12):
        noise = random.Random(seed)
        data = bytearray(whole)
        for _ in range(noise.choice([1, 4, 40, 400])):
            data[noise.randrange(len(data))] = noise.randrange(256)
        damaged = tmp_path / f"{seed}{path.suffix}"
        damaged.write_bytes(data[: noise.choice([len(data), len(data), noise.randrange(len(data))])])
        try:
            pool = open_pool(damaged, PoolConfig(num_frames=6, size=(56, 84)))
            assert pool.read(range(pool.num_frames)).shape == (pool.num_frames, 56, 84, 3)
        except VideoError as error:
            assert str(damaged) in str(error)  # noqa: PT017 - either outcome is right
