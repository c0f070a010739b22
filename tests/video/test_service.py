# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The async frame service: one opening per video, no stall of the loop, failures counted."""

import asyncio
import errno
import os
import time

import awkward_videos as awkward
import numpy as np
import pytest

from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.decode_workers import WorkerConfig
from verl_videomtr.video.errors import DamagedVideoError, VideoError, VideoNotFoundError, VideoTimestampError
from verl_videomtr.video.pool import PoolConfig, open_pool
from verl_videomtr.video.service import FrameService

CONFIG = PoolConfig(num_frames=16, size=(56, 84))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    paths = [folder / f"{i}.mp4" for i in range(4)]
    for i, path in enumerate(paths):
        awkward.write_video(path, count=60 + i)
    return paths


@pytest.fixture
def service(tmp_path):
    service = FrameService(config=CONFIG, cache=PoolCache(tmp_path), workers=WorkerConfig(num_processes=1))
    yield service
    service.close()


async def test_episodes_on_one_video_share_one_opening(service, videos):
    frames = await asyncio.gather(*[service.read(videos[0], [i, 15]) for i in range(12)])
    expected = open_pool(videos[0], CONFIG).read(range(16))
    assert all(np.array_equal(frame, expected[[i, 15]]) for i, frame in enumerate(frames))
    metrics = service.metrics()
    assert metrics["videomtr/frames/pool_misses"] == 1
    assert metrics["videomtr/frames/frames_read"] == 24
    assert metrics["videomtr/frames/decode_seconds"] > 0


async def test_a_cached_read_does_not_queue_behind_decoding(service, videos, tmp_path):
    slow = tmp_path / "slow.mp4"
    awkward.write_video(slow, count=240, size=(720, 1280), gop=240)
    await service.read(videos[0], range(16))
    busy = asyncio.ensure_future(service.read(slow, range(16)))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await service.read(videos[0], range(8))
    took = time.monotonic() - began
    assert not busy.done()
    assert took < 0.2
    assert (await busy).shape == (16, 56, 84, 3)
    assert service.metrics()["videomtr/frames/cache_hits"] == 1


async def test_a_failure_reaches_every_waiter_is_counted_and_tried_again(service, tmp_path):
    path = tmp_path / "bad.mp4"
    path.write_text("no video")
    results = await asyncio.gather(*[service.read(path, [0]) for _ in range(3)], return_exceptions=True)
    assert all(isinstance(result, VideoError) for result in results)
    assert service.metrics()["videomtr/frames/failures_DamagedVideoError"] == 1
    with pytest.raises(DamagedVideoError):
        await service.read(path, [0])
    awkward.write_video(path, count=30)
    assert len(await service.read(path, [0])) == 1


async def test_prefetch_fills_the_first_turn(service, videos):
    service.prefetch(videos[1], lambda pool: [0, pool.num_frames - 1])
    while not service.metrics().get("videomtr/frames/frames_read"):
        await asyncio.sleep(0.01)
    await service.read(videos[1], [0, 15])
    assert service.metrics()["videomtr/frames/cache_hits"] == 1


async def test_prefetch_of_a_bad_video_is_counted_and_raises_nothing(service, tmp_path):
    service.prefetch(tmp_path / "gone.mp4", lambda pool: [0])
    while not service.metrics().get("videomtr/frames/prefetch_failures"):
        await asyncio.sleep(0.01)


async def test_the_number_of_open_pools_is_bounded(videos, tmp_path):
    service = FrameService(config=CONFIG, cache=PoolCache(tmp_path), max_open_pools=2)
    for path in videos:
        await service.read(path, [0])
    assert service.metrics()["videomtr/frames/open_pools"] == 2
    assert service.metrics()["videomtr/frames/pools_closed"] == 2
    service.close()


@pytest.mark.parametrize("with_cache", [True, False])
async def test_a_video_that_changed_is_opened_anew(videos, tmp_path, with_cache):
    cache, path = PoolCache(tmp_path / "cache") if with_cache else None, tmp_path / "v.mp4"
    service = FrameService(config=CONFIG, cache=cache)
    path.write_bytes(videos[0].read_bytes())
    held = await service.pool(path)
    await service.read(held, [0])
    os.utime(path)
    assert np.array_equal(await service.read(path, [3]), open_pool(videos[0], CONFIG).read([3]))
    held = await service.pool(path)
    path.write_bytes(videos[3].read_bytes())
    with pytest.raises(VideoTimestampError):
        await service.read(held, [9])
    assert np.array_equal(await service.read(path, [9]), open_pool(videos[3], CONFIG).read([9]))
    assert service.metrics()["videomtr/frames/pools_changed"] == 2
    service.close()


async def test_a_video_that_is_gone_serves_what_is_cached(service, videos, tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(videos[0].read_bytes())
    frames = await service.read(path, [3])
    path.unlink()
    assert np.array_equal(await service.read(path, [3]), frames)
    with pytest.raises(VideoNotFoundError, match="gone"):
        await service.read(path, [4])


async def test_frames_that_could_not_be_kept_are_counted(service, videos, monkeypatch):
    await service.pool(videos[0])

    def pwrite(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert len(await service.read(videos[0], [0, 3])) == 2
    assert service.metrics()["videomtr/frames/cache_unsaved"] == 2


async def test_a_waiter_that_is_cancelled_leaves_the_opening_to_the_others(service, videos):
    first = asyncio.ensure_future(service.read(videos[2], [0]))
    second = asyncio.ensure_future(service.read(videos[2], [1]))
    await asyncio.sleep(0)
    first.cancel()
    assert len(await second) == 1


async def test_without_a_cache_frames_are_decoded(videos):
    service = FrameService(config=CONFIG)
    assert (await service.read(videos[0], [2])).shape == (1, 56, 84, 3)
    service.close()


async def test_an_index_outside_the_pool_is_an_error(service, videos):
    with pytest.raises(IndexError, match=r"expected 0\.\.15"):
        await service.read(videos[0], [16])
