# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Awkward videos of one sort: the container says something wrong or unusual of the frames it holds.

Each is made for every codec and container that can show it. See `awkward_videos`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import video_surgery as surgery
from awkward_videos import TICKS, Truth, draw, kind, register, write_video

from verl_videomtr.video.errors import (
    DamagedVideoError,
    NoVideoStreamError,
    UnsupportedVideoError,
    VideoTimestampError,
)

# The first codec of each container is the one that gives pictures from nothing most readily.
AVI_CODECS = ("msmpeg4", "msmpeg4v2", "mpeg4", "wmv1", "wmv2", "h263p", "flv", "mpeg1video", "mpeg2video", "ffv1")
MP4_CODECS = ("mpeg4", "libx264", "libx265", "libsvtav1", "libvpx-vp9", "mpeg1video", "mpeg2video")
MOV_CODECS = ("cinepak", "png", "prores", "mjpeg")
MKV_CODECS = (
    *("msmpeg4", "mpeg4", "libx264", "libx265", "libsvtav1", "libvpx", "libvpx-vp9"),
    *("mpeg1video", "mpeg2video", "ffv1"),
)
ASF_CODECS = ("wmv2", "wmv1", "msmpeg4", "mpeg4")
FLV_CODECS = ("flv", "libx264")
MARKING = {"mp4": MP4_CODECS, "mkv": MKV_CODECS, "avi": AVI_CODECS, "wmv": ASF_CODECS, "flv": FLV_CODECS}
"""Containers that mark key frames, and codecs that they hold."""
PIXELS = {"cinepak": "rgb24", "png": "rgb24", "prores": "yuv422p10le", "mjpeg": "yuvj420p", "gif": "rgb8"}
NOT_SHOWN = (VideoTimestampError, UnsupportedVideoError)


def encode(path: Path, codec: str, **more: object) -> Truth:
    """Two seconds, in groups of 20 frames."""
    return write_video(path, codec=codec, count=60, pix_fmt=PIXELS.get(codec, "yuv420p"), gop=20, **more)


def for_codecs(group: str, codecs_of: dict[str, Sequence[str]], make: Callable[[Path, str], Truth]) -> None:
    """Register one kind for each codec in each container; the first of each container is tried in the quick tests."""
    for suffix, codecs in codecs_of.items():
        for position, codec in enumerate(codecs):
            name = f"{group} {codec} {suffix}"
            register(
                name,
                name.replace(" ", "_") + f".{suffix}",
                lambda path, codec=codec: make(path, codec),
                group=group,
                is_quick=position == 0,
            )


# Marks of key frames.


def _avi_without_index(path: Path, codec: str) -> Truth:
    truth = encode(path, codec)
    surgery.remove_avi_index(path)
    return truth


def _without_sync_samples(path: Path, codec: str) -> Truth:
    truth = encode(path, codec)
    if any(name == b"stss" for name, _, _ in surgery.boxes(path.read_bytes())):
        surgery.remove_box(path, b"stss")
    return truth


def _without_cues(path: Path, codec: str) -> Truth:
    truth = encode(path, codec)
    surgery.remove_cues(path)
    return truth


def _all_marked(path: Path, codec: str) -> Truth:
    return encode(path, codec, mark=lambda position, is_key: True)


def _none_marked(path: Path, codec: str) -> Truth:
    truth = encode(path, codec, mark=lambda position, is_key: False)
    truth.errors = (DamagedVideoError,)
    return truth


def _only_first_marked(path: Path, codec: str) -> Truth:
    return encode(path, codec, mark=lambda position, is_key: position == 0)


def _only_later_marked(path: Path, codec: str) -> Truth:
    return encode(path, codec, mark=lambda position, is_key: is_key and position > 0)


def _others_marked(path: Path, codec: str) -> Truth:
    return encode(path, codec, mark=lambda position, is_key: position % 20 == 3)


def _begun_inside_a_group(path: Path, codec: str) -> Truth:
    truth = encode(path, codec, mark=lambda position, is_key: True, keep=lambda position: position >= 7)
    truth.numbers, truth.times = range(20, 60), [number / 30 for number in range(40)]
    truth.errors = (DamagedVideoError, VideoTimestampError)
    return truth


