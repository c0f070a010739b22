# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The plugin's trainer modes around verl's own steps, without Ray: what each override adds."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import open_dict
from plugin_setting import LOOK
from rollout_setting import ANSWER
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensordict import TensorDict
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.v1 import PPOTrainer
from verl.utils.tracking import Tracking, ValidationGenerationsLogger

from verl_videomtr.losses import AskedPrompt, Ledger, LossReport
from verl_videomtr.settings import load_settings
from verl_videomtr.trajectory_files import read_file, step_file
from verl_videomtr.verl_plugin import estimators, trainers, watched_run
from verl_videomtr.verl_plugin.counted_run import CountedRun
from verl_videomtr.verl_plugin.episode_table import EpisodeTable
from verl_videomtr.verl_plugin.frame_counters import FrameCounters
from verl_videomtr.verl_plugin.recorder import Recorder
from verl_videomtr.verl_plugin.schedule import Schedule

pytest_plugins = ["plugin_setting"]


def make_trainer(config: Any, *, base_mode: str = "sync", step: int = 1) -> Any:
    """A trainer as verl's constructor would leave it, as far as the overrides look."""
    trainer: Any = object.__new__(trainers.VideoMTRSync)
    trainer.config, trainer.videomtr, trainer.base_mode = config, load_settings(config), base_mode
    trainer.use_critic, trainer.global_steps, trainer.local_trigger_step = True, step, 0
    trainer.schedule = Schedule(trainer.videomtr.bootstrap)
    trainer.frame_counters = FrameCounters()
    trainer.recorder = Recorder(trainer.videomtr.dump, describe=dict)
    trainer.logger, trainer.validation_generations_logger = Tracking("p", "e", []), ValidationGenerationsLogger()
    trainer.episode_table = EpisodeTable(
        trainer.videomtr.log_val_episodes, run={}, workers=trainer.videomtr.video.workers
    )
    return trainer


