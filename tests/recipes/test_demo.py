# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's own plumbing: what it removes, how it stops, what it writes down, what it asks of a machine."""

from __future__ import annotations

import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

import psutil
import pytest
from hydra import compose, initialize_config_module
from report_pages import record, write_lines

from recipes.demo import main as demo
from recipes.demo.run_watch import SHARED_MEMORY, RunWatch
from recipes.demo.verdict import judge
from recipes.learning_study.blind_bound import compute_bounds
from verl_videomtr.episode import EpisodeConfig
from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin.compose import compose as compose_launch
from verl_videomtr.verl_plugin.pools_command import read_job

needs_linux = pytest.mark.skipif(platform.system() != "Linux", reason="/proc, /dev/shm and subreapers are Linux's")

LEAVE_AN_ORPHAN = """
import os, signal, subprocess, sys
child = "import time; from multiprocessing import resource_tracker, shared_memory as s;" \\
        "m = s.SharedMemory(create=True, size=4096); resource_tracker.unregister(m._name, 'shared_memory');" \\
        "print(m.name, flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
signal.pause()
"""


@pytest.fixture
def others_segment():
    """A segment that another program made within the same time, and has not open now."""
    segment = shared_memory.SharedMemory(create=True, size=4096)
    resource_tracker.unregister(segment._name, "shared_memory")
    segment.close()
    path = SHARED_MEMORY / segment.name
    yield path
    path.unlink(missing_ok=True)


@needs_linux
@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_what_a_run_started_ends_with_it_and_only_its_own_segments_go(others_segment, end):
    with RunWatch(wait_seconds=0.2) as watch:
        trainer = subprocess.Popen([sys.executable, "-c", LEAVE_AN_ORPHAN], stdout=subprocess.PIPE, text=True)
        own = SHARED_MEMORY / trainer.stdout.readline().strip()
        until = time.monotonic() + 30
        while own not in watch._segments and time.monotonic() < until:
            time.sleep(0.05)
        getattr(trainer, end)()
        trainer.wait()
        orphans = watch.processes()
        assert any("shared_memory" in " ".join(orphan.cmdline()) for orphan in orphans)
    assert not any(orphan.is_running() for orphan in orphans)
    assert not own.exists()
    assert others_segment.exists()


@needs_linux
def test_a_process_that_was_there_before_is_left_alone():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as before:
        with RunWatch(wait_seconds=0):
            pass
        assert before.poll() is None
        before.kill()


def test_written_command_runs_as_it_is(tmp_path):
    variables = {"VIDEOMTR_TEST_EMPTY": "", "VIDEOMTR_TEST": "two words & $HOME"}
    script = "import os, sys; print(os.environ['VIDEOMTR_TEST'], repr(os.environ['VIDEOMTR_TEST_EMPTY']), sys.argv[1:])"
    arguments = ["trainer.logger=[console,file]", 'limit={image: "${x}"}', "it's"]
    file = tmp_path / "command.txt"
    file.write_text(demo.shell_command([sys.executable, "-c", script, *arguments], variables), encoding="utf-8")
    done = subprocess.run(["sh", str(file)], capture_output=True, text=True, check=True)
    assert done.stdout == f"two words & $HOME '' {arguments}\n"
    assert shlex.split(file.read_text(encoding="utf-8").replace("\\\n", ""))[0] == "env"


