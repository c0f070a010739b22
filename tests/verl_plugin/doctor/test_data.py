# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Rows, videos and cache: each finding beside the code that fails as it says."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
from doctor_setting import bad, only

from verl_videomtr.sample import Sample, SampleError, read_rows
from verl_videomtr.verl_plugin.doctor import data
from verl_videomtr.verl_plugin.doctor.findings import Level

pytest_plugins = ["doctor_setting"]


# Data.


def test_rows_that_break_the_schema(composed, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    finding = only(data._rows(composed.case(f"data.train_files={tmp_path / 'broken.parquet'}"), "train"), "data.train")
    assert "not a readable parquet file" in finding.what
    with pytest.raises(SampleError):
        read_rows(tmp_path / "broken.parquet")


def test_fewer_rows_than_a_batch(composed, videos):
    from torchdata.stateful_dataloader import StatefulDataLoader

    fault = ["data.train_batch_size=13"]
    finding = only(data.check_data(composed.case(*fault)), "data.train")
    rows = read_rows(videos / "train.parquet")

    def one_batch(size):
        loader = StatefulDataLoader(rows, batch_size=size, drop_last=True, collate_fn=list)
        return next(iter(loader))

    with pytest.raises(StopIteration):
        one_batch(13)
    given = ["trainer.total_training_steps=2", "data.gen_batch_size=4"]
    assert not list(data._numbers(dataclasses.replace(composed.case(*fault, *given), samples={"train": rows})))
    assert one_batch(4)
    fixed = composed.case(*fault, *finding.overrides)
    assert not bad(data._numbers(dataclasses.replace(fixed, samples={"train": rows})))
    assert one_batch(fixed.config.data.train_batch_size)


def test_videos_that_are_not_where_the_root_says(composed, tmp_path, videos):
    case = composed.case(f"videomtr.video.root={tmp_path}")
    finding = only(data.check_data(case), "data.videos")
    assert finding.what.startswith("3 of 3 videos cannot be used")
    assert "videomtr.video.root=" in finding.fix
    assert not bad(data.check_data(composed.case(f"videomtr.video.root={videos}")))


def test_some_videos_that_do_not_open_are_a_warning(composed, videos, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(videos, folder)
    rows = read_rows(folder / "train.parquet")
    (folder / rows[0].video).write_bytes(b"no video" * 100)
    root = f"videomtr.video.root={folder}"
    only(data.check_data(composed.case(root)), "data.videos")  # a third: more than a step may lose
    lenient = composed.case(root, "videomtr.video.max_unreadable_share=0.5")
    finding = only(data.check_data(lenient), "data.videos", Level.WARNING)
    assert rows[0].video in finding.what


def test_relative_paths_without_a_root(composed):
    case = composed.case("videomtr.video.root=null")
    finding = only(data.check_data(case), "data.videos")
    assert "no video root is set" in finding.what
    assert isinstance(case.samples["train"][0], Sample)


def test_a_cache_that_cannot_be_made(composed, tmp_path):
    from verl_videomtr.video.cache import PoolCache

    (tmp_path / "file").write_text("in the way")
    fault = [f"videomtr.video.cache.dir={tmp_path / 'file' / 'cache'}"]
    only(data.check_data(composed.case(*fault)), "data.cache")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        PoolCache(tmp_path / "file" / "cache")
    assert not bad(data.check_data(composed.case(f"videomtr.video.cache.dir={tmp_path / 'cache'}")))
    PoolCache(tmp_path / "cache")


def test_a_cache_with_more_videos_than_room(measured, tmp_path):
    case = measured(f"videomtr.video.cache.dir={tmp_path}")
    case.frame_sizes = [(1 << 20, 1 << 20)]
    finding = only(data._cache(case), "data.cache", Level.WARNING)
    assert finding.overrides
    bounded = measured(f"videomtr.video.cache.dir={tmp_path}", "videomtr.video.cache.max_gib=1e9")
    bounded.frame_sizes = case.frame_sizes
    assert "are free" in only(data._cache(bounded), "data.cache", Level.WARNING).what


def test_a_cache_that_was_filled_with_other_settings(composed, videos, tmp_path):
    from verl_videomtr.cli import main

    given = [f"videomtr.video.cache.dir={tmp_path / 'cache'}"]
    launch = ["+videomtr=paper", "+videomtr/model=tiny", f"videomtr.video.root={videos}", *given]
    fill = ["pools", *launch, "--files", str(videos / "train.parquet"), str(videos / "val.parquet")]
    assert main(fill) == 0
    assert not bad(data.check_data(composed.case(*given)))
    finding = only(data.check_data(composed.case(*given, "videomtr.episode.pool_size=32")), "data.cache", Level.WARNING)
    assert "none for the 3 videos" in finding.what
