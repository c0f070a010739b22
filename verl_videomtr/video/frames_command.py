# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr frames VIDEO [OVERRIDE ...]`: what the policy would see of a video, as a table, an npz or a contact sheet.

Without a range, the overview that opens an episode; with one, what a retrieval of that range brings back. With a
launch's overrides, exactly what that launch shows; without, what the paper shows. The options change single things.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from verl_videomtr.episode import EpisodeConfig, spread
from verl_videomtr.video.pool import FramePool, PoolConfig, open_pool
from verl_videomtr.video.sheet import contact_sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("video", metavar="VIDEO", help="a video file")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="as for verl.trainer.main_ppo: +videomtr/recipe=paper videomtr/budget=b64 ... (default: the paper's)",
    )
    episode = EpisodeConfig()
    parser.add_argument(
        "--num-frames",
        type=_positive,
        help=f"most frames to show (default: an overview's, {episode.overview_frames} in the paper; with --range a "
        f"retrieval's, {episode.frames_per_retrieval})",
    )
    parser.add_argument("--pool-size", type=_positive, help="frames in the candidate pool (default: 128)")
    parser.add_argument(
        "--range", metavar="START,END", help="pool indices, inclusive (3,17), or seconds with an s (4.5s,20s)"
    )
    parser.add_argument("--size", type=_size, metavar="HxW", help="exact frame size, stretched (224x392)")
    parser.add_argument("--decoder", help="auto, pyav, torchcodec or decord (default: auto)")
    parser.add_argument(
        "--npz", type=Path, metavar="OUT.npz", help="write frames, times_seconds, frame_indices, decoder"
    )
    parser.add_argument("--sheet", type=Path, metavar="OUT.png", help="write a contact sheet")


def run(args: argparse.Namespace) -> int:
    """Read the frames and write what was asked for.

    Raises:
        VideoError: the video cannot give the frames.
        ValueError: a range outside the pool, or overrides that do not compose.
    """
    config, episode = _read_launch(args.overrides)
    given = {"num_frames": args.pool_size, "size": args.size, "decoder": args.decoder}
    pool = open_pool(
        args.video, dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})
    )
    if args.range:
        (start, end), most = _parse_range(args.range, pool), episode.frames_per_retrieval
    else:
        start, end, most = 0, pool.num_frames - 1, episode.overview_frames
    indices = np.array(spread(start, end, args.num_frames or most), dtype=np.int64)
    frames, times = pool.read(indices), pool.times_seconds[indices]
    print(
        f"{args.video}: {pool.duration_seconds:.2f} s, pool of {pool.num_frames} frames at "
        f"{pool.height_px}x{pool.width_px}, decoder {pool.decoder}"
    )
    for index, seconds in zip(indices, times, strict=True):
        print(f"{index:6d}  {seconds:10.3f} s")
    if args.npz:
        with args.npz.open("wb") as file:
            np.savez(file, frames=frames, times_seconds=times, frame_indices=indices, decoder=np.array(pool.decoder))
    if args.sheet:
        labels = [f"{index}  {seconds:.2f} s" for index, seconds in zip(indices, times, strict=True)]
        contact_sheet(frames, labels).save(args.sheet)
    return 0


def _read_launch(overrides: Sequence[str]) -> tuple[PoolConfig, EpisodeConfig]:
    """What a launch with these overrides shows; the paper's, which needs no verl, without any."""
    if not overrides:
        return PoolConfig(), EpisodeConfig()
    from verl_videomtr.settings import load_settings
    from verl_videomtr.verl_plugin.compose import compose

    settings = load_settings(compose(overrides))
    return settings.video.pool, settings.episode


def _parse_range(text: str, pool: FramePool) -> tuple[int, int]:
    parts = [part.strip() for part in text.split(",")]
    rule = f"START,END with 0 <= START <= END <= {pool.num_frames - 1} (or seconds, as 4.5s,20s)"
    try:
        first, last = parts
        if first.endswith("s") and last.endswith("s"):
            inside = np.flatnonzero(
                (pool.times_seconds >= float(first[:-1])) & (pool.times_seconds <= float(last[:-1]))
            )
            start, end = int(inside[0]), int(inside[-1])
        else:
            start, end = int(first), int(last)
    except (ValueError, IndexError):
        raise ValueError(f"--range {text!r} names no frames of the pool; expected {rule}") from None
    if not 0 <= start <= end < pool.num_frames:
        raise ValueError(f"--range {text!r} leaves the pool; expected {rule}")
    return start, end


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; expected at least 1")
    return value


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected HEIGHTxWIDTH, as 224x392") from None
    if height < 1 or width < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected positive sides")
    return height, width