for_codecs("AVI without its index", {"avi": AVI_CODECS}, _avi_without_index)
for_codecs("MP4 without sync samples", {"mp4": MP4_CODECS, "mov": MOV_CODECS}, _without_sync_samples)
for_codecs("Matroska without cues", {"mkv": MKV_CODECS}, _without_cues)
for_codecs("every packet marked a key frame", MARKING, _all_marked)
for_codecs("no packet marked a key frame", MARKING, _none_marked)
for_codecs("only the first packet marked", MARKING, _only_first_marked)
for_codecs("the first key frame not marked", MARKING, _only_later_marked)
for_codecs("other packets marked", MARKING, _others_marked)
for_codecs("begun inside a group and marked", MARKING, _begun_inside_a_group)


# Lost packets.


def _lost(path: Path, codec: str, b_frames: int) -> Truth:
    options = {"bf": str(b_frames)}
    if codec == "libx265":
        options = {"x265-params": f"log-level=error:bframes={b_frames}:scenecut=0"}
    truth = encode(path, codec, keep=lambda position: position != 27, options=options)
    truth.errors = (DamagedVideoError, VideoTimestampError)
    return truth


_COUNTED = {
    "mp4": ("libx264", "libx265", "mpeg2video"),
    "mkv": ("libx264", "libx265", "mpeg1video"),
    "flv": ("libx264",),
    "ts": ("libx265", "libx264", "mpeg2video"),
    "avi": ("mpeg2video",),
}
for_codecs("a packet lost inside a group", _COUNTED, lambda path, codec: _lost(path, codec, 0))
for_codecs("a packet lost between B-frames", _COUNTED, lambda path, codec: _lost(path, codec, 2))


# Clocks.


@kind("no_durations.mp4")
def all_durations_zero(path: Path) -> Truth:
    write_video(path, options={"bf": "0"})
    surgery.set_sample_durations(path, 0)
    return Truth(errors=(VideoTimestampError,))


@kind("overlapping.ts")
def transport_streams_joined_with_overlapping_times(path: Path) -> Truth:
    return _joined(path, overlap=15)


@kind("touching.ts")
def transport_streams_joined_with_one_time_twice(path: Path) -> Truth:
    return _joined(path, overlap=1)


@kind("overlapping.mpg")
def program_streams_joined_with_overlapping_times(path: Path) -> Truth:
    return _joined(path, overlap=15, codec="mpeg2video")


@kind("overlapping.flv")
def flash_joined_with_overlapping_times(path: Path) -> Truth:
    return _joined(path, overlap=10)


def _joined(path: Path, *, overlap: int, codec: str = "libx264") -> Truth:
    first, second = path.with_name("o1" + path.suffix), path.with_name("o2" + path.suffix)
    write_video(first, count=60, start=TICKS, codec=codec)
    write_video(second, count=60, start=TICKS + (60 - overlap) * 20, codec=codec)
    flash_header = 13 if path.suffix == ".flv" else 0
    path.write_bytes(first.read_bytes() + second.read_bytes()[flash_header:])
    return Truth(errors=(VideoTimestampError, DamagedVideoError))


# Several streams.


def _with_small_stream(path: Path, *, count: int, size: tuple[int, int]) -> Truth:
    """Two streams that are both enabled, of which the first has `count` pictures of its own."""
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("libx264", rate=30) for _ in range(2)]
        for (height, width), stream in zip((size, (192, 256)), streams, strict=True):
            stream.width, stream.height, stream.disposition = width, height, 1
            stream.codec_context.gop_size = 24
            stream.codec_context.options = {"preset": "veryfast"}
        for number in range(60):
            if number < count:
                output.mux(streams[0].encode(av.VideoFrame.from_ndarray(draw(number + 1000, *size), "rgb24")))
            output.mux(streams[1].encode(av.VideoFrame.from_ndarray(draw(number), "rgb24")))
        for stream in streams:
            output.mux(stream.encode(None))
    return Truth(range(60), [number / 30 for number in range(60)], upright_size=(192, 256))


