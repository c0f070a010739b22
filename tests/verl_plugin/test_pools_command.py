# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Filling the cache beforehand: killed and taken up again, failures listed, the disk looked at first."""

import json
import os
import signal
import subprocess
import sys
import time

import awkward_videos as awkward
import pytest

from verl_videomtr.cli import main
from verl_videomtr.sample import Sample, write_rows
from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin import pools_command as pools
from verl_videomtr.verl_plugin.compose import compose
from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.pool import PoolConfig, open_pool


def write_row_file(path, videos):
    write_rows(
        path,
        [
            Sample(
                data_source="made",
                sample_id=f"{i}",
                index=i,
                split="train",
                video=video,
                duration_seconds=2.0,
                question="What?",
                answer="1",
                question_type="numeric",
            )
            for i, video in enumerate(videos)
        ],
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("pools")
    for i in range(24):
        awkward.write_video(root / f"{i}.mp4", count=40 + i)
    (root / "bad.mp4").write_text("no video")
    write_row_file(root / "rows.parquet", [f"{i}.mp4" for i in range(24)] + ["bad.mp4", "gone.mp4", "3.mp4"])
    return root


def _arguments(root, out, *more):
    config = [f"videomtr.video.root={root}", f"videomtr.video.cache.dir={out}", "videomtr.video.pool.size=[56,84]"]
    return ["pools", "+videomtr=paper", *config, "--files", str(root / "rows.parquet"), *more]


def test_every_readable_video_is_filled_and_failures_are_listed(root, tmp_path, capsys):
    assert main(_arguments(root, tmp_path, "--workers", "2")) == 1
    shown = capsys.readouterr().out
    assert "filled 24, complete before 0, failed 2" in shown
    failures = [json.loads(line) for line in (tmp_path / pools.FAILURES).read_text().splitlines()]
    assert {failure["video"]: failure["error"] for failure in failures} == {
        "bad.mp4": "DamagedVideoError",
        "gone.mp4": "VideoNotFoundError",
    }
    config = PoolConfig(size=(56, 84))
    assert all(open_pool(root / f"{i}.mp4", config, PoolCache(tmp_path)).is_complete for i in range(24))
    assert main(_arguments(root, tmp_path)) == 1
    assert "filled 0, complete before 24, failed 2" in capsys.readouterr().out
    write_row_file(tmp_path / "rows.parquet", ["3.mp4", "5.mp4"])
    assert main([*_arguments(root, tmp_path)[:-1], str(tmp_path / "rows.parquet")]) == 0
    assert "filled 0, complete before 2, failed 0" in capsys.readouterr().out


def test_a_killed_run_is_taken_up_where_it_was(root, tmp_path, capsys):
    command = [sys.executable, "-m", "verl_videomtr.cli", *_arguments(root, tmp_path, "--workers", "1")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(tmp_path.glob("pools/*/*.pool"))) < 5 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(_arguments(root, tmp_path)) == 1
    shown = capsys.readouterr().out.splitlines()[1]
    filled, kept = (int(word.strip(",")) for word in (shown.split()[1], shown.split()[4]))
    assert filled + kept == 24
    assert kept >= 3
    config = PoolConfig(size=(56, 84))
    for i in range(24):
        cached = open_pool(root / f"{i}.mp4", config, PoolCache(tmp_path)).read_cached(range(30))
        assert cached is not None
        assert all(awkward.read_number(frame) is not None for frame in cached)


def test_a_cache_that_does_not_fit_is_refused_with_the_form_that_does(tmp_path):
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    job = pools.Job(directory=str(tmp_path), form="raw", config=PoolConfig(size=(1000, 1000)), root=None)
    too_many = int(free / (128 * 3e6) * 2)
    with pytest.raises(ValueError, match=r"does not fit.*set videomtr.video.cache.form=jpeg"):
        pools.require_space(too_many, job)
    assert "at most" in pools.require_space(1, job)


@pytest.mark.slow
def test_ray_fills_the_same_pools(root, tmp_path, capsys):
    assert main(_arguments(root, tmp_path, "--ray", "--workers", "2")) == 1
    assert "filled 24, complete before 0, failed 2" in capsys.readouterr().out


def test_rows_and_settings_are_those_of_the_launch(root, tmp_path, capsys):
    """Whatever a recipe sets, the run finds what was filled for it."""
    given = [f"videomtr.video.root={root}", f"videomtr.video.cache.dir={tmp_path}", "videomtr.video.pool.max_tokens=16"]
    given += [f"data.train_files=[{root / 'rows.parquet'}]", f"data.val_files={root / 'rows.parquet'}"]
    given = ["+videomtr/recipe=qwen3_vl", *given]
    assert main(["pools", *given, "--workers", "2"]) == 1
    assert "filled 24, complete before 0, failed 2" in capsys.readouterr().out
    video = load_settings(compose(given)).video
    assert open_pool(root / "3.mp4", video.pool, video.cache.open()).is_complete


def test_a_launch_without_a_cache_is_refused(capsys):
    assert main(["pools", "+videomtr=paper"]) == 2
    assert "add videomtr.video.cache.dir=DIR" in capsys.readouterr().err
