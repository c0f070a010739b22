# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The frame cache: exact, filled once, bounded, and never trusted when it is damaged."""

import errno
import fcntl
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys

import awkward_videos as awkward
import numpy as np
import pytest

from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.cache_entry import CacheDamage, CacheEntry
from verl_videomtr.video.decode_workers import shared_workers
from verl_videomtr.video.errors import VideoTimestampError
from verl_videomtr.video.pool import PoolConfig, open_pool

CONFIG = PoolConfig(num_frames=12, size=(56, 84))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / "plain.mp4"
    awkward.write_video(path, count=60)
    return path


@pytest.fixture(scope="module")
def plain(video):
    return open_pool(video, CONFIG).read(range(12))


def _entry_file(cache):
    (path,) = cache.directory.glob("pools/*/*.pool")
    return path


def _count_decoded(pool, monkeypatch):
    """Return a list that gets every row that `pool` decodes from now on."""
    rows, decode = [], pool._workers.decode

    def counted(plan, wanted, decoder):
        rows.extend(wanted.tolist())
        return decode(plan, wanted, decoder)

    monkeypatch.setattr(pool._workers, "decode", counted)
    return rows


def test_cached_frames_are_the_decoded_frames(video, plain, tmp_path):
    cache = PoolCache(tmp_path)
    pool = open_pool(video, CONFIG, cache)
    assert pool.read_cached([1]) is None
    assert np.array_equal(pool.read([7, 1, 7]), plain[[7, 1, 7]])
    again = open_pool(video, CONFIG, cache)
    assert np.array_equal(again.read_cached([1, 7]), plain[[1, 7]])
    assert again.read_cached([1, 2]) is None
    assert np.array_equal(again.read(range(12)), plain)
    assert np.array_equal(again.times_seconds, pool.times_seconds)
    assert (again.duration_seconds, again.decoder) == (pool.duration_seconds, "pyav")


def test_a_full_cache_needs_no_decoding(video, plain, tmp_path):
    cache = PoolCache(tmp_path)
    open_pool(video, CONFIG, cache).read(range(12))
    before = cache.size_bytes()
    assert np.array_equal(open_pool(video, CONFIG, cache).read_cached(range(12)), plain)
    assert cache.size_bytes() == before


def test_the_compact_form_is_recorded_and_close(video, plain, tmp_path):
    config = PoolConfig(num_frames=12, size=(224, 336))
    raw, compact = PoolCache(tmp_path, form="raw"), PoolCache(tmp_path, form="jpeg")
    assert raw.key(video, config) != compact.key(video, config)
    exact, close = open_pool(video, config, raw).read(range(12)), open_pool(video, config, compact).read(range(12))
    assert compact.find(compact.key(video, config)).form == "jpeg"
    error = np.mean((exact.astype(float) - close) ** 2)
    assert error > 0
    assert 10 * np.log10(255**2 / error) > 38
    assert np.array_equal(open_pool(video, config, compact).read(range(12)), close)


