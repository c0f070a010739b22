# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse reads against a full sequential decode, over encoder settings drawn at random from a seed."""

import random
from collections import Counter
from dataclasses import dataclass

import av
import awkward_videos as awkward
import numpy as np
import pytest
import video_surgery as surgery
from av.video.reformatter import Interpolation

from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.pool import PoolConfig, open_pool

CONTAINERS_OF = {
    "libx264": ("mp4", "mov", "mkv", "flv", "ts", "avi", "fragmented"),
    "libx265": ("mp4", "mov", "mkv", "ts", "fragmented"),
    "libsvtav1": ("mp4", "mkv", "webm"),
    "libvpx-vp9": ("mp4", "mkv", "webm"),
    "libvpx": ("mkv", "webm"),
    "mpeg4": ("mp4", "mov", "mkv", "avi"),
    "mpeg2video": ("mp4", "mkv", "ts", "avi", "mpg"),
    "mpeg1video": ("mkv", "mpg"),
    "msmpeg4": ("avi", "mkv", "wmv"),
    "wmv2": ("avi", "wmv"),
    "flv": ("flv", "avi"),
    "h263p": ("avi",),
    "ffv1": ("mkv", "avi"),
    "mjpeg": ("mov", "mkv", "avi"),
}
REORDERING = ("libx264", "libx265", "mpeg4", "mpeg2video", "mpeg1video")
FREE_TIMES = ("mp4", "mov", "mkv", "webm", "fragmented")
"""Containers that keep any presentation time, beside codecs that do."""
QUARTERS = 4


@dataclass
class Drawn:
    """One file, what is true of it, and how it was made."""

    path: object
    truth: awkward.Truth
    settings: dict