@kind("thumbnail.mp4")
def thumbnails_as_first_track(path: Path) -> Truth:
    return _with_small_stream(path, count=3, size=(192, 256))


@kind("thumbnail.mkv")
def thumbnails_as_first_stream_of_matroska(path: Path) -> Truth:
    return _with_small_stream(path, count=3, size=(192, 256))


@kind("thumbnail.ts")
def thumbnails_as_first_stream_of_a_transport_stream(path: Path) -> Truth:
    return _with_small_stream(path, count=3, size=(192, 256))


@kind("preview.mp4")
def small_preview_as_first_track(path: Path) -> Truth:
    return _with_small_stream(path, count=60, size=(96, 128))


# Orientation: what is stored is turned, and mirrored, so that the matrix shows it upright.

ORIENTATIONS: dict[str, tuple[tuple[float, ...], tuple[bool, bool, int], Callable[[np.ndarray], np.ndarray]]] = {
    "turned left": ((0, -1, 1, 0), (False, False, 1), lambda picture: np.rot90(picture, -1)),
    "turned half": ((-1, 0, 0, -1), (True, True, 0), lambda picture: np.rot90(picture, 2)),
    "turned right": ((0, 1, -1, 0), (False, False, 3), lambda picture: np.rot90(picture, 1)),
    "mirrored across": ((-1, 0, 0, 1), (True, False, 0), lambda picture: picture[:, ::-1]),
    "mirrored down": ((1, 0, 0, -1), (False, True, 0), lambda picture: picture[::-1]),
    "mirrored at a diagonal": ((0, 1, 1, 0), (True, False, 1), lambda picture: picture.swapaxes(0, 1)),
    "mirrored at the other": ((0, -1, -1, 0), (True, False, 3), lambda picture: np.rot90(picture, 2).swapaxes(0, 1)),
    "upright and said so": ((1, 0, 0, 1), (False, False, 0), lambda picture: picture),
}
"""Name -> (a, b, c, d of the display matrix; mirrored, flipped, quarter turns to the left of an SEI; its undoing)."""


def _matrix(a: float, b: float, c: float, d: float) -> list[int]:
    return [round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]


def _display_message(codec: str, mirror: bool, flip: bool, quarter_turns: int) -> bytes:
    """A display orientation SEI message (ITU-T H.264, D.1.27; H.265, D.2.17), as a unit of its own."""
    bits = f"0{mirror:b}{flip:b}{quarter_turns * 16384:016b}01001"
    payload = int(bits, 2).to_bytes(3, "big")
    head = b"\x06" if codec == "libx264" else b"\x4e\x01"
    return b"\x00\x00\x00\x01" + head + bytes([47, len(payload)]) + payload + b"\x80"


def _turned(path: Path, name: str, codec: str | None) -> Truth:
    """Say it in the container, or with a codec in the stream."""
    matrix, message, undo = ORIENTATIONS[name]
    lies = matrix[0] == 0

    def prepare(picture: np.ndarray) -> np.ndarray:
        return undo(np.rot90(picture, -1) if lies else picture)

    if codec is None:
        return write_video(path, count=40, matrix=_matrix(*matrix), turns=int(lies), prepare=prepare)
    unit = _display_message(codec, *message)

    def edit(data: bytes, is_key: bool) -> bytes:
        return unit + data if is_key else data

    return write_video(path, codec=codec, count=40, edit=edit, turns=int(lies), prepare=prepare)


for _name in ORIENTATIONS:
    for _where, _suffix, _codec in (
        *(("by the container", suffix, None) for suffix in ("mp4", "mov", "mkv")),
        *(("by the stream", suffix, codec) for suffix in ("mp4", "ts") for codec in ("libx264", "libx265")),
    ):
        register(
            f"{_name} {_where} {_codec or ''} {_suffix}",
            f"{_name}_{_where}_{_codec}.{_suffix}".replace(" ", "_"),
            lambda path, name=_name, codec=_codec: _turned(path, name, codec),
            group=f"{_name} {_where}",
            is_quick=_suffix == "mp4" and _codec in (None, "libx264"),
        )


