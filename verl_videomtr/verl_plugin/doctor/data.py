# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Can the data be read? Rows, their number, a sample of the videos, and room for the cache."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from verl_videomtr.planner import GIB, make_plan
from verl_videomtr.sample import AGENT_NAME, Sample, SampleError, read_rows, resolve_video
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, error, note, ok, refused, warning
from verl_videomtr.verl_plugin.doctor.places import complaint, existing
from verl_videomtr.video.cache_entry import FORMS
from verl_videomtr.video.decode_workers import DecodeWorkers
from verl_videomtr.video.errors import VideoError

SAMPLED_VIDEOS = 12
"""Videos of each file list that are opened."""
VIDEO_SECONDS = 20.0
"""After so long no further video is opened."""
KEYED_VIDEOS = 3
"""Videos that are looked for in a cache that was filled before: each may have to be read whole."""
JPEG_SHARE = 0.2
"""Size of a JPEG cache, as a share of a raw one."""
MOST_VALIDATION_GIB = 64.0
"""Of frames in one batch of validation, a node."""
CHECK_FILES = "python -m data_prep.check lists every broken row and video"


def check_data(case: Case) -> Iterator[Finding]:
    """Read the rows and open some videos; leaves `case.samples` and `case.frame_sizes` behind."""
    for split in ("train", "val"):
        yield from _rows(case, split)
    yield from _numbers(case)
    yield from _validation(case)
    if case.samples:
        yield from _videos(case)
        yield from _cache(case)


def check_dataset(case: Case) -> Iterator[Finding]:
    """Let verl's data set and sampler hand over the first row of each split, and read it as the agent loop does.

    So each key below `data` that they read is tried.
    """
    from verl.utils.dataset.rl_dataset import get_dataset_class

    splits = [split for split in ("train", "val") if case.samples.get(split)]
    try:
        get_dataset_class(case.config.data)  # where there are no rows or no model to go on with, too
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            left_out = [split for split in splits if not _reads_first_row(case, split)]
    except Exception as refusal:  # whatever they raise is the finding
        why = "verl makes its data set behind the start of all workers and reads the first batch there: the run stops"
        finding = refused("data.dataset", refusal, why=why, is_own=False)
        advice = "correct the key below `data` that it comes from; the files that data_prep makes need only their paths"
        yield dataclasses.replace(finding, what=f"verl's data set: {finding.what}", advice=advice)
        return
    for split in left_out:
        yield warning(
            "data.dataset",
            f"data.filter_overlong_prompts=true leaves out the first row of data.{split}_files",
            why="rows are dropped without a word",
            overrides=["data.filter_overlong_prompts=false"],
        )
    if case.model is not None and splits and not left_out:
        yield ok("data.dataset", f"verl's data set reads a row of each split ({', '.join(splits)})")