@pytest.mark.parametrize("ignores", [False, True])
def test_stop_ends_a_process_that_ignores_it_too(ignores):
    script = "import signal, time\n" + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" * ignores
    script += "print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        started = time.monotonic()
        demo.stop(process, wait_seconds=0.5 if ignores else 30)
        assert process.returncode == (-9 if ignores else -15)
        assert time.monotonic() - started < 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_says_so_in_one_line_and_leaves_nothing_running(tmp_path, number):
    root = Path(demo.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "recipes.demo.main", "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start what runs in the background with this signal ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout.readline().startswith("videos: ")
        while not (children := psutil.Process(process.pid).children()):
            time.sleep(0.02)
        (maker,) = children
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (
        128 + number,
        "demo: interrupted; run it again: finished videos and base model are kept\n",
    )
    # Whoever inherits it may be slow to bury it.
    assert not maker.is_running() or maker.status() == psutil.STATUS_ZOMBIE


def test_changed_settings_get_folders_of_their_own(monkeypatch):
    data, base = demo.data_folder(0), demo.base_folder(0)
    assert (demo.data_folder(1) != data, demo.base_folder(1) != base) == (True, True)
    monkeypatch.setitem(demo.DATA_ROWS, "val", 5)
    assert (demo.data_folder(0) != data, demo.base_folder(0) == base) == (True, True)
    monkeypatch.setattr(demo, "FRAME_BUDGET", 16)
    assert demo.base_folder(0) != base


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_run_is_seeded_and_held_to_its_base_on_either_device(tmp_path, device):
    _, _, module, *overrides = demo.train_command(
        tmp_path, tmp_path, tmp_path, demo.parse_arguments(["--device", device, "--seed", "3"])
    )
    assert module == "verl.trainer.main_ppo"
    config = compose_launch(overrides)
    assert (config.data.seed, config.actor_rollout_ref.rollout.seed, config.critic.fsdp.seed) == (3, 3, 3)
    actor = config.actor_rollout_ref.actor
    assert (actor.use_kl_loss, actor.kl_loss_coef, actor.optim.lr) == (True, 0.05, 3e-4)
    episode = load_settings(config).episode
    assert (episode.max_turns, episode.frame_budget, episode.pool_size) == (3, demo.FRAME_BUDGET, 64)


def test_frames_decoded_beforehand_are_those_that_the_run_asks_for(tmp_path):
    _, _, module, command, *overrides = demo.pools_command(tmp_path)
    assert (module, command) == ("verl_videomtr.cli", "pools")
    files = overrides.index("--files")
    assert overrides[files + 1 : files + 3] == [f"{tmp_path}/train.parquet", f"{tmp_path}/val.parquet"]
    job = read_job(compose_launch(overrides[:files]))
    _, _, _, *run = demo.train_command(tmp_path / "run", tmp_path, tmp_path, demo.parse_arguments([]))
    video = load_settings(compose_launch(run)).video
    assert (job.config, job.form, job.directory) == (video.pool, video.cache.form, str(video.cache.dir))


def test_the_task_leaves_room_above_every_policy_that_does_not_aim():
    """What the demo claims to show can be shown: chosen by what can be computed, before any run."""
    episode = EpisodeConfig(pool_size=64, frame_budget=demo.FRAME_BUDGET, max_turns=3, initial_frames=8)
    bounds = compute_bounds(demo.task_config(), episode)
    assert max(bounds.blind, bounds.uniform) < 0.44
    assert bounds.whole_scene > 0.9


def test_the_evaluation_plays_the_game_that_was_trained():
    words = shlex.split((Path(demo.__file__).parent / "evaluate.sh").read_text().replace("\\\n", ""), comments=True)
    assert " ".join(demo.TASK) in " ".join(words)
    game = [word.strip("()").removeprefix("game=(") for word in words]
    episode = [setting for setting in demo.SETTINGS if setting.startswith("videomtr.episode.")]
    assert len(episode) == 3
    assert {*episode, "+videomtr/model=tiny"} <= {*game}
    assert words[words.index("--seed") + 1] == "1000"


def validation(folder, step, rights, *, videos=8, **episode):
    """Write a validation of four questions a video; the first `rights` are right."""
    base = record()["episode"]
    shape = {"pool_size": 64, "frame_budget": 22, "max_turns": 3, "overview_frames": 8} | episode
    lines = [record(video=f"videos/{i // 4}.mp4", correct=i < rights, episode=base | shape) for i in range(4 * videos)]
    write_lines(folder / "val" / f"step_{step:06d}.jsonl", *lines)


def test_a_run_far_above_both_levels_has_learned_and_says_so(tmp_path):
    validation(tmp_path, 0, 8)
    validation(tmp_path, 30, 28)
    verdict = judge(tmp_path, demo.task_config())
    assert verdict.learned is True
    assert (verdict.before.value, verdict.after.value, verdict.num_videos) == (0.25, 0.875, 8)
    assert (verdict.blind, verdict.single_look) == pytest.approx((0.4375, 0.4375), abs=1e-3)
    # Whole videos are right or wrong: of 8, 7 are right. Over questions Wilson's interval would be .72 to .95.
    assert verdict.after.low < 0.7
    assert str(verdict).startswith("It learned to look where the question points: 0.88 (0.62 to 1.00) of 32 questions")
    assert "0.25 before training; the best blind sweep comes to 0.44, one look at all 22 frames to 0.44" in str(verdict)


def test_a_run_below_a_level_has_not_learned_and_says_so(tmp_path):
    validation(tmp_path, 0, 8)
    validation(tmp_path, 30, 12)
    verdict = judge(tmp_path, demo.task_config())
    assert verdict.learned is False
    assert str(verdict).startswith("It did not learn to look where the question points: 0.38")


def test_a_run_whose_interval_reaches_down_to_a_level_is_not_decided(tmp_path):
    validation(tmp_path, 30, 17)
    verdict = judge(tmp_path, demo.task_config())
    assert (verdict.before, verdict.learned) == (None, None)
    assert str(verdict).startswith("Not decided, the interval reaches down to what needs no aim: 0.53")


def test_episodes_without_bounds_are_not_judged_and_a_run_without_validation_has_no_verdict(tmp_path):
    assert judge(tmp_path, demo.task_config()) is None
    validation(tmp_path, 0, 28)
    assert judge(tmp_path, demo.task_config()) is None
    validation(tmp_path, 2, 28, max_turns=6)
    verdict = judge(tmp_path, demo.task_config())
    assert verdict.learned is None
    assert str(verdict).endswith("for episodes of these settings no bounds are computed")
    assert json.loads(json.dumps(verdict.to_json()))["learned"] is None


def test_the_demo_ends_with_the_path_of_its_page(tmp_path, capsys):
    write_lines(tmp_path / "run_001" / "trajectories" / "step_000001.jsonl", record())
    assert demo.write_page(tmp_path / "run_001", tmp_path) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"1 of 1 episodes, 0.1 MB: {tmp_path}/run_001/report.html"
    assert (tmp_path / "run_001" / "report.html").stat().st_size > 50_000


def test_gpu_group_asks_for_nothing_that_needs_flash_attn():
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", ["+videomtr=paper", "+videomtr/device=gpu", "+videomtr/model=tiny"])
    for model in (config.actor_rollout_ref.model, config.critic.model):
        assert model.override_config.attn_implementation == "sdpa"
        assert model.use_remove_padding is False
    # Read from the model's key by the actor and the reference.
    assert config.actor_rollout_ref.actor.use_remove_padding is False


@pytest.mark.skipif(platform.system() != "Linux", reason="the locks are for Linux")
def test_preflight_refuses_another_python_than_the_locks():
    script = (
        "import sys; sys.path.insert(0, 'recipes/demo'); import preflight; preflight.PYTHON = (3, 99);"
        "print([line for line in preflight.problems('cpu', False) if line.startswith('Python')])"
    )
    root = Path(demo.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert "PYTHON=/path/to/python3.11" in done.stdout
