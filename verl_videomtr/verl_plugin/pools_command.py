# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr pools [OVERRIDE ...]`: fill the frame cache of a launch before it is launched.

It takes the overrides that `main_ppo` will get, so that what it fills is what the run asks for: the rows of
data.train_files and data.val_files -> their videos -> every candidate frame, decoded once and kept in
videomtr.video.cache.dir. A stopped command is taken up where it was: pools that are complete are skipped, and a pool
that is half there is finished. Videos that cannot be read are listed with the reason and stop nothing; the exit code is
1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from verl_videomtr.sample import SampleError, read_rows, resolve_video
from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin.compose import compose
from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.decode_workers import DecodeWorkers, WorkerConfig
from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.plan import PoolConfig
from verl_videomtr.video.pool import open_pool

FAILURES = "failures.jsonl"
GIB = 2**30
JPEG_SHARE = 0.21
"""Bytes of the compact form over those of the raw one, as a 720p film clip gave; quieter pictures take less."""


@dataclass(frozen=True, kw_only=True)
class FillOutcome:
    """What became of one video."""

    video: str
    """As the rows name it."""
    state: str
    """`filled`, `kept` (was complete already) or `failed`."""
    error: str = ""
    """The class of the failure."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every filling process has to know."""

    directory: str
    form: str
    config: PoolConfig
    root: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="as for verl.trainer.main_ppo: +videomtr/recipe=paper data.train_files=... videomtr.video.root=... "
        "videomtr.video.cache.dir=...",
    )
    parser.add_argument(
        "--files",
        nargs="+",
        type=Path,
        metavar="FILE.parquet",
        help="rows whose videos are wanted (default: data.train_files and data.val_files)",
    )
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="videos at a time (default: 4)")
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster with a shared file system")


def run(args: argparse.Namespace) -> int:
    """Fill the cache and print what became of it.

    Raises:
        ValueError: the overrides do not compose, no cache is configured, or it does not fit the disk.
        SampleError: a file of rows cannot be read.
    """
    config = compose(args.overrides)
    job = read_job(config)
    files = args.files or [Path(name).expanduser() for split in ("train", "val") for name in data_files(config, split)]
    videos = list(dict.fromkeys(sample.video for file in files for sample in read_rows(file)))
    Path(job.directory).mkdir(parents=True, exist_ok=True)
    sys.stdout.write(require_space(len(videos), job) + "\n")
    return _fill_all(videos, job, num_workers=max(1, args.workers), on_ray=args.ray)


def read_job(config: DictConfig) -> Job:
    """Take what is to be filled from a launch's configuration.

    Raises:
        ValueError: it has no cache, or a setting breaks its rule.
    """
    video = load_settings(config).video
    if video.cache.dir is None:
        raise ValueError(
            "videomtr.video.cache.dir=null; expected the folder of the frames; add videomtr.video.cache.dir=DIR, here "
            "and to the launch"
        )
    return Job(
        directory=str(Path(video.cache.dir).expanduser().absolute()),
        form=video.cache.form,
        config=video.pool,
        root=None if video.root is None else Path(video.root).expanduser().absolute(),
    )


def data_files(config: DictConfig, split: str) -> list[str]:
    """The paths of `data.train_files` or `data.val_files`."""
    value = config.data.get(f"{split}_files")
    return [value] if isinstance(value, str) else list(value or [])


def fill(video: str, job: Job, workers: DecodeWorkers) -> FillOutcome:
    """Put every candidate frame of one video into the cache."""
    try:
        path = resolve_video(video, job.root)
        pool = open_pool(path, job.config, PoolCache(job.directory, form=job.form), workers=workers)
        every = np.arange(pool.num_frames)
        if pool.is_complete:
            return FillOutcome(video=video, state="kept")
        pool.read(every)
        if not pool.is_complete:
            return FillOutcome(video=video, state="failed", error="OSError", reason="the cache cannot be written")
    except (VideoError, SampleError) as error:
        reason = error.reason if isinstance(error, VideoError) else str(error)
        return FillOutcome(video=video, state="failed", error=type(error).__name__, reason=reason)
    return FillOutcome(video=video, state="filled")


