"""Which videos of a set of samples are there and open, and how long they are; one frame of each is decoded.

Files are opened in the frame path's own child processes, as in training: one that hangs or crashes its decoder is a
problem of that file alone.
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


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What opening one video showed."""

    duration_seconds: float | None = None
    """Length of the video; None if it does not open."""
    problem: Dropped | None = None
    """Why it cannot be used; None if it opens."""


def probe_videos(videos: Iterable[str], *, root: Path | None) -> dict[str, Probed]:
    """Open each video once.

    Args:
        videos: `Sample.video` values; repeated ones are opened once.
        root: the video root; None allows absolute paths only.
    """
    # Imported here: only commands that are given videos need a decoder installed.
    from verl_videomtr.video.decode_workers import DecodeWorkers, WorkerConfig

    names = list(dict.fromkeys(videos))
    workers = DecodeWorkers(WorkerConfig(num_processes=NUM_PROBES))
    try:
        with ThreadPoolExecutor(NUM_PROBES) as pool:
            results = pool.map(lambda name: _probe(name, root, workers), names)
            # disable=None: no bar where stderr is a file.
            return dict(zip(names, tqdm(results, total=len(names), desc="opening videos", disable=None), strict=True))
    finally:
        workers.close()


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
    """Return the samples whose video opens; list the others.

    Args:
        probed: what opening the videos showed, where that was done before.
    Raises:
        SampleError: the root is not a directory, or not one of the videos is below it.
    """
    require_root((sample.video for sample in samples), root=root)
    if probed is None:
        probed = probe_videos((sample.video for sample in samples), root=root)
    kept = []
    for sample in samples:
        problem = probed[sample.video].problem
        if problem is None:
            kept.append(sample)
        else:
            drops.add(sample.sample_id, problem)
    return kept


def _probe(video: str, root: Path | None, workers: DecodeWorkers) -> Probed:
    from verl_videomtr.video.errors import VideoError
    from verl_videomtr.video.plan import PoolConfig

    try:
        path = resolve_video(video, root)
    except SampleError as error:
        return Probed(problem=Dropped("video path is not usable", str(error)))
    if not path.is_file():
        return Probed(problem=Dropped("video is not there", str(path)))
    try:
        return Probed(duration_seconds=workers.plan(path, PoolConfig()).duration_seconds)
    except VideoError as error:
        return Probed(problem=Dropped("video does not open", str(error)))