def test_the_key_covers_content_and_config(video, tmp_path):
    cache = PoolCache(tmp_path)
    other = tmp_path / "other.mp4"
    other.write_bytes(video.read_bytes() + b"\0")
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(video.read_bytes())
    key = cache.key(video, CONFIG)
    assert cache.key(copy, CONFIG) == key
    assert cache.key(video, PoolConfig(num_frames=12, size=(56, 84), decoder="pyav")) == key
    changed = [
        cache.key(other, CONFIG),
        cache.key(video, PoolConfig(num_frames=13, size=(56, 84))),
        cache.key(video, PoolConfig(num_frames=12, size=(84, 56))),
        cache.key(video, PoolConfig(num_frames=12, size=(56, 84), decoder="decord")),
        cache.key(video, PoolConfig(num_frames=12, size=(56, 84), mode="rate", fps=1.0)),
    ]
    assert key not in changed
    assert len(set(changed)) == len(changed)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Two videos of the same length, size in bytes and modification time, with different frames."""
    paths = [tmp_path_factory.mktemp("twins") / f"{name}.mp4" for name in "ab"]
    for path, gop in zip(paths, (24, 60), strict=True):
        awkward.write_video(path, count=60, gop=gop, turns=2 * (gop == 60))
    length = max(path.stat().st_size for path in paths)
    for path in paths:
        path.write_bytes(path.read_bytes().ljust(length, b"\0"))
        os.utime(path, ns=(10**18, 10**18))
    return paths


def _replace(path, by, how):
    """Put the bytes of `by` in place of `path`, its size and modification time as they were."""
    status = path.stat()
    if how == "written over":
        with path.open("r+b") as file:
            file.write(by.read_bytes())
    else:
        beside = path.with_suffix(".new")
        beside.write_bytes(by.read_bytes())
        beside.replace(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@pytest.mark.parametrize("how", ["renamed", "written over"])
@pytest.mark.parametrize("when", ["before reading", "while decoding"])
def test_a_video_replaced_while_open_is_an_error_and_nothing_is_kept_under_its_key(
    twins, tmp_path, how, when, monkeypatch
):
    cache, path = PoolCache(tmp_path / "cache"), tmp_path / "v.mp4"
    shutil.copy2(twins[0], path)
    pool = open_pool(path, CONFIG, cache)
    first, key = pool.read([0]), cache.key(path, CONFIG)
    if when == "before reading":
        _replace(path, twins[1], how)
    else:
        decode = pool._workers.decode

        def decode_and_replace(*arguments):
            _replace(path, twins[1], how)
            return decode(*arguments)

        monkeypatch.setattr(pool._workers, "decode", decode_and_replace)
    with pytest.raises(VideoTimestampError, match=r"changed since it was opened.*open it again"):
        pool.read([5])
    monkeypatch.undo()
    assert not pool.is_current()
    assert cache.num_filled(key) == 1
    assert np.array_equal(pool.read([0]), first)
    again = open_pool(path, CONFIG, cache)
    assert cache.key(path, CONFIG) != key
    assert np.array_equal(again.read(range(12)), open_pool(twins[1], CONFIG).read(range(12)))


@pytest.mark.parametrize("how", ["touched", "fetched again"])
def test_a_video_touched_while_open_is_read_on(twins, tmp_path, how):
    cache, path = PoolCache(tmp_path / "cache"), tmp_path / "v.mp4"
    shutil.copy2(twins[0], path)
    pool = open_pool(path, CONFIG, cache)
    pool.read([0])
    for row in (5, 7):
        if how == "touched":
            os.utime(path)
        else:
            shutil.copy(twins[0], tmp_path / "part")
            (tmp_path / "part").replace(path)
        assert np.array_equal(pool.read([row]), open_pool(twins[0], CONFIG).read([row]))
        assert pool.is_current()
    assert pool.read_cached([0, 5, 7]) is not None


def test_without_a_cache_a_video_that_changed_is_to_be_opened_again(twins, tmp_path):
    path = tmp_path / "v.mp4"
    shutil.copy2(twins[0], path)
    pool = open_pool(path, CONFIG)
    pool.read([0])
    _replace(path, twins[1], "renamed")
    with pytest.raises(VideoTimestampError, match="open it again"):
        pool.read([0])
    assert not pool.is_current()


def test_a_video_replaced_under_its_name_gets_a_new_entry(tmp_path):
    cache, path = PoolCache(tmp_path / "cache"), tmp_path / "v.mp4"
    awkward.write_video(path, count=30)
    first = open_pool(path, CONFIG, cache).read([11])
    awkward.write_video(path, count=90)
    os.utime(path, ns=(1, 1))
    second = open_pool(path, CONFIG, cache).read([11])
    assert awkward.read_number(first[0]) != awkward.read_number(second[0])


@pytest.mark.parametrize("form", ["raw", "jpeg"])
@pytest.mark.parametrize("seed", range(20))
def test_damaged_cache_bytes_are_found_and_filled_again(video, plain, tmp_path, form, seed):
    cache, noise = PoolCache(tmp_path, form=form), random.Random(seed)
    good = open_pool(video, CONFIG, cache).read(range(12))
    path = _entry_file(cache)
    data = bytearray(path.read_bytes())
    for _ in range(noise.choice([1, 10, 1000])):
        data[noise.choice([noise.randrange(len(data)), noise.randrange(1200)])] ^= 1 << noise.randrange(8)
    path.unlink()
    path.write_bytes(data[: noise.choice([len(data), noise.randrange(len(data))])])
    assert np.array_equal(open_pool(video, CONFIG, cache).read(range(12)), good)
    assert np.array_equal(open_pool(video, CONFIG, cache).read(range(12)), good)
    assert open_pool(video, CONFIG, cache).read_cached(range(12)) is not None


def test_a_file_cut_while_its_pool_is_open_is_read_from_the_video(video, plain, tmp_path):
    cache = PoolCache(tmp_path)
    pool = open_pool(video, CONFIG, cache)
    pool.read(range(12))
    os.truncate(_entry_file(cache), 5000)
    assert np.array_equal(pool.read(range(12)), plain)
    assert np.array_equal(open_pool(video, CONFIG, cache).read_cached(range(12)), plain)


@pytest.mark.parametrize("form", ["raw", "jpeg"])
def test_bytes_damaged_after_a_read_are_not_served(video, tmp_path, form):
    cache, noise = PoolCache(tmp_path, form=form), random.Random(0)
    pool = open_pool(video, CONFIG, cache)
    good = pool.read(range(12))
    for _ in range(40):
        path = _entry_file(cache)
        with path.open("r+b") as file:
            for _ in range(noise.choice([1, 20])):
                where = noise.randrange(path.stat().st_size)
                (byte,) = os.pread(file.fileno(), 1, where)
                os.pwrite(file.fileno(), bytes([byte ^ (1 << noise.randrange(8))]), where)
        served = pool.read_cached(range(12))
        assert served is None or np.array_equal(served, good)
        assert np.array_equal(pool.read(range(12)), good)


def test_bytes_that_are_no_entry_are_refused(tmp_path):
    path = tmp_path / "x.pool"
    for seed in range(50):
        path.write_bytes(random.Random(seed).randbytes(seed * 37))
        with pytest.raises(CacheDamage):
            CacheEntry(path, "00" * 20)


def test_the_entry_of_another_pool_is_refused(video, tmp_path):
    cache, other = PoolCache(tmp_path), PoolConfig(num_frames=12, size=(56, 112))
    for config in (CONFIG, other):
        open_pool(video, config, cache).read(range(12))
    mine, theirs = (cache._entry_path(cache.key(video, config)) for config in (CONFIG, other))
    mine.write_bytes(theirs.read_bytes())
    assert open_pool(video, CONFIG, cache).read_cached([0]) is None


def test_an_unwritable_cache_serves_decoded_frames(video, plain, tmp_path):
    cache = PoolCache(tmp_path)
    pools = tmp_path / "pools"
    pools.rmdir()
    pools.write_text("in the way")
    assert np.array_equal(open_pool(video, CONFIG, cache).read([3]), plain[[3]])


@pytest.mark.parametrize("form", ["raw", "jpeg"])
@pytest.mark.parametrize("gone", ["entry", "folder"])
def test_what_is_evicted_while_open_is_decoded_once_and_cached_again(video, tmp_path, gone, form, monkeypatch):
    cache = PoolCache(tmp_path / "cache", form=form)
    pool = open_pool(video, CONFIG, cache)
    good = pool.read(range(12))
    if gone == "entry":
        _entry_file(cache).unlink()
    else:
        shutil.rmtree(cache.directory)
    decoded = _count_decoded(pool, monkeypatch)
    for _ in range(3):
        assert np.array_equal(pool.read([1, 2]), good[[1, 2]])
    assert decoded == [1, 2]
    assert np.array_equal(open_pool(video, CONFIG, cache).read_cached([1, 2]), good[[1, 2]])


@pytest.mark.parametrize("form", ["raw", "jpeg"])
def test_on_a_full_disk_frames_are_decoded_once_a_read_and_nothing_is_lost(video, tmp_path, form, monkeypatch):
    cache = PoolCache(tmp_path, form=form)
    pool = open_pool(video, CONFIG, cache)
    good = pool.read([0, 1])
    before = _entry_file(cache).read_bytes()
    room = [3000]

    def pwrite(fd, data, offset, write=os.pwrite):
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(fd, data[: room[0]], offset)
        room[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    decoded = _count_decoded(pool, monkeypatch)
    first = pool.read([2, 3])
    assert decoded == [2, 3]
    assert _entry_file(cache).read_bytes() == before
    assert cache.num_unsaved == 2
    assert np.array_equal(pool.read([0, 1]), good)
    monkeypatch.undo()
    assert np.array_equal(pool.read([2, 3]), first)
    assert np.array_equal(pool.read_cached([2, 3]), first)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_frames_are_decoded_and_one_line_says_so(video, plain, tmp_path, number, monkeypatch, caplog):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    cache = PoolCache(tmp_path)
    for _ in range(4):
        assert np.array_equal(open_pool(video, CONFIG, cache).read([3]), plain[[3]])
    assert len([line for line in caplog.messages if "cannot be locked" in line]) == 1


def test_a_lock_goes_with_the_process_that_held_it(video, plain, tmp_path):
    script = (
        "import sys, time; from verl_videomtr.video.cache import PoolCache;"
        "lock = PoolCache(sys.argv[1]).lock(sys.argv[2]); lock.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    cache = PoolCache(tmp_path)
    key = cache.key(video, CONFIG)
    with subprocess.Popen([sys.executable, "-c", script, tmp_path, key], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        assert np.array_equal(open_pool(video, CONFIG, cache).read([3]), plain[[3]])
    assert open_pool(video, CONFIG, cache).read_cached([3]) is not None


def test_a_lock_that_stays_taken_costs_time_and_no_frame(video, plain, tmp_path, monkeypatch):
    monkeypatch.setattr("verl_videomtr.video.cache._LOCK_SECONDS", 0.1)
    cache = PoolCache(tmp_path)
    pool = open_pool(video, CONFIG, cache)
    with cache.lock(cache.key(video, CONFIG)):
        assert np.array_equal(pool.read([3]), plain[[3]])
    assert pool.read_cached([3]) is None


def test_the_least_recently_used_pools_go_first(video, tmp_path):
    configs = [PoolConfig(num_frames=12, size=(56, 84 + 4 * i)) for i in range(6)]
    cache = PoolCache(tmp_path)
    pools = [open_pool(video, config, cache) for config in configs]
    for age, (config, pool) in enumerate(zip(configs, pools, strict=True)):
        pool.read(range(12))
        os.utime(cache._lock_path(cache.key(video, config)), (age, age))
    pools[0].read_cached([5])
    bounded = PoolCache(tmp_path, max_bytes=int(cache.size_bytes() * 0.6))
    assert bounded.evict() == 3
    assert bounded.size_bytes() <= bounded.max_bytes
    assert [pool.read_cached(range(12)) is not None for pool in pools] == [True, False, False, False, True, True]


def test_open_pools_hold_no_descriptor(video, tmp_path):
    cache = PoolCache(tmp_path)
    open_pool(video, CONFIG, cache).read(range(12))
    before = len(os.listdir("/proc/self/fd"))
    pools = [open_pool(video, CONFIG, cache) for _ in range(20)]
    assert all(pool.read_cached([1]) is not None for pool in pools)
    assert len(os.listdir("/proc/self/fd")) <= before


LOOK_AT_RANDOM = """
import hashlib, json, logging, random, sys, time
import numpy as np
from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.errors import VideoTimestampError
from verl_videomtr.video.pool import PoolConfig, open_pool

