# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding processes: reused, killed when stuck, replaced when they die, and gone when their parent is."""

import asyncio
import hashlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import awkward_videos as awkward
import numpy as np
import psutil
import pytest

from data_prep.videos import probe_videos
from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.decode_worker import READY, receive_message, send_message
from verl_videomtr.video.decode_workers import DecodeWorkers, WorkerConfig
from verl_videomtr.video.errors import (
    DamagedVideoError,
    MachineFaultError,
    UnsupportedVideoError,
    VideoTimeoutError,
)
from verl_videomtr.video.pool import PoolConfig, open_pool
from verl_videomtr.video.service import FrameService


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


@pytest.fixture
def stuck_library(tmp_path):
    """A module for a decoding process that leaves FFmpeg stuck in C, never to give the interpreter lock back."""
    (tmp_path / "stuck_library.py").write_text(
        "import ctypes, av\n"
        "def forever(*arguments, **options):\n"
        "    while True:\n"
        "        ctypes.PyDLL(None).sleep(1000)  # PyDLL keeps the lock, as a binding that forgot to release it\n"
        "av.open = forever\n"
    )
    return tmp_path


def _environment(*folders):
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [root, *folders]))}


def _is_gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _children():
    return {c.pid for c in psutil.Process().children() if "decode_worker" in " ".join(c.cmdline())}