def nest(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


@pytest.fixture
def stored(setting, monkeypatch):
    """A batch of three rows, one of padding, in what stands for verl's store; and what verl's step is given."""
    outputs = [setting.play(script).outputs[0] for script in ([LOOK, ANSWER], [ANSWER])]
    extra = [output.extra_fields for output in outputs]
    lengths = [len(output.response_ids) for output in outputs] + [4]
    columns = {
        "values": nest([torch.arange(float(length)) for length in lengths]),
        "advantages": nest([10 + torch.arange(float(length)) for length in lengths]),
        "returns": nest([20 + torch.arange(float(length)) for length in lengths]),
        "response_mask": nest([torch.ones(length) for length in lengths]),
    }
    seen: dict[str, Any] = {}

    def read(batch, names):
        data = TensorDict({name: columns[name] for name in names if name in columns}, batch_size=3)
        if "extra_fields" in names:
            data["extra_fields"] = [*extra, extra[0]]
        return data

    def compute(self, batch, metrics):
        seen["context"] = estimators._batch.get()
        return batch

    monkeypatch.setattr(trainers, "read_fields", read)
    monkeypatch.setattr(PPOTrainer, "_compute_advantage", compute)
    for place, each in enumerate(extra):
        each["videomtr"] = {**each["videomtr"], "uid": f"u{place}"}
    batch = SimpleNamespace(
        keys=["u0_0_0", "u1_0_0", "p_0_0"], tags=[{}, {}, {"is_padding": True}], partition_id="train"
    )
    return SimpleNamespace(batch=batch, seen=seen, outputs=outputs)


def test_verls_own_step_runs_inside_the_batchs_context_and_its_credit_is_written_down(setting, stored, tmp_path):
    trainer = make_trainer(setting.config(f"videomtr.dump.dir={tmp_path}"), step=7)
    metrics: dict[str, float] = {}
    assert trainer._compute_advantage(stored.batch, metrics) is stored.batch
    context = stored.seen["context"]
    assert context.values[0, 3] == 3.0
    assert context.credit == trainer.videomtr.credit
    assert context.trajectory_ids.tolist() == [0, 1, 2]
    assert (context.turn_ids[2] == -1).all()
    assert estimators._batch.get() is None
    assert metrics["videomtr/bootstrap/bonus"] == 0.5  # one of three turns retrieves
    assert metrics["videomtr/episode/turns"] == 1.5
    by_uid = {record["uid"]: record for record in read_file(step_file(tmp_path, 7)).played}
    spans = stored.outputs[0].extra_fields["videomtr"]["turn_spans"]
    assert by_uid["u0"]["advantages"] == [10.0 + end - 1 for _, end in spans]
    assert by_uid["u0"]["returns"] == [20.0 + end - 1 for _, end in spans]
    assert by_uid["u0"]["values"] == [float(end - 1) for _, end in spans]
    assert by_uid["u0"]["bonus"] == [0.5, 0.0]
    assert set(by_uid) == {"u0", "u1"}


GRPO = ("algorithm.adv_estimator=grpo", "videomtr.bootstrap.enabled=false")


def test_rows_of_another_loop_leave_no_line_and_that_is_said_once(setting, stored, tmp_path, caplog):
    trainer = make_trainer(setting.config(*GRPO, f"videomtr.dump.dir={tmp_path}"), step=1)
    del stored.outputs[1].extra_fields["videomtr"]
    for _ in range(2):
        trainer._compute_advantage(stored.batch, {})
    assert [line["uid"] for line in read_file(step_file(tmp_path, 1)).records] == ["u0", "u0"]
    said = [record.getMessage() for record in caplog.records if "leave no line" in record.getMessage()]
    assert said == [
        f"step 1: 1 rows of another agent loop than video_mtr leave no line in {tmp_path}; see docs/tool.md"
    ]


def test_what_ended_a_run_has_its_lines(setting, tmp_path):
    trainer = make_trainer(setting.config(f"videomtr.dump.dir={tmp_path}"), step=3)
    ledger = Ledger(batch_prompts=2, max_share=0.2)
    reports = [
        LossReport(kind="unreadable", sample_id=f"s{uid}", uid=uid, session=0, split="train", partition="train", step=3,
                   error="cannot be read") for uid in ("a", "b")
    ]  # fmt: skip
    ledger.ask(AskedPrompt(uid=r.uid, sample_id=r.sample_id, num_sessions=1, partition="train") for r in reports)
    # The workers' reports come when they are asked for.
    trainer.agent_loop_manager = SimpleNamespace(ledger=ledger, pull=lambda: ledger.report(reports))
    trainer.watchdog = SimpleNamespace(moved=lambda: None)
    nothing: dict[str, set[str]] = {"train": set(), "val": set()}
    buffer = SimpleNamespace(finished_keys=nothing, failure_keys={**nothing, "train": {"a", "b"}}, partitions=nothing)
    with pytest.raises(RuntimeError, match=r"2 of the last 2 .*cannot be read"):
        trainer._count(buffer)
    assert [line["sample_id"] for line in read_file(step_file(tmp_path, 3)).lost] == ["sa", "sb"]


def test_other_estimators_get_no_context(setting, stored):
    trainer = make_trainer(setting.config(*GRPO))
    metrics: dict[str, float] = {}
    trainer._compute_advantage(stored.batch, metrics)
    assert stored.seen["context"] is None
    assert not [name for name in metrics if "bootstrap" in name]


SLIDES = ["videomtr.episode.max_turns=5", "data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=4"]


@pytest.mark.parametrize(("step", "steps_of_actor"), [(1, 1), (9, 2)])
def test_rows_are_padded_for_the_models_that_the_step_trains(setting, step, steps_of_actor):
    config = setting.config(*SLIDES, "critic.ppo_mini_batch_size=8", "trainer.critic_warmup=5")
    assert make_trainer(config, step=step)._get_required_batch_multiple(2) == 2 * steps_of_actor


def test_verls_updates_see_mini_batches_of_rows_where_the_context_slides(setting, monkeypatch):
    sizes: dict[str, int] = {}

    def critic(self, batch, metrics):
        sizes["critic"] = self.config.critic.ppo_mini_batch_size
        return batch

    def actor(self, batch, metrics):
        sizes["actor"] = self.config.actor_rollout_ref.actor.ppo_mini_batch_size
        return batch

    monkeypatch.setattr(PPOTrainer, "_update_critic", critic)
    monkeypatch.setattr(PPOTrainer, "_update_actor", actor)
    batch = [None] * 24
    trainer = make_trainer(setting.config(*SLIDES, "critic.ppo_mini_batch_size=8"))
    trainer._update_critic(batch, {})
    trainer._update_actor(batch, {})
    assert sizes == {"critic": 24, "actor": 12}
    trainer = make_trainer(setting.config(*SLIDES[1:], "critic.ppo_mini_batch_size=8"))
    trainer._update_critic(batch, {})
    trainer._update_actor(batch, {})
    assert sizes == {"critic": 8, "actor": 4}


def test_every_phase_of_verls_trainer_has_a_name_and_only_waiting_for_episodes_the_short_limit(setting, monkeypatch):
    seen: dict[str, Any] = {}

    def note(name):
        return lambda *_, **__: seen.update({name: (trainer.watchdog._say_phase(), trainer.watchdog._limit())})

    def build(self, config):
        self.replay_buffer = SimpleNamespace(sample=note("sample"), wait_for_sampleable=note("wait_for_sampleable"))

    for name in watched_run.PHASES:
        monkeypatch.setattr(trainers.VideoMTRSync, name, note(name))
    monkeypatch.setattr(PPOTrainer, "__init__", build)
    trainer = make_trainer(setting.config("videomtr.stall_minutes=3", "videomtr.phase_minutes=200"))
    watched_run.WatchedRun.__init__(trainer, trainer.config)
    for name in watched_run.PHASES:
        getattr(trainer, name)()
    trainer.replay_buffer.sample()
    trainer.replay_buffer.wait_for_sampleable()
    waiting = ("the rollout", (180.0, "stall_minutes"))
    assert seen.pop("sample") == seen.pop("wait_for_sampleable") == waiting
    assert seen == {name: (phase, (12000.0, "phase_minutes")) for name, phase in watched_run.PHASES.items()}


def test_a_run_ends_its_loaders_processes_and_what_is_between_its_phases_has_a_name(setting, monkeypatch):
    def fit(self, agent_loop_manager):
        said.append(self.watchdog._say_phase())
        self.train_dataloader_it = iter(self.train_dataloader)
        assert [next(self.train_dataloader_it).item(), next(iter(self.val_dataloader)).item()] == [0, 0]
        assert len(multiprocessing.active_children()) == 2

    monkeypatch.setattr(PPOTrainer, "__init__", lambda self, config: setattr(self, "replay_buffer", SimpleNamespace()))
    monkeypatch.setattr(PPOTrainer, "fit", fit)
    trainer = make_trainer(setting.config())
    watched_run.WatchedRun.__init__(trainer, trainer.config)
    said = [trainer.watchdog._say_phase()]
    trainer.train_dataloader, trainer.val_dataloader = (StatefulDataLoader(range(8), num_workers=1) for _ in range(2))
    watched_run.WatchedRun.fit(trainer, SimpleNamespace(guard_trainer=lambda _: None, release_trainer=lambda: None))
    assert said == ["the start", "the bookkeeping between two parts of a step"]
    assert not multiprocessing.active_children()


def test_what_is_waited_for_is_told_by_name(setting):
    trainer = make_trainer(setting.config())
    assert trainer._say_waiting() == "no episode"  # the trainer is still being built
    ledger = Ledger(batch_prompts=4, max_share=0.5)
    ledger.ask(AskedPrompt(uid=f"u{n}", sample_id=f"s{n}", num_sessions=1, partition="train") for n in range(9))
    trainer.agent_loop_manager = SimpleNamespace(ledger=ledger, running_samples=list)
    assert trainer._say_waiting() == "9 episodes of samples 's0', 's1', 's2', 's3', 's4', 's5', 's6', 's7' and 1 more"
    trainer.agent_loop_manager.running_samples = lambda: ["s3"]
    assert trainer._say_waiting() == "1 episode of sample 's3'"


@pytest.mark.parametrize(("base_mode", "is_set"), [("sync", True), ("separate_async", False)])
def test_poll_interval_is_the_plugins_but_where_it_tells_verl_of_idleness(setting, monkeypatch, base_mode, is_set):
    trainer = make_trainer(setting.config(), base_mode=base_mode)
    monkeypatch.setattr(CountedRun, "_build_replay_buffer", lambda self: SimpleNamespace(poll_interval=2.0))
    assert (trainer._build_replay_buffer().poll_interval == trainer.videomtr.poll_seconds) is is_set


def test_schedule_goes_with_the_checkpoint(setting, monkeypatch, tmp_path):
    order = []
    monkeypatch.setattr(PPOTrainer, "_save_checkpoint", lambda self: order.append(list(tmp_path.rglob("*.json"))))
    monkeypatch.setattr(PPOTrainer, "_load_checkpoint", lambda self: None)
    config = setting.config(f"trainer.default_local_dir={tmp_path}")
    trainer = make_trainer(config, step=2)
    trainer.schedule.bootstrap.num_good_batches = 3
    trainer._save_checkpoint()
    assert len(order[0]) == 1  # verl announces the checkpoint as whole at its end
    for mode, path in (("auto", None), ("resume_path", str(tmp_path / "global_step_2"))):
        with open_dict(config):
            config.trainer.resume_mode, config.trainer.resume_from_path = mode, path
            config.trainer.default_local_dir = str(tmp_path if path is None else tmp_path / "elsewhere")
        resumed = make_trainer(config, step=2)
        resumed._load_checkpoint()
        assert resumed.schedule.bootstrap.num_good_batches == 3


def test_validation_writes_its_trajectories_down_before_verls_metrics(setting, monkeypatch, tmp_path):
    info = setting.play([ANSWER]).outputs[0].extra_fields["reward_extra_info"]
    trainer = make_trainer(setting.config(f"videomtr.dump.dir={tmp_path}"), step=4)
    monkeypatch.setattr(PPOTrainer, "_val_metrics_update", lambda self, *args, **kwargs: {"val": 1.0})
    infos = {name: [value, None] for name, value in info.items()}
    assert trainer._val_metrics_update(["t"], ["u"], infos, [2], expected_acc_counts={}) == {"val": 1.0}
    (record,) = read_file(step_file(tmp_path / "val", 4)).records
    assert (record["sample_id"], record["step"], record["advantages"]) == ("s0", 4, None)


def test_validation_gives_its_episodes_to_verls_loggers_where_the_key_is_on(setting, monkeypatch, tmp_path):
    info = setting.play([ANSWER]).outputs[0].extra_fields["reward_extra_info"]
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path))
    trainer = make_trainer(setting.config("videomtr.log_val_episodes=3"), step=4)
    trainer.logger = Tracking("p", "e", ["tensorboard"])
    monkeypatch.setattr(PPOTrainer, "_val_metrics_update", lambda self, *args, **kwargs: {"val": 1.0})
    infos = {name: [value, None] for name, value in info.items()}
    metrics = trainer._val_metrics_update(["t"], ["u"], infos, [2], expected_acc_counts={})
    assert list(metrics) == ["val", "videomtr/val/seconds/log_episodes"]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(tag, events.Images(tag)[0].step) for tag in events.Tags()["images"]] == [("videomtr/val/episodes/s0", 4)]
