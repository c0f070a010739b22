# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A command whose Ray cluster stops answering ends by itself: a real Ray (`ray.init`), its GCS or raylet stopped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import psutil
import pytest

from verl_videomtr.checkpoints import TRACKER, say_how_to_resume
from verl_videomtr.verl_plugin import cluster_watch

COMMAND = """
import sys, time
import ray
from omegaconf import OmegaConf
from verl_videomtr.verl_plugin import cluster_watch

cluster_watch.LOOK_SECONDS, cluster_watch.ANSWER_SECONDS, cluster_watch.SHUTDOWN_SECONDS = 0.2, 0.5, 3.0
minutes = None if sys.argv[1] == "none" else float(sys.argv[1])
config = {"videomtr": {"stall_minutes": minutes}, "trainer": {"default_local_dir": "runs/one"}}
watch = cluster_watch.watch_cluster(OmegaConf.create(config))
time.sleep(1)
ray.init(num_cpus=1, include_dashboard=False, logging_level="error")

@ray.remote
class Busy:
    def work(self, seconds):
        time.sleep(seconds)

busy = Busy.remote()
ray.get(busy.work.remote(0))
for name in ("gcs_server", "raylet"):
    (started,) = ray._private.worker._global_node.all_processes[name]
    print(name, started.process.pid, flush=True)
ray.get(busy.work.remote(float(sys.argv[2])))
print("done", flush=True)
if watch is not None:
    watch.has_failed = False
sys.stdin.readline()
"""
HEALTH = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}
"""How soon the GCS gives a silent raylet up; a minute by default."""


@pytest.fixture
def start():
    started = []

    def command(stall_minutes, work_seconds):
        arguments = [sys.executable, "-c", COMMAND, str(stall_minutes), str(work_seconds)]
        process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | HEALTH,
        )  # fmt: skip
        started.append(process)
        pids = {}
        while len(pids) < 2:
            name, pid = process.stdout.readline().split()
            pids[name] = psutil.Process(int(pid))
        return process, pids, psutil.Process(process.pid).children(recursive=True)

    yield command
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


def test_a_stopped_gcs_ends_the_command_and_leaves_nothing(start):
    process, pids, children = start(0.05, 600)
    pids["gcs_server"].suspend()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    said = rf"verl_videomtr: Ray's GCS \(pid {pids['gcs_server'].pid}, its log: \S+gcs_server\.out\) has not answered "
    assert re.search(said + "for [3-9] s; " + ".*; no checkpoint has been saved; start the run again\n", error), error
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_stopped_raylet_ends_the_command_that_has_failed(start):
    process, pids, children = start(10, 600)
    pids["raylet"].suspend()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ActorDiedError" in error
    said = (
        rf"verl_videomtr: Ray has not shut down within 3 s, as where its raylet \(pid {pids['raylet'].pid}, its log: "
    )
    assert re.search(
        said + r"\S+raylet\.out\) is stopped.*; no checkpoint has been saved; start the run again\n", error
    )
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


@pytest.mark.parametrize(("process_name", "called"), [("gcs_server", "GCS"), ("raylet", "raylet")])
def test_a_dead_process_of_rays_is_named_at_once(start, process_name, called):
    process, pids, children = start(10, 600)
    started = time.monotonic()
    pids[process_name].kill()
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == 1
    said = rf"verl_videomtr: Ray's {called} died \(pid {pids[process_name].pid}, its log: \S+{process_name}\.out\); "
    assert re.search(said + "no checkpoint has been saved; start the run again\n", error), error
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_raylet_that_stops_behind_a_complete_run_fails_nothing(start):
    process, pids, children = start(10, 0)
    assert process.stdout.readline() == "done\n"
    pids["raylet"].suspend()
    _, error = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert "the run itself was complete" in error
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_gcs_that_pauses_for_less_is_let_be(start):
    process, pids, _ = start(0.2, 8)
    pids["gcs_server"].suspend()
    time.sleep(2)
    pids["gcs_server"].resume()
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "done\n")


def test_what_has_no_gcs_of_its_own_is_not_taken_for_silent():
    assert cluster_watch._answers()


def test_without_a_limit_nothing_watches(start):
    process, pids, _ = start("none", 4)
    pids["gcs_server"].suspend()
    time.sleep(3)
    assert process.poll() is None
    pids["gcs_server"].resume()
    assert process.communicate(timeout=60)[0] == "done\n"


FAILURE = """
import sys
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from verl_videomtr.verl_plugin.launch_check import LaunchCheck

config = OmegaConf.create({"trainer": {"default_local_dir": sys.argv[1]}})
failure = RuntimeError(sys.argv[2])
LaunchCheck().on_job_end(config, JobReturn(status=JobStatus.FAILED, _return_value=failure))
raise failure
"""


@pytest.mark.parametrize("said_before", [False, True])
def test_a_run_that_another_error_ends_says_how_it_goes_on_last_and_once(tmp_path, said_before):
    (tmp_path / TRACKER).write_text("7")
    advice = say_how_to_resume(tmp_path)
    failure = f"a worker died; {advice}" if said_before else "a worker died"
    done = subprocess.run(
        [sys.executable, "-c", FAILURE, str(tmp_path), failure],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "the last checkpoint is step 7" in done.stderr.splitlines()[-1]
    assert done.stderr.count(advice) == 1
