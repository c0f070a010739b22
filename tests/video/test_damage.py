# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged bytes, where videos and cache files are read: an error of the right kind, or what was asked for."""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_video import (
    CHECKS,
    HEADER_CHANGES,
    check_entry,
    check_probe,
    check_size,
    whole_entries,
    whole_videos,
    with_header_changed,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verl_videomtr.video.cache_entry import EntryHeader
from verl_videomtr.video.decode_workers import shared_workers
from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.plan import PoolConfig

BOUNDED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return whole_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    return whole_entries(tmp_path_factory.mktemp("entries"))


@st.composite
def damage(draw):
    """(which file, [(where, byte)], where it is cut), the places as shares of the file."""
    share = st.floats(0, 1, exclude_max=True)
    # Most places near the start: headers say more than pixels.
    place = st.one_of(share, share.map(lambda value: value**4))
    changes = draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=30))
    return draw(st.integers(0, 7)), changes, draw(st.one_of(st.just(1.0), share))


def apply_damage(wholes, damage):
    which, changes, cut = damage
    data = bytearray(wholes[which % len(wholes)])
    for place, byte in changes:
        data[int(place * len(data))] = byte
    return bytes(data[: max(1, int(cut * len(data)))])


@settings(BOUNDED, max_examples=300)
@given(damage())
def test_a_damaged_cache_entry_is_refused_or_read(entries, tmp_path, damage):
    check_entry(apply_damage(entries, damage), tmp_path)


@pytest.mark.parametrize("value", HEADER_CHANGES, ids=repr)
@pytest.mark.parametrize("name", [*EntryHeader.__dataclass_fields__, "more"])
def test_a_header_that_says_nonsense_is_refused_or_read(entries, tmp_path, name, value):
    for entry in entries:
        check_entry(with_header_changed(entry, name, value), tmp_path)


@settings(BOUNDED, max_examples=300)
@given(damage())
def test_declared_sizes_are_read_from_any_bytes(videos, tmp_path, damage):
    check_size(apply_damage(videos, damage), tmp_path)


@settings(BOUNDED, max_examples=200)
@given(damage())
def test_the_probe_of_a_damaged_video_is_an_error_or_consistent(videos, tmp_path, damage):
    check_probe(apply_damage(videos, damage), tmp_path)


@settings(BOUNDED, max_examples=60)
@given(damage())
def test_a_damaged_video_costs_its_decoding_process_nothing_but_an_error(videos, tmp_path, damage):
    path = tmp_path / "damaged"
    path.write_bytes(apply_damage(videos, damage))
    workers = shared_workers()
    try:
        plan = workers.plan(path, PoolConfig(num_frames=4, size=(28, 28)))
        frames, _ = workers.decode(plan, plan.frame_idx * 0 + range(plan.num_frames), "auto")
    except VideoError as error:
        assert "ended its decoding process" not in str(error)  # noqa: PT017 - either outcome is right
        assert "made the decoder fail" not in str(error)  # noqa: PT017
    else:
        assert frames.shape == (plan.num_frames, 28, 28, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "runs"), [("entry", 40_000), ("size", 80_000), ("probe", 12_000)])
def test_coverage_guided_fuzzing_finds_nothing(tmp_path, target, runs):
    pytest.importorskip("atheris")
    assert target in CHECKS
    fuzzer = Path(__file__).parents[1] / "support/fuzz_video.py"
    done = subprocess.run(
        [sys.executable, str(fuzzer), target, f"-runs={runs}", "-max_len=30000", "-seed=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {runs} runs" in done.stderr
