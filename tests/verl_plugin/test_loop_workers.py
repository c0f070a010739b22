# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Lost trajectories between verl's worker, a real TransferQueue and verl's replay buffers: none goes uncounted.

The worker, the trainer and the queue are the real ones; only the language model's words are given.
"""

from __future__ import annotations

import os
import re
import signal
import time
from types import SimpleNamespace

import psutil
import pytest
import ray
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

from verl_videomtr.trajectory_files import read_file, step_file
from verl_videomtr.watchdog import RunEndedError, Watchdog

pytest_plugins = ["plugin_setting", "queue_setting"]


class EmptyLoop:
    """An agent loop that gives nothing back, as verl allows."""

    def __init__(self, **kwargs) -> None:
        pass

    async def run(self, sampling_params, **kwargs):
        return []


class UnwritableLoop(EmptyLoop):
    """One whose output verl cannot turn into a row: no response, and a reward for its last token."""

    async def run(self, sampling_params, **kwargs):
        return AgentLoopOutput(
            prompt_ids=[1],
            response_ids=[],
            response_mask=[],
            num_turns=2,
            reward_score=1.0,
            metrics=AgentLoopMetrics(),
            extra_fields={"reward_extra_info": {}},
        )


def test_every_kind_of_loss_is_counted_and_has_a_reason(make_run):
    run = make_run("video_mtr_sync", "videomtr.video.max_unreadable_share=1.0")
    run.hand_out(["/videos/good.mp4", "/videos/broken.mp4", "schema", "/videos/good.mp4"])
    assert len(run.sample().keys) == 2
    losses = run.manager.ledger.take("train")
    assert (losses.num_asked, losses.num_lost) == (4, 2)
    assert {(report.sample_id, report.kind) for report in losses.reports} == {
        ("/videos/broken.mp4", "unreadable"),
        ("schema", "failed"),
    }
    assert run.manager.ledger.open_samples() == []


def test_answers_that_overlap_tell_a_loss_once(make_run):
    run = make_run("video_mtr_sync", "videomtr.video.max_unreadable_share=1.0")
    for broken in ("/videos/broken.mp4", "schema"):  # both answers hold all reports since the worker's start
        run.hand_out(["/videos/good.mp4", broken])
    assert len(run.sample().keys) == 2
    reports = run.manager.ledger.take("train").reports
    assert [report.sample_id for report in reports] == ["/videos/broken.mp4", "schema"]


@pytest.mark.parametrize("agent", ["empty", "unwritable", "unknown"])
def test_what_verl_itself_loses_behind_any_agent_loop_is_counted_too(make_run, monkeypatch, agent):
    # verl's own code loses these: no output, one that it cannot store, a loop that nobody registered.
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry

    for name, loop in (("empty", "EmptyLoop"), ("unwritable", "UnwritableLoop")):
        monkeypatch.setitem(_agent_loop_registry, name, {"_target_": f"{__name__}.{loop}"})
    run = make_run("video_mtr_sync", "videomtr.video.max_unreadable_share=1.0")
    run.hand_out(["/videos/a.mp4", "/videos/b.mp4"], agent=agent)
    run.hand_out(["/videos/good.mp4"] * 2)
    assert len(run.sample().keys) == 2
    losses = run.manager.ledger.take("train")
    assert (losses.num_asked, losses.num_lost, losses.count("failed")) == (4, 2, 2)


def test_a_batch_without_any_trajectory_stops_the_run_with_the_reason(make_run, tmp_path):
    run = make_run("video_mtr_sync", f"videomtr.dump.dir={tmp_path}")
    run.hand_out(["/videos/broken.mp4"] * 4)
    with pytest.raises(RuntimeError, match=r"4 of the last 4 trajectories were lost \(100%\).*cannot be read"):
        run.sample()
    # The lines that say which come before the end.
    lost = read_file(step_file(tmp_path, 1)).lost
    assert [(line["sample_id"], line["kind"], line["step"]) for line in lost] == [
        ("/videos/broken.mp4", "unreadable", 1)
    ] * 4


def test_a_failing_asynchronous_run_ends_instead_of_refilling_for_ever(make_run):
    run = make_run("video_mtr_colocate_async")
    run.hand_out(["/videos/broken.mp4"] * 4)
    with pytest.raises(RuntimeError, match=r"trajectories were lost \(100%\)"):
        run.sample()


def test_unreadable_videos_are_refilled_where_verl_is_told_to(make_run):
    run = make_run(
        "video_mtr_sync", "trainer.v1.sampler.sync_refill_failed_groups=true", "videomtr.video.max_unreadable_share=1.0"
    )
    refilled = []

    def refill(count: int) -> None:
        refilled.append(count)
        run.hand_out(["/videos/good.mp4"] * count)

    run.trainer.replay_buffer.refill_fn = refill
    run.hand_out(["/videos/good.mp4"] * 3 + ["/videos/broken.mp4"])
    assert len(run.sample().keys) == 4
    assert refilled == [1]
    assert run.manager.ledger.take("train").num_lost == 1


def test_validation_losses_are_validations_own(make_run):
    run = make_run("video_mtr_sync")
    run.hand_out(["/videos/good.mp4"] * 3 + ["/videos/broken.mp4"])
    run.hand_out(["/videos/broken.mp4"] * 3 + ["/videos/good.mp4"], partition="val")
    assert len(run.sample(partition="val").keys) == 1
    assert run.manager.ledger.take("val").num_lost == 3
    assert len(run.sample().keys) == 3
    training = run.manager.ledger.take("train")
    assert (training.num_asked, training.num_lost) == (4, 1)


def test_a_validation_leaves_the_losses_of_training_to_their_step(make_run, monkeypatch):
    run = make_run("video_mtr_sync")
    run.hand_out(["/videos/good.mp4"] * 3 + ["/videos/broken.mp4"])
    assert len(run.sample().keys) == 3
    monkeypatch.setattr("verl.trainer.ppo.v1.trainer_base.PPOTrainer._validate", lambda self: {})
    assert run.trainer._validate()["videomtr/val/lost"] == 0
    assert run.manager.ledger.take("train").num_lost == 1


def test_a_manager_that_counts_nothing_is_refused(make_run):
    run = make_run("video_mtr_sync")
    with pytest.raises(ValueError, match=r"object counts no lost.*set actor_rollout_ref.rollout.agent.agent_loop_mana"):
        run.trainer.fit(object())


@ray.remote(num_cpus=0)
class Sleeper:
    """An actor with a process of its own."""

    def pid(self) -> int:
        return os.getpid()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@ray.remote(num_cpus=0)
class Trainer:
    """An actor that waits for another one, under a watchdog."""

    def wait(self, sleeper: ray.actor.ActorHandle) -> None:
        watchdog = Watchdog(
            stall_seconds=None, phase_seconds=1, find=list, waiting=str, advice=lambda: "start again", look_seconds=0.1
        )
        watchdog.start()
        with watchdog.guard(patience_seconds=lambda _: 0.0), watchdog.during("the policy's update"):
            ray.get(sleeper.sleep.remote(60))


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_actor_is_seen_with_its_pid_and_its_log(queue):
    from verl_videomtr.verl_plugin.processes import RayProcess

    actor = Sleeper.remote()
    process = RayProcess("sleeper 0", actor)
    pid = ray.get(actor.pid.remote())
    wait_until(lambda: process.look().state == "answers" and "pid" in process.where())
    os.kill(pid, signal.SIGSTOP)
    process.look()
    assert process.look().state == "silent"
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process.look().state == "dead")
    assert re.fullmatch(rf"pid {pid} on [\d.]+, its log: /\S+-{pid}\.err", process.where())
    assert process.look().cause.startswith("its worker process has died")
    assert "Some common causes" not in process.look().cause


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.OutOfMemoryError("3 workers were killed due to the node running low on memory"),
        ray.exceptions.WorkerCrashedError(),
        ray.exceptions.ActorDiedError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_each_way_in_which_ray_tells_a_death_is_one(monkeypatch, error):
    from verl_videomtr.verl_plugin import processes

    def get(reference):
        raise error

    remote = SimpleNamespace(remote=lambda *_: "a reference")
    monkeypatch.setattr(processes.ray, "wait", lambda references, timeout: (references, []))
    monkeypatch.setattr(processes.ray, "get", get)
    process = processes.RayProcess("worker 0", SimpleNamespace(__ray_call__=remote, __ray_ready__=remote))
    health = process.look()
    assert health.state == "dead"
    assert health.cause.split()[:3] == processes._say_cause(error).split()[:3]
    assert "its log is among Ray's" in process.where()


def test_the_end_is_told_where_the_trainer_waits_for_ray(queue):
    # Ray raises a KeyboardInterrupt of its own in place of the one that a signal raised.
    with pytest.raises(RunEndedError, match=r"nothing has moved for 1 s during the policy's update.*start again"):
        ray.get(Trainer.remote().wait.remote(Sleeper.remote()))


def test_a_trainer_that_stands_still_is_ended_by_a_worker(queue):
    from verl_videomtr.verl_plugin.loop_workers import _TrainerGuard

    trainer = Sleeper.remote()
    pid = ray.get(trainer.pid.remote())
    guard = _TrainerGuard(4.0, trainer, pid, ray.get_runtime_context().get_node_id())
    for _ in range(5):  # an end would come within the limit and two looks
        time.sleep(2)
        guard.heard()
    assert psutil.pid_exists(pid)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
