"""`videomtr frames VIDEO`: what the policy would see of a video, as a table, an npz file or a contact sheet.

Without a range, the overview that opens an episode; with one, what a retrieval of that range brings back. At most as
many frames as the paper's n_0 and n_k; `--num-frames` says it for another budget.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from verl_videomtr.episode import EpisodeConfig, spread
from verl_videomtr.video.pool import FramePool, PoolConfig, open_pool
from verl_videomtr.video.sheet import contact_sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("video", metavar="VIDEO", help="a video file")
    episode = EpisodeConfig()
    parser.add_argument(
        "--num-frames",
        type=_positive,
        help=f"most frames to show (default: {episode.overview_frames}, an overview; with --range "
        f"{episode.frames_per_retrieval}, a retrieval)",
    )
    parser.add_argument("--pool-size", type=_positive, default=128, help="frames in the candidate pool (default: 128)")
    parser.add_argument(
        "--range", metavar="START,END", help="pool indices, inclusive (3,17), or seconds with an s (4.5s,20s)"
    )
    parser.add_argument("--size", type=_size, metavar="HxW", help="exact frame size, stretched (224x392)")
    parser.add_argument("--decoder", default="auto", help="auto, pyav, torchcodec or decord (default: auto)")
    parser.add_argument(
        "--npz", type=Path, metavar="OUT.npz", help="write frames, times_seconds, frame_indices, decoder"
    )
    parser.add_argument("--sheet", type=Path, metavar="OUT.png", help="write a contact sheet")


def run(args: argparse.Namespace) -> int:
    """Read the frames and write what was asked for.

    Raises:
        VideoError: the video cannot give the frames.
        ValueError: a range outside the pool.
    """
    config = PoolConfig(num_frames=args.pool_size, size=args.size, decoder=args.decoder)
    pool = open_pool(args.video, config)
    episode = EpisodeConfig()
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
