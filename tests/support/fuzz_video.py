# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of what reads video files and cache files: damaged bytes -> any broken promise ends the run.

    python tests/support/fuzz_video.py entry|size|probe [-runs=20000] [libFuzzer options]

Damage is done to real files: videos of several containers, and cache entries of both forms. The promises are checked by
`check_entry`, `check_size` and `check_probe`, which the bounded tests use too.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ("mp4", "mkv", "avi", "ts", "flv", "webm", "mpg", "gif")
KEY = "5a" * 20
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3), dtype=np.uint8)
HEADER_CHANGES = (0, 1, -1, 2**31, 10**30, 0.5, math.nan, "a", "", None, True, [], [0.0, 0.0], ["a"], [math.inf], {})


def check_entry(data: bytes, folder: Path) -> None:
    """Hold the cache reader to its promises: `CacheDamage`, or frames of the size that the header says."""
    from verl_videomtr.video.cache_entry import CacheDamage, CacheEntry

    path = folder / "x.pool"
    path.write_bytes(data)
    try:
        with CacheEntry(path, KEY) as entry:
            rows = np.arange(entry.header.num_frames)
            frames = entry.header.empty_frames(min(4, len(rows)))
            found = entry.read(rows[: len(frames)], frames)
    except CacheDamage as error:
        assert str(error)  # noqa: PT017 - either outcome is right
        return
    assert frames.shape[1:] == (entry.header.height_px, entry.header.width_px, 3)
    assert entry.num_filled >= np.count_nonzero(found)
    if entry.header.form == "raw" and frames.shape == PIXELS.shape:
        assert np.array_equal(frames[found], PIXELS[found]), "a damaged frame was served"
    times = np.array(entry.header.times_seconds)
    assert times.dtype.kind in "if"
    assert np.isfinite(times).all()
    assert (np.diff(times) > 0).all()


def check_size(data: bytes, folder: Path) -> None:
    """Hold the reader of declared sizes to its promise: a number or None, whatever the bytes."""
    from verl_videomtr.video.promised_size import promised_bytes

    path = folder / "x"
    path.write_bytes(data)
    size = promised_bytes(path)
    assert size is None or (isinstance(size, int) and size >= 0)


def check_probe(data: bytes, folder: Path) -> None:
    """Hold the probe to its promises: a `VideoError` that names the file, or tables that agree with each other."""
    from verl_videomtr.video.errors import VideoError
    from verl_videomtr.video.plan import PoolConfig, make_plan
    from verl_videomtr.video.probe import probe

    path = folder / "x.mp4"
    path.write_bytes(data)
    try:
        found = probe(path)
        plan = make_plan(path, PoolConfig(num_frames=5))
    except VideoError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert found.num_frames >= 1
    assert (np.diff(found.frame_pts) > 0).all()
    assert (np.diff(found.key_pts) >= 0).all()
    assert found.key_pts[0] <= found.frame_pts[0]
    assert len(found.key_pts) == len(found.key_dts)
    assert 0 < found.duration_seconds < math.inf
    assert found.orientation.quarter_turns in (0, 1, 2, 3)
    assert min(found.width_px, found.height_px) > 0
    assert 1 <= plan.num_frames <= 5
    assert min(plan.size) >= 28


CHECKS = {"entry": check_entry, "size": check_size, "probe": check_probe}
MODULES = {
    "entry": ["verl_videomtr.video.cache_entry"],
    "size": ["verl_videomtr.video.promised_size"],
    "probe": [f"verl_videomtr.video.{name}" for name in ("probe", "plan", "container", "promised_size", "sizing")],
}


def whole_videos(folder: Path) -> list[bytes]:
    """A few small videos, one for each container."""
    import awkward_videos as awkward

    codecs = {"webm": "libvpx", "mpg": "mpeg2video", "avi": "mpeg4", "gif": "gif"}
    made = []
    for suffix in CONTAINERS:
        path = folder / f"seed.{suffix}"
        pixels = "rgb8" if suffix == "gif" else "yuv420p"
        fps = 25 if suffix in ("mpg", "gif") else 30
        codec = codecs.get(suffix, "libx264")
        awkward.write_video(path, count=12, size=(48, 64), gop=5, fps=fps, codec=codec, pix_fmt=pixels)
        made.append(path.read_bytes())
    return made


def whole_entries(folder: Path) -> list[bytes]:
    """A cache entry of each form, with most of its frames."""
    from verl_videomtr.video.cache_entry import CODECS, FORMS, CacheEntry, EntryHeader

    made = []
    for form in FORMS:
        path = folder / f"seed.{form}"
        header = EntryHeader(
            form=form,
            height_px=8,
            width_px=12,
            duration_seconds=4.0,
            times_seconds=(0.0, 1.0, 2.5, 3.0),
            decoder="pyav",
            video="/videos/x.mp4",
        )
        rows = np.array([0, 1, 3])
        with CacheEntry.create(path, KEY, header) as entry:
            entry.add(rows, [CODECS[form].encode(frame) for frame in PIXELS[rows]])
        made.append(path.read_bytes())
    return made


def with_header_changed(entry: bytes, name: str, value: object) -> bytes:
    """Return a cache entry whose header says `value` of `name`, with a checksum that is right."""
    from verl_videomtr.video.cache_entry import PREFIX, EntryHeader

    names = [*EntryHeader.__dataclass_fields__, "more"]
    magic, key, num_frames, length, _ = PREFIX.unpack_from(entry)
    start = PREFIX.size + 16 * num_frames
    fields = json.loads(entry[start : start + length])
    assert fields.keys() == asdict(EntryHeader(**fields)).keys()
    assert name in names
    text = json.dumps(fields | {name: value}).encode()
    prefix = PREFIX.pack(magic, key, num_frames, len(text), zlib.crc32(text))
    return prefix + entry[PREFIX.size : start] + text + entry[start + length :]


def main() -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]
    import atheris

    target = sys.argv.pop(1)
    with atheris.instrument_imports(include=MODULES[target]):
        for name in MODULES[target]:
            __import__(name)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        seeds = whole_entries(folder) if target == "entry" else whole_videos(folder)
        for position, seed in enumerate(seeds):
            (corpus / str(position)).write_bytes(seed)
        atheris.Setup([*sys.argv, str(corpus)], lambda data: CHECKS[target](data, folder))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