def test_one_process_serves_many_files(video, workers):
    before = _children()
    for _ in range(5):
        open_pool(video, PoolConfig(num_frames=4), workers=workers).read([0, 3])
    assert len(_children() - before) == 1


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Run a piece of code in every decoding process, before it opens a file; `WHERE` is a folder that they share."""

    def install(code):
        (tmp_path / "sitecustomize.py").write_text(f"WHERE = {str(tmp_path)!r}\n" + textwrap.dedent(code))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return install


def test_a_child_that_stops_once_is_replaced_and_the_file_is_served(video, workers):
    before = _children()
    pool = open_pool(video, PoolConfig(num_frames=4), workers=workers)
    (child,) = _children() - before
    os.kill(child, signal.SIGSTOP)
    began = time.monotonic()
    assert pool.read([0]).shape[0] == 1
    assert time.monotonic() - began < 20
    assert not psutil.pid_exists(child)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_dies_idle_is_replaced_and_the_file_is_served(video, workers, number):
    before = _children()
    pool = open_pool(video, PoolConfig(num_frames=4), workers=workers)
    (child,) = _children() - before
    os.kill(child, number)
    assert pool.read([0]).shape[0] == 1


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (signal.SIGKILL, MachineFaultError, "killed twice .signal 9., as happens where memory runs out"),
        (signal.SIGSEGV, DamagedVideoError, "ended its decoding process twice .signal 11."),
    ],
)
def test_a_child_that_dies_of_a_file_is_an_error_that_says_how(video, workers, library, number, error, words):
    library(f"import os, av; av.open = lambda *arguments, **options: os.kill(os.getpid(), {int(number)})")
    with pytest.raises(error, match=words):
        open_pool(video, workers=workers)


def test_a_file_that_only_keeps_its_decoder_busy_is_given_up_once(video, library, tmp_path):
    library(
        """
        import av
        def forever(*arguments, **options):
            open(f"{WHERE}/begun", "a").write("once ")
            while True:
                pass
        av.open = forever
        """
    )
    workers = DecodeWorkers(WorkerConfig(num_processes=1, stall_seconds=1.5))
    with pytest.raises(VideoTimeoutError, match="busy without any progress for 2 s"):
        open_pool(video, workers=workers)
    assert (tmp_path / "begun").read_text() == "once "
    workers.close()


def test_storage_that_hangs_is_a_fault_of_the_machine(video, workers, library):
    library("import time, av; av.open = lambda *arguments, **options: time.sleep(1000)")
    with pytest.raises(MachineFaultError, match=r"nothing to do for 1 s, twice.*check the storage"):
        open_pool(video, workers=workers)


def test_storage_that_hangs_once_costs_nothing_but_time(video, workers, library):
    library(
        """
        import os, time, av
        real = av.open
        def once(*arguments, **options):
            if not os.path.exists(f"{WHERE}/met"):
                open(f"{WHERE}/met", "w").close()
                time.sleep(1000)
            return real(*arguments, **options)
        av.open = once
        """
    )
    assert open_pool(video, PoolConfig(num_frames=4), workers=workers).read([0]).shape[0] == 1


def test_slow_storage_is_not_a_stuck_decoder(video, workers, library):
    # 2.4 s without a packet, while bytes come in: more than may pass without progress.
    library(
        """
        import time, av
        real = av.open
        def slow(path, **options):
            with open(path.removeprefix("file:"), "rb", buffering=0) as file:
                for _ in range(12):
                    time.sleep(0.2)
                    file.read(100)
            return real(path, **options)
        av.open = slow
        """
    )
    pool = open_pool(video, PoolConfig(num_frames=4), workers=workers)
    assert pool.read([0]).shape[0] == 1


def test_the_time_that_a_child_takes_to_start_is_not_the_files(video, workers, library):
    library("import time; time.sleep(2.5)")
    assert open_pool(video, PoolConfig(num_frames=4), workers=workers).num_frames == 4


def test_an_answer_to_another_request_is_never_taken(video, workers):
    pool = open_pool(video, PoolConfig(num_frames=60), workers=workers)
    right = pool.read([7])
    (child,) = workers._idle
    send_message(child._sock, (999, "decode", (pool._plan, np.array([8]), "auto")))
    assert np.array_equal(pool.read([7]), right)


def test_a_video_that_needs_more_memory_than_allowed_is_an_error_that_says_so(tmp_path):
    path = tmp_path / "huge.mp4"
    awkward.write_video(path, count=4, size=(2048, 2048), options={"preset": "ultrafast", "bf": "0"})
    workers = DecodeWorkers(WorkerConfig(num_processes=1, memory_gib=0.01))
    with pytest.raises(UnsupportedVideoError, match=r"more than 0\.01 GiB.*memory_gib"):
        open_pool(path, PoolConfig(num_frames=4), workers=workers).read([0, 3])
    workers.close()
    workers = DecodeWorkers(WorkerConfig(num_processes=1))
    assert open_pool(path, PoolConfig(num_frames=4), workers=workers).read([0, 3]).shape[0] == 2
    workers.close()


def test_frames_asked_for_do_not_count_as_memory_of_the_decoder(video):
    workers = DecodeWorkers(WorkerConfig(num_processes=1, memory_gib=0.05))
    pool = open_pool(video, PoolConfig(num_frames=60, size=(800, 1000)), workers=workers)
    assert pool.read(range(60)).nbytes > 0.05 * 2**30
    workers.close()


def test_every_frame_of_a_pool_is_looked_at_where_that_is_asked_for(video, tmp_path, workers):
    assert workers.check(video, PoolConfig(num_frames=40)).num_frames == 40
    damaged = tmp_path / "damaged.mp4"
    data = bytearray(video.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    damaged.write_bytes(data)
    assert open_pool(damaged, PoolConfig(num_frames=40), workers=workers).num_frames == 40
    with pytest.raises(DamagedVideoError):
        workers.check(damaged, PoolConfig(num_frames=40))


def test_a_file_is_hashed_in_a_child(video, tmp_path, workers):
    assert workers.hash_file(video) == hashlib.blake2b(video.read_bytes(), digest_size=20).hexdigest()
    with pytest.raises(FileNotFoundError):
        workers.hash_file(tmp_path / "gone.mp4")


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
        if _is_gone(child):
            return
        time.sleep(0.1)
    raise AssertionError(f"process {child} is still there")


def test_the_kernels_alarm_ends_a_decoder_that_is_stuck_in_c(video, stuck_library):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "verl_videomtr.video.decode_worker", str(theirs.fileno()), "1.0", str(2**31)]
        process = subprocess.Popen(
            [*command, "stuck_library"],
            pass_fds=[theirs.fileno()],
            env=_environment(stuck_library),
            preexec_fn=lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN),
        )
        assert receive_message(ours) == READY
        send_message(ours, (1, "plan", (str(video), PoolConfig())))
        assert process.wait(timeout=60) == -signal.SIGALRM


def test_a_decoder_stuck_in_c_does_not_outlive_its_parent(video, stuck_library):
    script = (
        "import os, socket, subprocess, sys; from verl_videomtr.video import decode_worker, pool;"
        "ours, theirs = socket.socketpair(); fd = theirs.fileno();"
        "command = [sys.executable, '-m', 'verl_videomtr.video.decode_worker', str(fd), '2.0', '2147483648'];"
        "command.append('stuck_library');"
        "child = subprocess.Popen(command, pass_fds=[fd]);"
        "decode_worker.send_message(ours, (1, 'plan', (sys.argv[1], pool.PoolConfig())));"
        "print(child.pid, flush=True); os._exit(0)"
    )
    command = [sys.executable, "-c", script, str(video)]
    process = subprocess.Popen(command, env=_environment(stuck_library), stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    process.wait(timeout=60)
    for _ in range(300):
        if _is_gone(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError(f"process {child} is still there")


def test_a_request_that_passes_the_deadline_is_a_timeout_of_its_file(video, stuck_library, monkeypatch):
    (stuck_library / "sitecustomize.py").write_text("import stuck_library\n")
    monkeypatch.setenv("PYTHONPATH", str(stuck_library))
    workers = DecodeWorkers(WorkerConfig(num_processes=1, deadline_seconds=1.0))
    with pytest.raises(VideoTimeoutError, match="took longer than 1 s in all"):
        open_pool(video, PoolConfig(num_frames=4), workers=workers)
    workers.close()


def _in_a_fork(work):
    """Run `work` in a forked process and return whether it said True; wait for it at most a minute."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writer, b"1" if work() else b"0")
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], 60)
        if not ready:
            os.kill(child, signal.SIGKILL)
        said = pipe.read(1) if ready else b""
    os.waitpid(child, 0)
    return said == b"1"


