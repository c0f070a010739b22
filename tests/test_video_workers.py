"""Decoding processes: reused, killed when stuck, replaced when they die, and gone when their parent is."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import awkward_videos as awkward
import numpy as np
import psutil
import pytest

from data_prep.videos import probe_videos
from verl_videomtr.video.decode_worker import send_message
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
    root = Path(__file__).parents[1]
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
        if _is_gone(child):
            return
        time.sleep(0.1)
    raise AssertionError(f"process {child} is still there")


def test_the_kernels_alarm_ends_a_decoder_that_is_stuck_in_c(video, stuck_library):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "verl_videomtr.video.decode_worker", str(theirs.fileno()), "1.0"]
        process = subprocess.Popen(
            [*command, "stuck_library"],
            pass_fds=[theirs.fileno()],
            env=_environment(stuck_library),
            preexec_fn=lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN),
        )
        send_message(ours, ("plan", (str(video), PoolConfig())))
        assert process.wait(timeout=60) == -signal.SIGALRM


def test_a_decoder_stuck_in_c_does_not_outlive_its_parent(video, stuck_library):
    script = (
        "import os, socket, subprocess, sys; from verl_videomtr.video import decode_worker, pool;"
        "ours, theirs = socket.socketpair(); fd = theirs.fileno();"
        "command = [sys.executable, '-m', 'verl_videomtr.video.decode_worker', str(fd), '2.0', 'stuck_library'];"
        "child = subprocess.Popen(command, pass_fds=[fd]);"
        "decode_worker.send_message(ours, ('plan', (sys.argv[1], pool.PoolConfig())));"
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


def test_a_decoder_stuck_in_c_is_a_timeout_of_its_file(video, stuck_library, monkeypatch):
    (stuck_library / "sitecustomize.py").write_text("import stuck_library\n")
    monkeypatch.setenv("PYTHONPATH", str(stuck_library))
    workers = DecodeWorkers(WorkerConfig(num_processes=1, deadline_seconds=1.0))
    monkeypatch.setattr("verl_videomtr.video.decode_workers._STARTUP_SECONDS", 4.0)
    with pytest.raises(VideoTimeoutError, match="held up its decoder"):
        open_pool(video, PoolConfig(num_frames=4), workers=workers)
    workers.close()


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
    assert "ended its decoding process" in str(probed["crash.mp4"].problem)