def draw_file(folder, seed):
    """Encode one file with settings that `seed` chooses."""
    noise = random.Random(seed)
    codec = noise.choice(list(CONTAINERS_OF))
    container = noise.choice(CONTAINERS_OF[codec])
    suffix = "mp4" if container == "fragmented" else container
    settings = {
        "codec": codec,
        "container": container,
        "gop": noise.choice([1, 2, 5, 12, 24, 250]),
        "b_frames": noise.choice([0, 0, 1, 2, 4]) if codec in REORDERING else 0,
        "is_open": noise.random() < 0.5,
        "count": noise.choice([1, 7, 30, 60, 90]),
        "marks": noise.choice(["own", "own", "all", "first", "others"]),
        "index": noise.choice(["kept", "removed"]),
        "times": noise.choice(["even", "jittered", "with a gap"]),
        "start": noise.choice([0, 0, 3 * awkward.TICKS]) if container not in ("avi", "wmv") else 0,
        "edits": noise.choice(["none", "none", "starts inside", "ends early"]),
    }
    if codec in awkward._OWN_TIME_BASE or container not in FREE_TIMES:
        settings["times"] = "even"
    path = folder / f"{seed}.{suffix}"
    count, step = settings["count"], awkward.TICKS // 30
    ticks = [i * step for i in range(count)]
    if settings["times"] == "jittered":
        ticks = [tick + noise.randrange(step * 3 // 5) for tick in ticks]
    elif settings["times"] == "with a gap":
        ticks = [tick + 20 * step * (2 * i > count) for i, tick in enumerate(ticks)]
    marks = {
        "own": lambda position, is_key: is_key,
        "all": lambda position, is_key: True,
        "first": lambda position, is_key: position == 0,
        "others": lambda position, is_key: position == 0 or position % 7 == 3,
    }
    truth = awkward.write_video(
        path,
        codec=codec,
        ticks=ticks,
        gop=settings["gop"],
        size=(96, 160),
        pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p",
        options=_options(settings),
        start=settings["start"],
        mark=marks[settings["marks"]],
        container_options={"movflags": "frag_keyframe+empty_moov"} if container == "fragmented" else None,
    )
    if container in ("avi", "flv", "ts", "mpg", "wmv"):
        truth.time_tolerance = 0.02  # Coarse clocks; AVI has none for reordered frames but their order.
    if container == "avi" and settings["b_frames"]:
        truth.time_tolerance = 0.05
    _operate(path, settings, truth, ticks)
    return Drawn(path, truth, settings)


def _options(settings):
    b_frames, gop, is_open = settings["b_frames"], settings["gop"], settings["is_open"]
    if settings["codec"] == "libx264":
        return {"bf": str(b_frames), "x264-params": f"open-gop={int(is_open)}:scenecut=0:b-adapt=0"}
    if settings["codec"] == "libx265":
        shape = f"open-gop={int(is_open)}:bframes={b_frames}:keyint={gop}:min-keyint={gop}:scenecut=0"
        return {"x265-params": "log-level=error:" + shape}
    if settings["codec"] in REORDERING:
        return {"bf": str(b_frames), "sc_threshold": "1000000000"} | ({} if is_open else {"flags": "+cgop"})
    if settings["codec"].startswith("libvpx"):
        return {"auto-alt-ref": str(int(is_open)), "lag-in-frames": "8" if is_open else "0"}
    return {}


def _operate(path, settings, truth, ticks):
    container = settings["container"]
    if settings["index"] == "removed":
        if container in ("mp4", "mov") and b"stss" in path.read_bytes():
            surgery.remove_box(path, b"stss")
        elif container == "avi":
            surgery.remove_avi_index(path)
        elif container in ("mkv", "webm") and b"\x1c\x53\xbb\x6b" in path.read_bytes()[-4096:]:
            surgery.remove_cues(path)
    plain = container in ("mp4", "mov") and settings["times"] == "even" and not settings["start"]
    if settings["edits"] == "none" or not plain or settings["count"] < 30:
        settings["edits"] = "none"
        return
    movie, track = surgery.scales(path)
    first = settings["count"] // 3 if settings["edits"] == "starts inside" else 0
    shown = settings["count"] // 2
    surgery.set_edits(path, [(int(shown * movie / 30), round(first * track / 30) + surgery.first_shown(path), 1)])
    truth.numbers = range(first, first + shown)
    truth.times = [i / 30 for i in range(shown)]


def decode_in_full(path):
    """Every frame that a plain decode from the start shows, in order."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        return [
            frame.reformat(140, 84, "rgb24", interpolation=Interpolation.BICUBIC, threads=1).to_ndarray()
            for frame in container.decode(stream)
        ]


def compare(drawn, noise, reads):
    """Read the pool of one file in random pieces; return how many frames were compared, and by which decoder."""
    open_pool(drawn.path, PoolConfig(size=(84, 140))).read([0])  # A file that is refused is not compared.
    whole = decode_in_full(drawn.path)
    numbers, times = list(drawn.truth.numbers), np.asarray(drawn.truth.times)
    assert len(whole) == len(numbers), (len(whole), drawn.settings)
    compared, counts = 0, Counter()
    for num_frames in {1, noise.choice([3, 8, 16]), 500}:
        pool = open_pool(drawn.path, PoolConfig(num_frames=num_frames, size=(84, 140)))
        if num_frames >= len(numbers):
            assert pool.num_frames == len(numbers), drawn.settings
        for _ in range(reads):
            wanted = [noise.randrange(pool.num_frames) for _ in range(noise.choice([1, 1, 2, 4, 8]))]
            for row, picture in zip(wanted, pool.read(wanted), strict=True):
                at = int(np.abs(times - pool.times_seconds[row]).argmin())
                assert abs(times[at] - pool.times_seconds[row]) <= drawn.truth.time_tolerance, drawn.settings
                assert awkward.read_number(picture) == numbers[at], (row, at, drawn.settings)
                assert np.array_equal(picture, whole[at]), (row, at, drawn.settings)
                compared += 1
            counts[pool.decoder] += 1
    return compared, counts


def run(folder, seeds, reads):
    """Compare many files; return the counts of reads, frames and refused files."""
    total: Counter = Counter()
    for seed in seeds:
        drawn = draw_file(folder, seed)
        try:
            frames, counts = compare(drawn, random.Random(seed), reads)
        except VideoError as error:
            total["refused"] += 1
            total[f"refused {type(error).__name__} {drawn.settings['codec']} {drawn.settings['container']}"] += 1
        else:
            total["files"] += 1
            total["frames"] += frames
            total["reads"] += sum(counts.values())
            total.update({f"reads {name}": number for name, number in counts.items()})
        finally:
            drawn.path.unlink()
    return total


def test_sparse_reads_are_those_of_a_full_decode(tmp_path):
    total = run(tmp_path, range(40), reads=3)
    assert total["files"] >= 36, total
    assert total["reads pyav"] >= 100, total


@pytest.mark.slow
@pytest.mark.parametrize("part", range(QUARTERS))
def test_thousands_of_sparse_reads_are_those_of_a_full_decode(tmp_path, part, record_property):
    total = run(tmp_path, range(1000 + 150 * part, 1150 + 150 * part), reads=8)
    record_property("counts", dict(total))
    assert total["refused"] <= 12, total
    assert total["reads"] >= 2500, total