def fill_here(videos: Sequence[str], job: Job, *, num_workers: int) -> Iterator[FillOutcome]:
    """Fill on this machine, `num_workers` videos at a time."""
    workers = DecodeWorkers(WorkerConfig(num_processes=num_workers))
    threads = ThreadPoolExecutor(num_workers)
    try:
        for future in as_completed([threads.submit(fill, video, job, workers) for video in videos]):
            yield future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        workers.close()


def fill_on_ray(videos: Sequence[str], job: Job, *, num_workers: int) -> Iterator[FillOutcome]:
    """Fill on a Ray cluster, `num_workers` videos at a time; the videos and the cache lie on a shared file system."""
    import ray

    ray.init(ignore_reinit_error=True, log_to_driver=False)
    remote = ray.remote(num_cpus=1)(_fill_in_task)
    waiting = list(reversed(videos))
    running: dict[object, str] = {}
    while waiting or running:
        while waiting and len(running) < num_workers:
            video = waiting.pop()
            running[remote.remote(video, job)] = video
        (done,), _ = ray.wait(list(running))
        video = running.pop(done)
        try:
            yield ray.get(done)
        except ray.exceptions.RayError as error:  # The task's process or machine is gone; the others go on.
            yield FillOutcome(
                video=video, state="failed", error=type(error).__name__, reason=str(error).splitlines()[0]
            )


def _fill_in_task(video: str, job: Job) -> FillOutcome:
    from verl_videomtr.video.decode_workers import shared_workers

    return fill(video, job, shared_workers())


def require_space(num_videos: int, job: Job) -> str:
    """Compare an upper bound of the cache's size with the disk.

    Returns:
        One line that states the bound.
    Raises:
        ValueError: the bound exceeds what is free; the message names the smaller form where that would fit.
    """
    pixels = job.config.size[0] * job.config.size[1] if job.config.size else job.config.max_pixels
    raw = num_videos * job.config.num_frames * pixels * 3 / GIB
    need = {"raw": raw, "jpeg": raw * JPEG_SHARE}
    there = PoolCache(job.directory, form=job.form).size_bytes() / GIB
    free = shutil.disk_usage(job.directory).free / GIB
    line = (
        f"{num_videos:,} videos: at most {need[job.form]:.1f} GiB as {job.form} "
        f"({there:.1f} GiB there already), {free:.1f} GiB free"
    )
    if need[job.form] - there > free:
        fits = job.form == "raw" and need["jpeg"] < free
        advice = "set videomtr.video.cache.form=jpeg" if fits else "set fewer or smaller frames"
        raise ValueError(
            f"the cache does not fit: {line}; expected room for all of it; {job.directory}; {advice}, or another "
            "videomtr.video.cache.dir"
        )
    return line


def _fill_all(videos: Sequence[str], job: Job, *, num_workers: int, on_ray: bool) -> int:
    """Fill, show how far it is, list the failures; return the exit code."""
    start = fill_on_ray if on_ray else fill_here
    # disable=None: no bar where stderr is a file.
    bar = tqdm(start(videos, job, num_workers=num_workers), total=len(videos), desc="pools", disable=None)
    counts: Counter[str] = Counter()
    failures = []
    for outcome in bar:
        counts[outcome.state] += 1
        bar.set_postfix(failed=counts["failed"], refresh=False)
        if outcome.state == "failed":
            failures.append(outcome)
    listed = Path(job.directory) / FAILURES
    with listed.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(outcome), ensure_ascii=False) + "\n" for outcome in failures)
    lines = [f"filled {counts['filled']:,}, complete before {counts['kept']:,}, failed {counts['failed']:,}"]
    lines += [f"  {outcome.video}: {outcome.error}: {outcome.reason}" for outcome in failures]
    lines += [f"the failed ones are in {listed}"] if failures else []
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if failures else 0