folder, form, seed, looks, bound, truth = *sys.argv[1:3], *map(int, sys.argv[3:6]), json.loads(sys.argv[6])
logging.basicConfig(level="WARNING", stream=sys.stdout, format="%(message)s")
config, noise = PoolConfig(num_frames=6, size=(28, 56)), random.Random(seed)
cache = PoolCache(folder, form=form, max_bytes=bound)
pools = {video: open_pool(video, config, cache) for video in truth}
for pool in pools.values():
    # What is decoded is known: the test is of the cache.
    pool._workers.decode = lambda plan, rows, decoder: (known[plan.path][rows], "pyav")
known = {video: np.load(f"{video}.npy") for video in truth}
for _ in range(looks):
    video = noise.choice(list(pools))
    rows = sorted(noise.sample(range(6), noise.randint(1, 4)))
    cached = pools[video].read_cached(rows)
    frames = pools[video].read(rows) if cached is None else cached
    for row, frame in zip(rows, frames):
        if hashlib.sha1(frame.tobytes()).hexdigest() != truth[video][row]:
            print("WRONG", video, row)
    if noise.random() < 0.05:
        cache.evict()
"""


def _look_at_random(tmp_path, forms, *, looks):
    """A process for each of `forms`, six videos, a bound that holds a part of them; return what they wrote."""
    config, videos, truth, sizes = PoolConfig(num_frames=6, size=(28, 56)), [], {}, []
    for number in range(6):
        videos.append(str(tmp_path / f"{number}.mp4"))
        awkward.write_video(videos[-1], count=20 + number, size=(48, 96))
        np.save(f"{videos[-1]}.npy", open_pool(videos[-1], config).read(range(6)))
    for form in set(forms):
        reference = PoolCache(tmp_path / form, form=form)
        pools = {video: open_pool(video, config, reference).read(range(6)) for video in videos}
        truth[form] = {v: [hashlib.sha1(frame.tobytes()).hexdigest() for frame in pools[v]] for v in videos}
        sizes.append(reference.size_bytes())
    script = [sys.executable, "-c", LOOK_AT_RANDOM, str(tmp_path / "cache")]
    runs = []
    for seed, form in enumerate(forms):
        arguments = [form, str(seed), str(looks), str(min(sizes) // 2), json.dumps(truth[form])]
        runs.append(subprocess.Popen([*script, *arguments], stdout=subprocess.PIPE, text=True))
    lines = [line for run in runs for line in run.communicate()[0].splitlines()]
    assert [run.returncode for run in runs] == [0] * len(runs)
    return lines


@pytest.mark.parametrize("forms", [("raw", "raw"), ("jpeg", "jpeg"), ("raw", "jpeg")])
def test_two_processes_and_a_bound_below_the_set_never_serve_another_frame(tmp_path, forms):
    assert _look_at_random(tmp_path, forms, looks=300) == []


@pytest.mark.slow
@pytest.mark.parametrize("forms", [("raw", "raw"), ("jpeg", "jpeg"), ("raw", "jpeg", "raw", "jpeg")])
def test_processes_and_a_bound_below_the_set_never_serve_another_frame_at_length(tmp_path, forms):
    assert _look_at_random(tmp_path, forms, looks=10_000) == []


@pytest.mark.slow
@pytest.mark.parametrize(("form", "room"), [("raw", 70_000), ("jpeg", 45_000)])
def test_a_full_memory_file_system_ends_no_process(tmp_path, form, room):
    full = tmp_path / "cache"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", full], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        with (full / "filler").open("wb") as file:
            file.write(bytes((256 << 10) - room))
        lines = _look_at_random(tmp_path, (form,) * 3, looks=400)
    finally:
        subprocess.run(["umount", full], check=True)
    assert any("cannot be written" in line for line in lines)
    assert not any("WRONG" in line for line in lines)


def test_many_processes_decode_a_video_once(video, plain, tmp_path):
    script = (
        "import sys, logging; from verl_videomtr.video import cache, pool;"
        "c = cache.PoolCache(sys.argv[2]); config = pool.PoolConfig(num_frames=12, size=(56, 84));"
        "p = pool.open_pool(sys.argv[1], config, c);"
        "decode = p._workers.decode; calls = [];"
        "p._workers.decode = lambda *a: calls.append(1) or decode(*a);"
        "p.read(range(12)); print(len(calls))"
    )
    arguments = [sys.executable, "-c", script, str(video), str(tmp_path)]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sum(int(process.communicate()[0]) for process in processes) == 1
    assert np.array_equal(open_pool(video, CONFIG, PoolCache(tmp_path)).read_cached(range(12)), plain)


def test_a_named_pipe_does_not_hold_up_the_cache(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe.mp4").st_mode)
    with pytest.raises(ValueError, match="not a regular file"):
        open_pool(tmp_path / "pipe.mp4", CONFIG, PoolCache(tmp_path / "cache"), workers=shared_workers())


@pytest.mark.parametrize("arguments", [{"form": "png"}, {"max_bytes": 0}])
def test_a_wrong_configuration_says_so(arguments, tmp_path):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        PoolCache(tmp_path, **arguments)
