"""Decoding processes: reused, killed when stuck, replaced when they die, and gone when their parent is."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import awkward_videos as awkward
import numpy as np
import psutil
import pytest

from verl_videomtr.video.decode_workers import DecodeWorkers, WorkerConfig
from verl_videomtr.video.errors import DamagedVideoError, VideoTimeoutError
from verl_videomtr.video.pool import PoolConfig, open_pool


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("workers") / "plain.mp4"
    awkward.write_video(path, count=60)
    return path


@pytest.fixture
def workers():
    workers = DecodeWorkers(WorkerConfig(num_processes=2, stall_seconds=1.0))
    yield workers
    workers.close()


def _children():
    return {c.pid for c in psutil.Process().children() if "decode_worker" in " ".join(c.cmdline())}


def test_one_process_serves_many_files(video, workers):
    before = _children()
    for _ in range(5):
        open_pool(video, PoolConfig(num_frames=4), workers=workers).read([0, 3])
    assert len(_children() - before) == 1


def test_a_stuck_decoder_is_killed_and_the_next_file_is_served(video, workers):
    before = _children()
    pool = open_pool(video, PoolConfig(num_frames=4), workers=workers)
    (child,) = _children() - before
    os.kill(child, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(VideoTimeoutError, match="no progress for 1 s"):
        pool.read([0])
    assert time.monotonic() - began < 5
    assert not psutil.pid_exists(child)
    assert pool.read([0]).shape[0] == 1


def test_a_decoder_that_crashes_is_an_error_of_the_file_alone(video, workers):
    before = _children()
    pool = open_pool(video, PoolConfig(num_frames=4), workers=workers)
    (child,) = _children() - before
    os.kill(child, signal.SIGSEGV)
    with pytest.raises(DamagedVideoError, match="ended its decoding process"):
        pool.read([0])
    assert pool.read([0]).shape[0] == 1


def test_threads_share_the_processes(video, workers):
    before = _children()
    pool = open_pool(video, PoolConfig(num_frames=16), workers=workers)
    whole, results = pool.read(range(16)), {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: pool.read([i])})) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[i][0], whole[i]) for i in range(16))
    assert len(_children() - before) <= 2


def test_no_process_outlives_its_parent(video):
    script = (
        "import sys; from verl_videomtr.video.pool import open_pool; import psutil; open_pool(sys.argv[1]);"
        "print([c.pid for c in psutil.Process().children()][0], flush=True); import os, signal;"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(video)], capture_output=True, text=True, check=False)
    child = int(done.stdout)
    for _ in range(50):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {child} is still there")


def test_a_fork_gets_processes_of_its_own(video):
    expected = open_pool(video, PoolConfig(num_frames=4)).read([1])
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(
                writer, b"1" if np.array_equal(open_pool(video, PoolConfig(num_frames=4)).read([1]), expected) else b"0"
            )
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 1) == b"1"
    os.waitpid(child, 0)
    os.close(reader)
    assert np.array_equal(open_pool(video, PoolConfig(num_frames=4)).read([1]), expected)


def test_errors_cross_processes_whole():
    error = DamagedVideoError("is broken", path="/x/y.mp4", remedy="fetch it again")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.reason, copy.path) == (type(error), str(error), error.reason, error.path)


def test_reading_needs_no_torch(video):
    script = (
        "import sys; from verl_videomtr.video.pool import open_pool; open_pool(sys.argv[1]).read([0]);"
        "assert not {'torch', 'verl', 'ray', 'vllm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(video)], check=True)
