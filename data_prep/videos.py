# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Which videos of a set of samples are there and open, how long they are, and whether the frames of a pool can be read.

Files are opened in the frame path's own child processes, as in training: one that hangs or crashes its decoder is a
problem of that file alone. Where the machine fails (a killed process, storage that does not answer) nothing is known
about the file, and the command stops: a row that is dropped for that is lost without a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from data_prep.drops import DropList, Dropped
from verl_videomtr.sample import Sample, SampleError, resolve_video

if TYPE_CHECKING:
    from verl_videomtr.video.decode_workers import DecodeWorkers

NUM_PROBES = 4
"""Files opened at once, each by a process of its own: the work is mostly waiting for the disk."""
MAX_FAULTS = 8
"""Videos that could not be judged after which no more are opened: the machine will not get better by itself."""
LENGTH_TOLERANCE_SECONDS = 2.0
LENGTH_TOLERANCE_SHARE = 0.05
"""Of the annotated length. Copies of a video differ by seconds at their ends; beyond the larger of the two, annotated
times are those of another cut."""


class UnjudgedVideosError(ValueError):
    """The machine failed while videos were opened, so that nothing can be said about them."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What opening one video showed."""

    duration_seconds: float | None = None
    """Length of the video; None if it does not open."""
    problem: Dropped | None = None
    """Why it cannot be used; None if it opens."""


def probe_videos(videos: Iterable[str], *, root: Path | None, num_frames: int | None = None) -> dict[str, Probed]:
    """Open each video once.

    Args:
        videos: `Sample.video` values; repeated ones are opened once.
        root: the video root; None allows absolute paths only.
        num_frames: read as many frames as a pool of this size does; None decodes one alone.
    Raises:
        UnjudgedVideosError: the machine failed, not the files.
    """
    # Imported here: only commands that are given videos need a decoder installed.
    from verl_videomtr.video.decode_workers import DecodeWorkers, WorkerConfig
    from verl_videomtr.video.errors import DecoderUnavailableError, MachineFaultError

    names = list(dict.fromkeys(videos))
    probed: dict[str, Probed] = {}
    faults: list[str] = []
    workers = DecodeWorkers(WorkerConfig(num_processes=NUM_PROBES))
    pool = ThreadPoolExecutor(NUM_PROBES)
    try:
        futures = [pool.submit(_probe, name, root, workers, num_frames) for name in names]
        # disable=None: no bar where stderr is a file.
        for name, future in zip(names, tqdm(futures, desc="opening videos", disable=None), strict=True):
            try:
                probed[name] = future.result()
            except (DecoderUnavailableError, MachineFaultError, OSError) as fault:
                faults.append(str(fault))
                if len(faults) == MAX_FAULTS:
                    break
    finally:
        pool.shutdown(cancel_futures=True)
        workers.close()
    if faults:
        raise UnjudgedVideosError(
            f"{len(faults)} videos could not be judged, the first: {faults[0]}; expected a decoder that runs and "
            "storage that answers; nothing was dropped; look at memory and storage and run again, or move the file "
            "away if it is to blame"
        )
    return probed


def require_root(videos: Iterable[str], *, root: Path) -> None:
    """Check that the video root is there and holds at least one of the videos.

    Raises:
        SampleError: it is not a directory, or not one of the videos is below it.
    """
    if not root.is_dir():
        raise SampleError(f"no such directory; expected the video root; {root}; check --videos")
    names = list(dict.fromkeys(videos))
    if names and not any((root / name).exists() for name in names):
        raise SampleError(
            f"none of {len(names):,} videos is below the video root; expected e.g. {root / names[0]}; "
            "move or link the videos there, or give their directory inside the root with --prefix"
        )


def keep_openable(
    samples: list[Sample], *, root: Path, drops: DropList, probed: Mapping[str, Probed] | None = None
) -> list[Sample]:
    """Return the samples whose video opens and, for those to train on, is as long as annotated; list the others.

    Args:
        probed: what opening the videos showed, where that was done before.
    Raises:
        SampleError: the root is not a directory, or not one of the videos is below it.
        UnjudgedVideosError: the machine failed, not the files.
    """
    require_root((sample.video for sample in samples), root=root)
    if probed is None:
        probed = probe_videos((sample.video for sample in samples), root=root)
    kept = []
    for sample in samples:
        found = probed[sample.video]
        # A benchmark's questions stay what they are: its score is divided by their number.
        problem = found.problem or (length_problem(sample, found.duration_seconds) if sample.split == "train" else None)
        if problem is None:
            kept.append(sample)
        else:
            drops.add(sample.sample_id, problem)
    return kept


def length_problem(sample: Sample, seconds: float | None) -> Dropped | None:
    """Say whether evidence was annotated on a video of another length, so that its times mean other moments.

    Args:
        seconds: the file's own length; None = not known.
    """
    known = sample.duration_seconds
    if known is None or seconds is None or sample.segments is None:
        return None
    if abs(known - seconds) <= max(LENGTH_TOLERANCE_SECONDS, LENGTH_TOLERANCE_SHARE * known):
        return None
    return Dropped("video is not as long as annotated", f"{sample.video}: row {known:g} s, file {seconds:.2f} s")


def _probe(video: str, root: Path | None, workers: DecodeWorkers, num_frames: int | None) -> Probed:
    from verl_videomtr.video.errors import DecoderUnavailableError, MachineFaultError, VideoError
    from verl_videomtr.video.plan import PoolConfig
    from verl_videomtr.video.pool import open_pool

    try:
        path = resolve_video(video, root)
    except SampleError as error:
        return Probed(problem=Dropped("video path is not usable", str(error)))
    if not path.is_file():
        return Probed(problem=Dropped("video is not there", str(path)))
    reason = "video does not open"
    try:
        seconds = workers.plan(path, PoolConfig()).duration_seconds
        if num_frames is not None:
            reason = "frames of the video cannot be read"
            pool = open_pool(path, PoolConfig(num_frames=num_frames), workers=workers)
            pool.read(range(pool.num_frames))
    except (DecoderUnavailableError, MachineFaultError):
        raise
    except VideoError as error:
        return Probed(problem=Dropped(reason, str(error)))
    return Probed(duration_seconds=seconds)