# Edit lists, in frames: (frames shown, first frame or -1 for nothing, rate).

_WHOLE = [(number, number) for number in range(120)]
EDITS: dict[str, tuple[list[tuple[int, int, float]], list[tuple[int, float]], tuple[type[Exception], ...]]] = {
    "ends early": ([(60, 0, 1)], _WHOLE[:60], ()),
    "starts late": ([(60, 60, 1)], [(n, n - 60) for n in range(60, 120)], ()),
    "starts inside a group": ([(50, 37, 1)], [(n, n - 37) for n in range(37, 87)], ()),
    "begins with nothing": ([(30, -1, 1), (120, 0, 1)], _WHOLE, ()),
    "begins with nothing and ends early": ([(30, -1, 1), (50, 0, 1)], _WHOLE[:50], ()),
    "has no entries": ([], _WHOLE, NOT_SHOWN),
    "stands still": ([(40, 0, 1), (30, 40, 0), (80, 40, 1)], [], NOT_SHOWN),
    "has two parts": ([(30, 0, 1), (40, 67, 1)], [], NOT_SHOWN),
    "has its parts exchanged": ([(30, 60, 1), (30, 0, 1)], [], NOT_SHOWN),
    "repeats a part": ([(30, 0, 1), (30, 0, 1)], [], NOT_SHOWN),
    "pauses": ([(30, 0, 1), (30, -1, 1), (60, 30, 1)], [], NOT_SHOWN),
    "ends with nothing": ([(60, 0, 1), (60, -1, 1)], [], NOT_SHOWN),
    "runs at double speed": ([(60, 0, 2)], [], NOT_SHOWN),
    "shows nothing": ([(120, -1, 1)], [], (NoVideoStreamError, *NOT_SHOWN)),
    "has no length": ([(0, 0, 1)], [], (NoVideoStreamError, *NOT_SHOWN)),
    "lies behind the end": ([(30, 300, 1)], [], (NoVideoStreamError, *NOT_SHOWN)),
}


def _with_edits(path: Path, name: str, codec: str, b_frames: int, **more: object) -> Truth:
    edits, numbers, errors = EDITS[name]
    options = {"bf": str(b_frames)} | ({"x264-params": "b-adapt=0:scenecut=0"} if codec == "libx264" else {})
    write_video(path, codec=codec, options=options, **more)
    movie, track = surgery.scales(path)
    # The media's own clock starts where its first frame is shown: as many frames late as B-frames need.
    delay = surgery.first_shown(path)
    surgery.set_edits(
        path,
        [(int(n * movie / 30), -1 if at < 0 else round(at * track / 30) + delay, rate) for n, at, rate in edits],
    )
    return Truth([n for n, _ in numbers], [at / 30 for _, at in numbers], errors, upright_size=(192, 256))


for _name in EDITS:
    for _codec, _b_frames in (("libx264", 2), ("libx264", 0), ("mpeg4", 0), ("mpeg4", 2), ("libsvtav1", 0)):
        register(
            f"edit list {_name} {_codec} {_b_frames}",
            f"edit_{_name}_{_codec}_{_b_frames}.mp4".replace(" ", "_"),
            lambda path, name=_name, codec=_codec, b=_b_frames: _with_edits(path, name, codec, b),
            group=f"an edit list that {_name}",
            is_quick=(_codec, _b_frames) == ("libx264", 2),
        )


def _edited_and_mismarked(path: Path, codec: str, mark: Callable[[int, bool], bool]) -> Truth:
    truth = _with_edits(path, "starts inside a group", codec, 0, mark=mark)
    truth.errors = (DamagedVideoError, VideoTimestampError)
    return truth


for _group, _mark in (
    ("every packet marked", lambda position, is_key: True),
    ("other packets marked", lambda position, is_key: position == 0 or position % 7 == 3),
):
    for_codecs(
        f"an edit list that starts inside a group with {_group}",
        {"mp4": MP4_CODECS},
        lambda path, codec, mark=_mark: _edited_and_mismarked(path, codec, mark),
    )
