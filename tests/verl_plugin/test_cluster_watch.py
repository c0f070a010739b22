# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A command whose Ray cluster stops answering ends by itself: a real Ray (`ray.init`), its GCS stopped."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import psutil
import pytest

from verl_videomtr.verl_plugin import cluster_watch

COMMAND = """
import sys, time
import ray
from omegaconf import OmegaConf
from verl_videomtr.verl_plugin import cluster_watch

cluster_watch.LOOK_SECONDS, cluster_watch.ANSWER_SECONDS = 0.2, 0.5
minutes = None if sys.argv[1] == "none" else float(sys.argv[1])
config = {"videomtr": {"stall_minutes": minutes}, "trainer": {"default_local_dir": "runs/one"}}
cluster_watch.watch_cluster(OmegaConf.create(config))
time.sleep(1)
ray.init(num_cpus=1, include_dashboard=False, logging_level="error")

@ray.remote
class Busy:
    def work(self, seconds):
        time.sleep(seconds)

busy = Busy.remote()
ray.get(busy.work.remote(0))
(gcs,) = ray._private.worker._global_node.all_processes["gcs_server"]
print("gcs", gcs.process.pid, flush=True)
ray.get(busy.work.remote(float(sys.argv[2])))
print("done", flush=True)
"""


@pytest.fixture
def start():
    started = []

    def command(stall_minutes, work_seconds):
        arguments = [sys.executable, "-c", COMMAND, str(stall_minutes), str(work_seconds)]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        gcs = psutil.Process(int(re.search(r"gcs (\d+)", process.stdout.readline())[1]))
        return process, gcs, psutil.Process(process.pid).children(recursive=True)

    yield command
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


def test_a_stopped_gcs_ends_the_command_and_leaves_nothing(start):
    process, gcs, children = start(0.05, 600)
    gcs.suspend()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    said = rf"verl_videomtr: Ray's GCS \(pid {gcs.pid}, its log: \S+gcs_server\.out\) has not answered for [3-9] s; "
    assert re.search(said + ".*; no checkpoint has been saved; start the run again\n", error), error
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_gcs_that_pauses_for_less_is_let_be(start):
    process, gcs, _ = start(0.2, 8)
    gcs.suspend()
    time.sleep(2)
    gcs.resume()
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "done\n")


def test_what_has_no_gcs_of_its_own_is_not_taken_for_silent():
    assert cluster_watch._answers()


def test_without_a_limit_nothing_watches(start):
    process, gcs, _ = start("none", 4)
    gcs.suspend()
    time.sleep(3)
    assert process.poll() is None
    gcs.resume()
    assert process.communicate(timeout=60)[0] == "done\n"
