"""The frame cache: exact, filled once, bounded, and never trusted when it is damaged."""

import os
import random
import stat
import subprocess
import sys

import awkward_videos as awkward
import numpy as np
import pytest

from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.cache_entry import CacheDamage, CacheEntry
from verl_videomtr.video.decode_workers import shared_workers
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
    assert compact.open(compact.key(video, config)).header.form == "jpeg"
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


def test_a_file_cut_while_it_is_mapped_is_read_from_the_video(video, plain, tmp_path):
    cache = PoolCache(tmp_path)
    pool = open_pool(video, CONFIG, cache)
    pool.read(range(12))
    os.truncate(_entry_file(cache), 5000)
    assert np.array_equal(pool.read(range(12)), plain)
    assert np.array_equal(open_pool(video, CONFIG, cache).read(range(12)), plain)


def test_bytes_that_are_no_entry_are_refused(tmp_path):
    path = tmp_path / "x.pool"
    for seed in range(50):
        path.write_bytes(random.Random(seed).randbytes(seed * 37))
        with pytest.raises(CacheDamage):
            CacheEntry(path)


def test_an_unwritable_cache_serves_decoded_frames(video, plain, tmp_path):
    cache = PoolCache(tmp_path)
    pools = tmp_path / "pools"
    pools.rmdir()
    pools.write_text("in the way")
    assert np.array_equal(open_pool(video, CONFIG, cache).read([3]), plain[[3]])


def test_an_entry_evicted_while_open_still_serves(video, plain, tmp_path):
    cache = PoolCache(tmp_path)
    pool = open_pool(video, CONFIG, cache)
    pool.read([1])
    _entry_file(cache).unlink()
    assert np.array_equal(pool.read([1, 2]), plain[[1, 2]])


def test_the_least_recently_opened_pools_go_first(video, tmp_path):
    configs = [PoolConfig(num_frames=12, size=(56, 84 + 4 * i)) for i in range(6)]
    cache = PoolCache(tmp_path)
    for age, config in enumerate(configs):
        open_pool(video, config, cache).read(range(12))
        os.utime(cache._entry_path(cache.key(video, config)), (age, age))
    open_pool(video, configs[0], cache)
    bounded = PoolCache(tmp_path, max_bytes=int(cache.size_bytes() * 0.6))
    assert bounded.evict() == 3
    assert bounded.size_bytes() <= bounded.max_bytes
    left = [cache.open(cache.key(video, config)) is not None for config in configs]
    assert left == [True, False, False, False, True, True]


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
