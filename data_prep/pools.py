"""Fill the frame cache before training: rows -> their videos -> every candidate frame, decoded once and kept.

A stopped run is taken up where it was: pools that are complete are skipped, and a pool that is half there is finished.
Videos that cannot be read are listed with the reason and stop nothing; the exit code is 1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_prep import command
from verl_videomtr.sample import SampleError, read_rows, resolve_video
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
class Outcome:
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


def fill(video: str, job: Job, workers: DecodeWorkers) -> Outcome:
    """Put every candidate frame of one video into the cache."""
    try:
        path = resolve_video(video, job.root)
        pool = open_pool(path, job.config, PoolCache(job.directory, form=job.form), workers=workers)
        every = np.arange(pool.num_frames)
        if pool.is_complete:
            return Outcome(video=video, state="kept")
        pool.read(every)
        if not pool.is_complete:
            return Outcome(video=video, state="failed", error="OSError", reason="the cache cannot be written")
    except (VideoError, SampleError) as error:
        reason = error.reason if isinstance(error, VideoError) else str(error)
        return Outcome(video=video, state="failed", error=type(error).__name__, reason=reason)
    return Outcome(video=video, state="filled")


def fill_here(videos: Sequence[str], job: Job, *, num_workers: int) -> Iterator[Outcome]:
    """Fill on this machine, `num_workers` videos at a time."""
    workers = DecodeWorkers(WorkerConfig(num_processes=num_workers))
    threads = ThreadPoolExecutor(num_workers)
    try:
        for future in as_completed([threads.submit(fill, video, job, workers) for video in videos]):
            yield future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        workers.close()


def fill_on_ray(videos: Sequence[str], job: Job, *, num_workers: int) -> Iterator[Outcome]:
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
            yield Outcome(video=video, state="failed", error=type(error).__name__, reason=str(error).splitlines()[0])


def _fill_in_task(video: str, job: Job) -> Outcome:
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
        advice = f"use --form jpeg (about {need['jpeg']:.1f} GiB)" if fits else "use fewer or smaller frames"
        raise ValueError(f"the cache does not fit: {line}; {advice}, or another --out; {job.directory}")
    return line


def _run(arguments: argparse.Namespace) -> int:
    videos = list(dict.fromkeys(sample.video for file in arguments.files for sample in read_rows(file)))
    names = ("num_frames", "mode", "fps", "size", "patch_px", "merge", "min_tokens", "max_tokens", "decoder")
    config = PoolConfig(**{name: getattr(arguments, name) for name in names})
    arguments.out.mkdir(parents=True, exist_ok=True)
    directory = str(arguments.out.absolute())
    root = None if arguments.videos is None else arguments.videos.absolute()
    job = Job(directory=directory, form=arguments.form, config=config, root=root)
    print(require_space(len(videos), job))
    start = fill_on_ray if arguments.ray else fill_here
    # disable=None: no bar where stderr is a file.
    bar = tqdm(start(videos, job, num_workers=arguments.workers), total=len(videos), desc="pools", disable=None)
    counts: Counter[str] = Counter()
    failures = []
    for outcome in bar:
        counts[outcome.state] += 1
        bar.set_postfix(failed=counts["failed"], refresh=False)
        if outcome.state == "failed":
            failures.append(outcome)
    with (arguments.out / FAILURES).open("w") as file:
        file.writelines(json.dumps(asdict(outcome), ensure_ascii=False) + "\n" for outcome in failures)
    print(f"filled {counts['filled']:,}, complete before {counts['kept']:,}, failed {counts['failed']:,}")
    for outcome in failures:
        print(f"  {outcome.video}: {outcome.error}: {outcome.reason}")
    if failures:
        print(f"the failed ones are in {arguments.out / FAILURES}")
    return 1 if failures else 0


def _size(text: str) -> tuple[int, int]:
    height, width = (int(part) for part in text.lower().split("x"))
    return height, width


def main(argv: Sequence[str] | None = None) -> int:
    arguments = command.parser(
        "Fill the frame cache with the candidate frames of every video that the rows name.",
        example="python -m data_prep.pools data/train.parquet --videos /data/videos --out /data/pools --workers 16",
    )
    arguments.add_argument("files", nargs="+", type=Path, metavar="FILE.parquet")
    arguments.add_argument("--out", type=Path, required=True, metavar="DIR", help="the cache directory of training")
    arguments.add_argument("--videos", type=Path, metavar="DIR", help="the video root; none: absolute paths only")
    arguments.add_argument("--workers", type=int, default=4, metavar="N", help="videos at a time (default: 4)")
    arguments.add_argument(
        "--form", choices=("raw", "jpeg"), default="raw", help="exact, or a fifth of the size (default: raw)"
    )
    arguments.add_argument("--ray", action="store_true", help="on a Ray cluster with a shared file system")
    defaults = PoolConfig()
    add = partial(arguments.add_argument, metavar="N", type=int)
    add("--num-frames", default=defaults.num_frames, help="frames a pool, as in training (default: %(default)s)")
    add("--patch-px", default=defaults.patch_px, help="14 for Qwen2.5-VL, 16 for Qwen3-VL (default: %(default)s)")
    add("--merge", default=defaults.merge, help="patches a side of a visual token (default: %(default)s)")
    add("--min-tokens", default=defaults.min_tokens, help="of a frame, as in training (default: %(default)s)")
    add("--max-tokens", default=defaults.max_tokens, help="of a frame, as in training (default: %(default)s)")
    arguments.add_argument("--mode", choices=("uniform", "rate"), default="uniform", help="as in training")
    arguments.add_argument("--fps", type=float, metavar="X", help="frames a second in mode rate, as in training")
    arguments.add_argument("--size", type=_size, metavar="HxW", help="exact frame size, as in training")
    arguments.add_argument("--decoder", default="auto", help="as in training (default: auto)")
    return command.run(_run, arguments.parse_args(argv))


if __name__ == "__main__":
    # The module by its name, not as `__main__`: by it Ray's tasks find their code, and this process their results.
    from data_prep import pools

    raise SystemExit(pools.main())