def test_a_fork_gets_processes_of_its_own(video):
    expected = open_pool(video, PoolConfig(num_frames=4)).read([1])
    assert _in_a_fork(lambda: np.array_equal(open_pool(video, PoolConfig(num_frames=4)).read([1]), expected))
    assert np.array_equal(open_pool(video, PoolConfig(num_frames=4)).read([1]), expected)


def test_a_pool_opened_before_a_fork_gives_each_side_its_own_frames(video, workers):
    pool = open_pool(video, PoolConfig(num_frames=60), workers=workers)
    whole = pool.read(range(60))

    noise = np.random.default_rng(0)
    orders = [noise.permutation(60)[:25] for _ in range(2)]

    def reads_right(side):
        return all(np.array_equal(pool.read([i])[0], whole[i]) for i in orders[side])

    results = {}
    thread = threading.Thread(target=lambda: results.update(here=reads_right(0)))
    thread.start()
    results["there"] = _in_a_fork(lambda: reads_right(1))
    thread.join(60)
    assert results == {"here": True, "there": True}


def test_workers_that_are_all_busy_at_a_fork_are_free_after_it(video, workers):
    pool = open_pool(video, PoolConfig(num_frames=4), workers=workers)
    for _ in range(2):
        workers._free.acquire()
    try:
        assert _in_a_fork(lambda: pool.read([0]).shape[0] == 1)
    finally:
        workers._free.release(2)


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


def test_a_file_that_crashes_its_decoder_is_listed_when_videos_are_checked(video, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, av\n"
        "real = av.open\n"
        "av.open = lambda path, **options: os.abort() if path.endswith('crash.mp4') else real(path, **options)\n"
    )
    for name in ("plain.mp4", "crash.mp4"):
        (tmp_path / name).write_bytes(video.read_bytes())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    probed = probe_videos(["crash.mp4", "plain.mp4"], root=tmp_path)
    assert probed["plain.mp4"].duration_seconds == pytest.approx(2.0)
    assert "ended its decoding process twice" in str(probed["crash.mp4"].problem)


def test_a_service_opened_before_a_fork_serves_both_sides(video):
    service = FrameService(config=PoolConfig(num_frames=8))
    expected = asyncio.run(service.read(video, [1, 5]))

    def serves():
        return np.array_equal(asyncio.run(service.read(video, [1, 5])), expected)

    assert _in_a_fork(serves)
    assert serves()
    service.close()


def test_a_cache_does_not_wait_for_storage_that_hangs(video, tmp_path, workers, library):
    library(
        """
        import time
        from verl_videomtr.video import content_hash
        content_hash.open = lambda *arguments, **options: time.sleep(1000)
        """
    )
    with pytest.raises(MachineFaultError, match="nothing to do"):
        open_pool(video, cache=PoolCache(tmp_path / "cache"), workers=workers)