def _reads_first_row(case: Case, split: str) -> bool:
    """Whether it is among those that the run would play; what verl or the agent loop raises comes through."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler

    local = [name for name in case.files(split) if Path(name).is_file()]
    if case.model is None or not local:
        return True
    config = copy.deepcopy(case.config.data)
    OmegaConf.update(config, "shuffle", False, force_add=True)
    rows = create_rl_dataset(local[:1], config, case.model.tokenizer, case.model.processor, max_samples=1)
    if not len(rows):
        return False
    create_rl_sampler(case.config.data, rows)
    row = rows[0]
    if case.uses_own_loop:
        Sample.from_row({**row, "prompt": row["raw_prompt"], "agent_name": AGENT_NAME})
    return True


def _rows(case: Case, split: str) -> Iterator[Finding]:
    key = f"data.{split}_files"
    names = case.files(split)
    if not names:
        made = f"{key}=<a file made by data_prep>"
        yield error(f"data.{split}", f"{key} is empty", why="verl's trainer needs the file", advice=made)
    samples: list[Sample] = []
    for name in names:
        if "://" in name:
            yield note(f"data.{split}", f"{name} is not on this machine, so its rows were not read")
        elif case.elsewhere and not Path(name).is_file():
            yield note(f"data.{split}", f"{name} is not here, so its rows were not read")
        else:
            try:
                samples += read_rows(name)
            except SampleError as broken:
                there = Path(name).is_file()
                yield error(
                    f"data.{split}",
                    f"{key}: {broken}",
                    why="verl cannot load the file, or the agent loop refuses the row and loses its episodes",
                    advice=f"correct or rebuild it; {CHECK_FILES}" if there else f"{key}=<a file made by data_prep>",
                )
    most = int(case.get(f"data.{split}_max_samples", -1))
    if samples:
        case.samples[split] = samples if most < 0 else samples[:most]
        grounded = sum(sample.segments is not None for sample in case.samples[split])
        yield ok(f"data.{split}", f"{len(case.samples[split])} rows, {grounded} with ground truth")


def _numbers(case: Case) -> Iterator[Finding]:
    train = case.samples.get("train")
    size = int(case.config.data.train_batch_size)
    if train is None or len(train) >= size:
        return
    # verl's loader drops what is left over; where it must refill exactly it takes one prompt at a time.
    mode = str(case.get("trainer.v1.trainer_mode"))
    one_by_one = "async" in mode or case.get("algorithm.filter_groups.enable")
    one_by_one = one_by_one or case.get("trainer.v1.sampler.sync_refill_failed_groups")
    fetched = 1 if one_by_one else int(case.get("data.gen_batch_size", size))
    if len(train) < fetched or case.get("trainer.total_training_steps") is None:
        yield error(
            "data.train",
            f"{len(train)} training rows, fewer than data.train_batch_size={size}",
            why="an epoch has no whole batch: verl counts 0 steps of training, or its loader ends before the first",
            overrides=[f"{key}_batch_size={len(train)}" for key in ("data.train", "actor_rollout_ref.actor.ppo_mini")],
            advice="or more rows",
        )


def _validation(case: Case) -> Iterator[Finding]:
    """Validation plays a batch at once, whose frames all lie in memory; and it should ask what was not trained on."""
    val = case.samples.get("val")
    if not val:
        return
    rows = [] if case.get("trainer.val_only") else case.samples.get("train", [])
    trained = {(sample.video, sample.question) for sample in rows}
    if known := sum((sample.video, sample.question) in trained for sample in val):
        yield warning(
            "data.val",
            f"{known} of {len(val)} validation questions are training questions too",
            why="what validation shows is memory",
            advice="data.val_files=<rows of other questions>, as data_prep.mix makes them",
        )
    if case.planned is None:
        return
    each = make_plan(case.planned).bytes_per_episode
    at_once = min(int(case.get("data.val_batch_size", len(val))), len(val)) * int(case.rollout.val_kwargs.n)
    room = MOST_VALIDATION_GIB * GIB * int(case.config.trainer.nnodes)
    if not case.elsewhere:
        room = min(room, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2)
    if at_once * each > room:
        yield warning(
            "data.val",
            f"validation plays {at_once} episodes at once, of up to {at_once * each / GIB:.0f} GiB"
            + (" (data.val_batch_size is not set: the whole file)" if case.get("data.val_batch_size") is None else ""),
            why="all their frames lie in memory, before the first step if trainer.val_before_train",
            overrides=[f"data.val_batch_size={max(1, int(room / 2 / each / int(case.rollout.val_kwargs.n)))}"],
        )


def _videos(case: Case) -> Iterator[Finding]:
    settings = case.settings.video
    chosen = {split: _spread([s.video for s in rows]) for split, rows in case.samples.items()}
    videos = list(dict.fromkeys(video for names in chosen.values() for video in names))
    if case.elsewhere and (settings.root is None or not Path(settings.root).is_dir()):
        yield note("data.videos", f"videomtr.video.root={settings.root} is not on this machine: no video was opened")
        return
    sizes, problems = _open(case, videos)
    case.frame_sizes = list(sizes.values())
    num = len(sizes) + len(problems)
    if not problems:
        yield ok("data.videos", f"{num} videos of {len(_names(case))} open")
        return
    name, problem = next(iter(problems.items()))
    what = f"{len(problems)} of {num} videos cannot be used: {problem}"
    if not sizes and isinstance(problem, SampleError):
        advice = "videomtr.video.root=<the folder that the rows' paths begin in>"
    elif not sizes:
        advice = f"videomtr.video.root=<the folder that holds {name}>"
    else:
        advice = f"remove their rows; {CHECK_FILES}"
    share = len(problems) / num
    # Of a few that were drawn, many must be bad before all of them are judged so.
    most = settings.max_unreadable_share if num == len(_names(case)) else max(0.5, settings.max_unreadable_share)
    why = "the episodes of such videos are lost"
    if share > most:
        why += f", and a step that loses more than videomtr.video.max_unreadable_share={settings.max_unreadable_share}"
        why += " stops the run"
    yield (error if share > most else warning)("data.videos", what, why=why, advice=advice)


def _open(case: Case, videos: list[str]) -> tuple[dict[str, tuple[int, int]], dict[str, Exception]]:
    """Plan the pools of some videos: frame sizes, and what went wrong."""
    settings = case.settings.video
    sizes: dict[str, tuple[int, int]] = {}
    problems: dict[str, Exception] = {}
    workers = DecodeWorkers(settings.workers)
    deadline = time.monotonic() + VIDEO_SECONDS

    def plan(video: str) -> None:
        if time.monotonic() > deadline:
            return
        try:
            sizes[video] = workers.plan(str(resolve_video(video, settings.root)), settings.pool).size
        except (VideoError, SampleError) as problem:
            problems[video] = problem

    try:
        with ThreadPoolExecutor(settings.workers.num_processes) as threads:
            list(threads.map(plan, videos))
    finally:
        workers.close()
    return sizes, problems


def _cache(case: Case) -> Iterator[Finding]:
    cache = case.settings.video.cache
    if cache.dir is None:
        return
    place = existing(Path(cache.dir).expanduser())
    if wrong := complaint(cache.dir):
        yield error(
            "data.cache",
            f"videomtr.video.cache.dir={cache.dir} cannot be made or written ({wrong})",
            why="every agent-loop worker makes its folders at its start, and loses all episodes",
            advice="videomtr.video.cache.dir=<a writable folder>, or null to decode frames each time",
        )
        return
    yield from _filled(case)
    if not case.frame_sizes:
        return
    mean = sum(height * width for height, width in case.frame_sizes) / len(case.frame_sizes)
    raw = mean * 3 * case.settings.episode.pool_size * len(_names(case)) / 2**30
    need = raw if cache.form == "raw" else raw * JPEG_SHARE
    free = shutil.disk_usage(place).free / 2**30
    if cache.max_gib is not None and cache.max_gib > free:
        yield warning(
            "data.cache",
            f"videomtr.video.cache.max_gib={cache.max_gib}, {free:.1f} GiB are free at {place}",
            why="the cache may fill the disk, on which checkpoints and logs may lie",
            overrides=[f"videomtr.video.cache.max_gib={max(1, int(free * 0.8))}"],
        )
    elif cache.max_gib is None and need > free:
        fits = [form for form in FORMS if (raw if form == "raw" else raw * JPEG_SHARE) <= free]
        bound = f"videomtr.video.cache.max_gib={max(1, int(free * 0.8))}"
        yield warning(
            "data.cache",
            f"{len(_names(case))} videos need about {need:.0f} GiB as {cache.form}, {free:.1f} are free at {place}",
            why="the cache fills the disk; what does not fit is decoded each time",
            overrides=[f"videomtr.video.cache.form={fits[0]}" if fits else bound],
        )
    else:
        yield ok("data.cache", f"{cache.dir}: about {need:.1f} GiB as {cache.form}, {free:.1f} free")


def _filled(case: Case) -> Iterator[Finding]:
    """Frames that were decoded beforehand with other settings are not found by this run, and stay."""
    settings = case.settings.video
    folder = Path(str(settings.cache.dir)).expanduser()
    if not any(folder.glob("pools/*/*.pool")):
        return
    cache, looked, found = settings.cache.open(), 0, 0
    for video in _spread(sorted(_names(case)))[:KEYED_VIDEOS]:
        with contextlib.suppress(OSError, SampleError, VideoError):
            found += cache.find(cache.key(resolve_video(video, settings.root), settings.pool)) is not None  # type: ignore[union-attr]
            looked += 1
    if looked and not found:
        yield warning(
            "data.cache",
            f"{settings.cache.dir} holds pools, and none for the {looked} videos of the rows that were looked for",
            why="they were filled with other settings, or of other videos: every frame is decoded once more",
            advice="`videomtr pools` with this launch's overrides, or those settings in the launch",
        )


def _names(case: Case) -> set[str]:
    return {sample.video for rows in case.samples.values() for sample in rows}


def _spread(videos: list[str]) -> list[str]:
    """Some of the distinct videos, evenly over the file."""
    distinct = list(dict.fromkeys(videos))
    step = max(1, len(distinct) // SAMPLED_VIDEOS)
    return distinct[::step][:SAMPLED_VIDEOS]
