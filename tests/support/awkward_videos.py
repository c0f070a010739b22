# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Videos as odd as real collections have them, made on the spot, with the frame's number burnt into every frame.

Each entry of `KINDS` writes one file and says what is true of it: the burnt-in number and the time of every frame that
is shown, or the errors that are an honest answer. Anything else that comes out of a decoder is a wrong frame.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from verl_videomtr.video.errors import (
    DamagedVideoError,
    NoVideoStreamError,
    UnsupportedVideoError,
    VideoError,
    VideoNotFoundError,
    VideoTimestampError,
)

BITS = 12
_CELLS = BITS + 4
TICKS = 600
"""Ticks a second in which the generator thinks."""


@dataclass
class Truth:
    """What is true of one file."""

    numbers: Sequence[int] = ()
    """Burnt-in number of every frame shown, in order; empty where no frame may come out."""
    times: Sequence[float] = ()
    """Seconds after the first frame at which each is shown."""
    errors: tuple[type[VideoError], ...] = ()
    """Errors that are an honest answer; with numbers, either is."""
    upright_size: tuple[int, int] | None = None
    """(height, width) in square pixels, upright."""
    time_tolerance: float = 2e-3
    note: str = field(default="")


Kind = Callable[[Path], Truth]
KINDS: dict[str, tuple[str, Kind]] = {}
"""Name -> (file name, maker)."""


GROUPS: dict[str, str] = {}
"""Name -> what it has in common with kinds that differ in codec or container only."""
SLOW: set[str] = set()
"""Kinds of which others of their group are enough for a quick look."""


def register(name: str, file_name: str, make: Kind, *, group: str, is_quick: bool) -> None:
    """Register one of a group of kinds."""
    assert name not in KINDS
    KINDS[name] = (file_name, make)
    GROUPS[name] = group
    if not is_quick:
        SLOW.add(name)


def kind(file_name: str) -> Callable[[Kind], Kind]:
    """Register a maker under its function's name."""

    def keep(make: Kind) -> Kind:
        KINDS[make.__name__] = (file_name, make)
        return make

    return keep


def draw(number: int, height: int = 192, width: int = 256) -> np.ndarray:
    """A picture whose upper and lower quarters are a barcode of `number` with a checksum, over a moving gradient."""
    ramp = (np.add.outer(np.arange(height), np.arange(width)) + 3 * number) % 128 + 64
    picture = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
    edges = np.linspace(0, width, _CELLS + 1).round().astype(int)
    for cell, bit in enumerate(_bits(number)):
        for rows in (slice(0, height // 4), slice(height - height // 4, height)):
            picture[rows, edges[cell] : edges[cell + 1]] = 235 if bit else 20
    return picture


def read_number(frame: np.ndarray) -> int | None:
    """The number burnt into an upright frame of any size; None where the barcode is not one."""
    height, width, _ = frame.shape
    centres = ((np.arange(_CELLS) + 0.5) * width / _CELLS).astype(int)
    reach = max(1, width // _CELLS // 5)
    bands = (slice(height // 16, 3 * height // 16), slice(height - 3 * height // 16, height - height // 16))
    levels = [[frame[band, c - reach : c + reach].mean() for c in centres] for band in bands]
    bits = [[level > 127 for level in row] for row in levels]
    if bits[0] != bits[1]:
        return None
    number = sum(1 << i for i, bit in enumerate(bits[0][:BITS]) if bit)
    return number if list(bits[0]) == _bits(number) else None


def _bits(number: int) -> list[bool]:
    check = (number * 7 + 5) % 15 + 1
    return [bool(number >> i & 1) for i in range(BITS)] + [bool(check >> i & 1) for i in range(4)]


def write_video(
    path: Path,
    *,
    count: int = 120,
    fps: int = 30,
    ticks: Sequence[int] | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    gop: int = 24,
    size: tuple[int, int] = (192, 256),
    pix_fmt: str = "yuv420p",
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int | None = None,
    sample_aspect: Fraction | None = None,
    start: int = 0,
    turns: int = 0,
    audio_seconds: float = 0.0,
    keep: Callable[[int], bool] = lambda _: True,
    mark: Callable[[int, bool], bool] = lambda _, is_key: is_key,
    matrix: Sequence[int] | None = None,
    prepare: Callable[[np.ndarray], np.ndarray] = lambda picture: picture,
    edit: Callable[[bytes, bool], bytes] | None = None,
) -> Truth:
    """Encode `count` numbered frames and return the truth about them.

    Args:
        ticks: each frame's time in 1/TICKS s; None spaces them by `fps`.
        turns: quarter turns (counter-clockwise) by which the stored picture is turned before encoding.
        keep: which packets, by their number in decoding order, are written.
        mark: whether a packet is marked as a key frame, from its number and whether it is one.
        matrix: the container's display matrix (ISO/IEC 14496-12): a, b, u, c, d, v, x, y, w.
        prepare: what is done to a picture before it is encoded.
        edit: what is done to a packet's bytes, from them and whether it is a key frame.
    """
    ticks = ticks if ticks is not None else [i * TICKS // fps for i in range(count)]
    height, width = size
    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.width, stream.height = (width, height) if turns % 2 == 0 else (height, width)
        stream.pix_fmt, stream.codec_context.gop_size = pix_fmt, gop
        stream.options = _fast(codec) | (options or {})
        if codec not in _OWN_TIME_BASE:
            stream.codec_context.time_base = Fraction(1, TICKS)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        sound = _add_sound(output, audio_seconds)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        pictures = (prepare(np.rot90(draw(number, height, width), turns)) for number in range(len(ticks)))
        for position, packet in enumerate(_encode(stream, ticks, pictures, start)):
            if edit is not None:
                packet = _edited(packet, edit(bytes(packet), packet.is_keyframe))
            packet.is_keyframe = mark(position, packet.is_keyframe)
            if keep(position):
                output.mux(packet)
        for packet in sound:
            output.mux(packet)
    seconds = [(tick - ticks[0]) / TICKS for tick in ticks]
    return Truth(range(len(ticks)), seconds, upright_size=(height, width))


def _fast(codec: str) -> dict[str, str]:
    return {
        "libx264": {"preset": "veryfast", "bf": "2"},
        "libx265": {"preset": "ultrafast", "x265-params": "log-level=error"},
        "libsvtav1": {"preset": "8", "crf": "20", "svtav1-params": "lp=1"},
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
        "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    }.get(codec, {})


_OWN_TIME_BASE = (
    *("mpeg4", "mpeg1video", "mpeg2video", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2", "h263p", "flv", "gif", "mjpeg"),
    *("cinepak", "png", "rawvideo", "prores"),
)
"""Encoders that do not take times in 1/TICKS s."""


def _encode(stream, ticks, pictures, start) -> Iterator[av.Packet]:
    base = stream.codec_context.time_base or Fraction(1, TICKS)
    for picture, tick in zip(pictures, ticks, strict=True):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
        frame.time_base = base
        frame.pts = round(Fraction(tick + start, TICKS) / base)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _edited(packet: av.Packet, data: bytes) -> av.Packet:
    edited = av.Packet(data)
    for name in ("pts", "dts", "duration", "time_base", "stream", "is_keyframe"):
        setattr(edited, name, getattr(packet, name))
    return edited


def _add_sound(output, seconds: float) -> list[av.Packet]:
    if not seconds:
        return []
    stream = output.add_stream("aac", rate=16000)
    packets = []
    for block in range(int(seconds * 16000 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 16000, block * 1024
        packets += stream.encode(frame)
    return packets + stream.encode(None)


# Timing.


@kind("plain.mp4")
def plain(path: Path) -> Truth:
    return write_video(path)


@kind("vfr.mp4")
def variable_rate(path: Path) -> Truth:
    steps = [20] * 40 + [200] * 12 + [40] * 40
    return write_video(path, ticks=np.cumsum([0, *steps]).tolist())


@kind("gap.mp4")
def long_gap(path: Path) -> Truth:
    return write_video(path, ticks=[i * 20 + (18000 if i >= 60 else 0) for i in range(120)])


@kind("late.mp4")
def late_start(path: Path) -> Truth:
    return write_video(path, start=5 * TICKS)


@kind("late.mkv")
def late_start_mkv(path: Path) -> Truth:
    return write_video(path, start=7 * TICKS)


@kind("jitter.mp4")
def jittered_times(path: Path) -> Truth:
    noise = random.Random(3)
    return write_video(path, ticks=[i * 20 + noise.randrange(12) for i in range(120)])


@kind("editlist.mp4")
def edit_list_cut(path: Path) -> Truth:
    """A stream copy from the middle of a group of pictures: an edit list hides the frames before the cut."""
    whole = path.with_name("whole_" + path.name)
    write_video(whole, count=200, gop=48)
    _copy_cut(whole, path, cut_frame=63)
    numbers = range(63, 200)
    return Truth(numbers, [(n - 63) / 30 for n in numbers], upright_size=(192, 256))


def _copy_cut(source: Path, target: Path, *, cut_frame: int) -> None:
    with av.open(str(source)) as reader, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as writer:
        stream = reader.streams.video[0]
        output = writer.add_stream_from_template(stream)
        shift = round(Fraction(cut_frame, 30) / stream.time_base)
        reader.seek(shift, stream=stream, backward=True)
        for packet in reader.demux(stream):
            if packet.size:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = output
                writer.mux(packet)


@kind("hour.ts")
def transport_stream_at_one_hour(path: Path) -> Truth:
    return write_video(path, start=3600 * TICKS)


@kind("wrap.ts")
def transport_stream_wrapping_its_clock(path: Path) -> Truth:
    truth = write_video(path, start=95441 * TICKS)
    truth.errors = (VideoTimestampError,)
    return truth


@kind("midgop.ts")
def transport_stream_cut_inside_a_group(path: Path) -> Truth:
    write_video(path, options={"bf": "0"}, keep=lambda position: position >= 10)
    numbers = range(24, 120)
    return Truth(numbers, [(n - 24) / 30 for n in numbers], upright_size=(192, 256))


@kind("joined.ts")
def transport_streams_joined_with_times_restarting(path: Path) -> Truth:
    first, second = path.with_name("j1.ts"), path.with_name("j2.ts")
    write_video(first, count=60, start=10 * TICKS)
    write_video(second, count=60)
    path.write_bytes(first.read_bytes() + second.read_bytes())
    return Truth(errors=(VideoTimestampError, DamagedVideoError))


@kind("longgop.mp4")
def one_key_frame_only(path: Path) -> Truth:
    return write_video(path, gop=1000, options={"sc_threshold": "0"})


@kind("intra.mp4")
def key_frames_only(path: Path) -> Truth:
    return write_video(path, gop=1)


@kind("opengop.mp4")
def open_groups(path: Path) -> Truth:
    return write_video(path, options={"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}, gop=20)


@kind("opengop_hevc.mp4")
def open_groups_hevc(path: Path) -> Truth:
    options = {"x265-params": "log-level=error:open-gop=1:bframes=4:keyint=20:min-keyint=20"}
    return write_video(path, codec="libx265", options=options, gop=20)


@kind("refresh.mp4")
def intra_refresh(path: Path) -> Truth:
    return write_video(path, options={"x264-params": "intra-refresh=1:keyint=30"}, gop=30)


@kind("one.mp4")
def single_frame(path: Path) -> Truth:
    return write_video(path, count=1)


@kind("five.mp4")
def five_frames(path: Path) -> Truth:
    return write_video(path, count=5)


# Containers and codecs.


@kind("plain.mkv")
def matroska(path: Path) -> Truth:
    return write_video(path)


@kind("plain.mov")
def quicktime(path: Path) -> Truth:
    return write_video(path)


@kind("plain.flv")
def flash(path: Path) -> Truth:
    return write_video(path)


@kind("fragmented.mp4")
def fragmented(path: Path) -> Truth:
    return write_video(path, container_options={"movflags": "frag_keyframe+empty_moov"})


@kind("faststart.mp4")
def index_first(path: Path) -> Truth:
    return write_video(path, container_options={"movflags": "faststart"})


@kind("hevc.mp4")
def hevc(path: Path) -> Truth:
    return write_video(path, codec="libx265")


@kind("av1.mp4")
def av1(path: Path) -> Truth:
    return write_video(path, codec="libsvtav1", count=60)


@kind("av1.webm")
def av1_webm(path: Path) -> Truth:
    return write_video(path, codec="libsvtav1", count=60)


@kind("vp9.webm")
def vp9_with_hidden_frames(path: Path) -> Truth:
    return write_video(path, codec="libvpx-vp9", options={"auto-alt-ref": "1", "lag-in-frames": "12"}, count=60)


@kind("vp8.webm")
def vp8_with_hidden_frames(path: Path) -> Truth:
    options = {"auto-alt-ref": "1", "lag-in-frames": "12", "deadline": "good"}
    return write_video(path, codec="libvpx", options=options, count=60)


@kind("mpeg4.avi")
def avi(path: Path) -> Truth:
    return write_video(path, codec="mpeg4")


@kind("bframes.avi")
def avi_with_reordered_frames(path: Path) -> Truth:
    return write_video(path, codec="mpeg4", options={"bf": "2"})


@kind("h264.avi")
def avi_h264(path: Path) -> Truth:
    truth = write_video(path, codec="libx264")
    truth.time_tolerance = 0.05  # AVI stores no presentation times.
    return truth


@kind("msmpeg4.avi")
def avi_msmpeg4(path: Path) -> Truth:
    return write_video(path, codec="msmpeg4")


@kind("mpeg2.mpg")
def program_stream(path: Path) -> Truth:
    return write_video(path, codec="mpeg2video", options={"bf": "2"}, container="dvd")


@kind("mpeg2.ts")
def transport_stream_mpeg2(path: Path) -> Truth:
    return write_video(path, codec="mpeg2video", options={"bf": "2"})


@kind("wmv2.wmv")
def windows_media(path: Path) -> Truth:
    return write_video(path, codec="wmv2")


@kind("mjpeg.avi")
def motion_jpeg(path: Path) -> Truth:
    return write_video(path, codec="mjpeg", pix_fmt="yuvj420p", count=40)


@kind("moving.gif")
def animated_gif(path: Path) -> Truth:
    return write_video(path, codec="gif", pix_fmt="rgb8", fps=10, count=30)


@kind("raw.h264")
def raw_stream(path: Path) -> Truth:
    write_video(path, container="h264")
    return Truth(errors=(UnsupportedVideoError,))


# Size, colour, orientation, streams.


@kind("rot90.mp4")
def rotated_90(path: Path) -> Truth:
    return write_video(path, rotation=90, turns=-1)


@kind("rot180.mp4")
def rotated_180(path: Path) -> Truth:
    return write_video(path, rotation=180, turns=2)


@kind("rot270.mp4")
def rotated_270(path: Path) -> Truth:
    return write_video(path, rotation=270, turns=1)


@kind("rot30.mp4")
def rotated_askew(path: Path) -> Truth:
    write_video(path, rotation=30)
    return Truth(errors=(UnsupportedVideoError,))


@kind("anamorphic.mp4")
def wide_pixels(path: Path) -> Truth:
    truth = write_video(path, sample_aspect=Fraction(64, 45))
    truth.upright_size = (192, round(256 * 64 / 45))
    return truth


@kind("tenbit.mp4")
def ten_bit(path: Path) -> Truth:
    return write_video(path, pix_fmt="yuv420p10le")


@kind("tenbit_hevc.mp4")
def ten_bit_hevc(path: Path) -> Truth:
    return write_video(path, codec="libx265", pix_fmt="yuv420p10le")


@kind("full444.mp4")
def full_chroma(path: Path) -> Truth:
    return write_video(path, pix_fmt="yuv444p")


@kind("gray.mp4")
def gray(path: Path) -> Truth:
    return write_video(path, pix_fmt="gray")


@kind("odd.mp4")
def odd_sides(path: Path) -> Truth:
    return write_video(path, size=(191, 253), pix_fmt="yuv444p")


@kind("tiny.mp4")
def tiny(path: Path) -> Truth:
    return write_video(path, size=(64, 96))


@kind("large.mp4")
def large(path: Path) -> Truth:
    return write_video(path, size=(1080, 1920), count=30)


@kind("strip.mp4")
def narrow_strip(path: Path) -> Truth:
    write_video(path, size=(16, 4096), count=10)
    return Truth(errors=(UnsupportedVideoError,))


@kind("interlaced.mp4")
def interlaced(path: Path) -> Truth:
    return write_video(path, options={"flags": "+ildct+ilme", "x264-params": "interlaced=1"})


@kind("twosizes.ts")
def size_changing_midway(path: Path) -> Truth:
    first, second = path.with_name("s1.ts"), path.with_name("s2.ts")
    write_video(first, count=60, start=TICKS)
    write_video(second, count=60, size=(96, 128), start=3 * TICKS)
    path.write_bytes(first.read_bytes() + second.read_bytes())
    numbers = [*range(60), *range(60)]
    truth = Truth(numbers, [i / 30 for i in range(120)], upright_size=(192, 256))
    truth.errors = (VideoTimestampError, DamagedVideoError)
    return truth


@kind("sound.mp4")
def sound_outlasting_the_pictures(path: Path) -> Truth:
    return write_video(path, audio_seconds=9.0)


@kind("two.mkv")
def two_video_streams(path: Path) -> Truth:
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("libx264", rate=30) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width, stream.height = 256, 192
            stream.options = _fast("libx264")
            stream.codec_context.gop_size = 24
            stream.disposition = 0 if number else 1
        for stream, offset in zip(streams, (0, 1000), strict=True):
            for number in range(60):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(draw(number + offset), "rgb24")))
            output.mux(stream.encode(None))
    return Truth(range(60), [i / 30 for i in range(60)], upright_size=(192, 256))


@kind("sound.m4a")
def sound_only(path: Path) -> Truth:
    with av.open(str(path), "w", format="mp4") as output:
        for packet in _add_sound(output, 3.0):
            output.mux(packet)
    return Truth(errors=(NoVideoStreamError,))


@kind("cover.mp4")
def sound_with_a_cover_picture(path: Path) -> Truth:
    with av.open(str(path), "w") as output:
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 256, 192, "yuvj420p"
        cover.disposition = 0x400
        sound = _add_sound(output, 3.0)
        output.mux(cover.encode(av.VideoFrame.from_ndarray(draw(1), "rgb24").reformat(format="yuvj420p")))
        output.mux(cover.encode(None))
        for packet in sound:
            output.mux(packet)
    return Truth(errors=(NoVideoStreamError,))


# Damage.


@kind("nomoov.mp4")
def index_missing(path: Path) -> Truth:
    write_video(path)
    _cut(path, 0.7)
    return Truth(errors=(DamagedVideoError,))


@kind("cut_faststart.mp4")
def cut_short_mp4(path: Path) -> Truth:
    index_first(path)
    _cut(path, 0.5)
    return Truth(errors=(DamagedVideoError,))


@kind("cut.mkv")
def cut_short_matroska(path: Path) -> Truth:
    write_video(path)
    _cut(path, 0.5)
    return Truth(errors=(DamagedVideoError,))


@kind("cut_fragmented.mp4")
def cut_short_fragmented(path: Path) -> Truth:
    write_video(path, container_options={"movflags": "frag_keyframe+empty_moov"})
    _cut(path, 0.55)
    return Truth(errors=(DamagedVideoError,))


@kind("live.mkv")
def live_recording_matroska(path: Path) -> Truth:
    return write_video(path, container_options={"live": "1"})


@kind("trailing.mp4")
def bytes_after_the_end(path: Path) -> Truth:
    truth = write_video(path)
    path.write_bytes(path.read_bytes() + bytes(range(256)) * 40)
    return truth


@kind("cut.avi")
def cut_short_avi(path: Path) -> Truth:
    write_video(path, codec="mpeg4")
    _cut(path, 0.5)
    return Truth(errors=(DamagedVideoError,))


@kind("cut.ts")
def cut_short_transport_stream(path: Path) -> Truth:
    truth = write_video(path)
    _cut(path, 0.5)
    truth.errors = (DamagedVideoError, VideoTimestampError)
    truth.note = "prefix"
    return truth


@kind("flipped.mp4")
def bytes_flipped(path: Path) -> Truth:
    truth = write_video(path)
    _flip(path, 30, seed=1)
    truth.errors = (DamagedVideoError, VideoTimestampError, UnsupportedVideoError)
    return truth


@kind("zeroed.mp4")
def middle_zeroed(path: Path) -> Truth:
    truth = write_video(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    truth.errors = (DamagedVideoError, VideoTimestampError)
    return truth


@kind("holes.ts")
def transport_packets_lost(path: Path) -> Truth:
    truth = write_video(path)
    data, noise = path.read_bytes(), random.Random(5)
    cells = [data[i : i + 188] for i in range(0, len(data), 188)]
    path.write_bytes(b"".join(cell for i, cell in enumerate(cells) if i < 20 or noise.random() > 0.03))
    truth.errors = (DamagedVideoError, VideoTimestampError)
    return truth


@kind("empty.mp4")
def empty(path: Path) -> Truth:
    path.write_bytes(b"")
    return Truth(errors=(DamagedVideoError,))


@kind("page.mp4")
def web_page(path: Path) -> Truth:
    path.write_text("<!doctype html><html><title>404</title><body>Video unavailable</body></html>\n" * 20)
    return Truth(errors=(DamagedVideoError, UnsupportedVideoError))


@kind("noise.mp4")
def random_bytes(path: Path) -> Truth:
    path.write_bytes(random.Random(9).randbytes(200_000))
    return Truth(errors=(DamagedVideoError, UnsupportedVideoError))


@kind("zeros.mp4")
def zero_bytes(path: Path) -> Truth:
    path.write_bytes(bytes(200_000))
    return Truth(errors=(DamagedVideoError, UnsupportedVideoError))


# Not what the name says.


@kind("playlist.mp4")
def playlist_in_disguise(path: Path) -> Truth:
    write_video(path.with_name("segment.ts"))
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4.0,\nsegment.ts\n#EXT-X-ENDLIST\n")
    return Truth(errors=(UnsupportedVideoError, DamagedVideoError))


@kind("list.mp4")
def concat_list_in_disguise(path: Path) -> Truth:
    write_video(path.with_name("part.mp4"))
    path.write_text("ffconcat version 1.0\nfile part.mp4\n")
    return Truth(errors=(UnsupportedVideoError, DamagedVideoError))


@kind("picture.mp4")
def picture_in_disguise(path: Path) -> Truth:
    from PIL import Image

    Image.fromarray(draw(1)).save(path, format="PNG")
    return Truth(errors=(UnsupportedVideoError, DamagedVideoError))


@kind("pipe.mp4")
def named_pipe(path: Path) -> Truth:
    os.mkfifo(path)
    return Truth(errors=(VideoNotFoundError,))


@kind("folder.mp4")
def directory(path: Path) -> Truth:
    path.mkdir()
    return Truth(errors=(VideoNotFoundError,))


@kind("gone.mp4")
def missing(path: Path) -> Truth:
    return Truth(errors=(VideoNotFoundError,))


@kind("loop.mp4")
def link_to_itself(path: Path) -> Truth:
    path.symlink_to(path)
    return Truth(errors=(VideoNotFoundError,))


@kind("a %03d 影片 'q' #1?.mp4")
def strange_name(path: Path) -> Truth:
    return write_video(path)


@kind("concat:x|http:y.mp4")
def name_like_a_protocol(path: Path) -> Truth:
    return write_video(path)


def _cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def _flip(path: Path, count: int, *, seed: int) -> None:
    data, noise = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(count):
        data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)
    path.write_bytes(data)


def verdict(path: Path, truth: Truth, *, decoder: str = "auto", num_frames: int = 16) -> str:
    """Read the pool of `path` and say what came of it: `right frames`, an error's name, or `WRONG` and why."""
    from verl_videomtr.video.pool import PoolConfig, open_pool

    try:
        pool = open_pool(path, PoolConfig(num_frames=num_frames, decoder=decoder))
        frames = pool.read(range(pool.num_frames))
    except VideoError as error:
        honest = isinstance(error, truth.errors) or (decoder != "auto" and truth.numbers)
        return type(error).__name__ if honest else f"WRONG error {error!r}"
    if not truth.numbers:
        return "WRONG frames came out"
    numbers = [read_number(frame) for frame in frames]
    times, shown = np.asarray(truth.times), list(truth.numbers)
    for number, seconds in zip(numbers, pool.times_seconds, strict=True):
        right = [shown[i] for i in np.flatnonzero(np.abs(times - seconds) <= truth.time_tolerance)]
        if number not in right:
            return f"WRONG frame at {seconds:.3f} s: {number}, not one of {right}"
    if truth.note != "prefix" and (problem := _wrong_choice(pool, times, num_frames, truth.time_tolerance)):
        return problem
    if truth.upright_size is not None:
        height, width = truth.upright_size
        if not 0.8 < (pool.height_px / pool.width_px) / (height / width) < 1.25:
            return f"WRONG shape {pool.height_px}x{pool.width_px} for {height}x{width}"
    return "right frames"


def _wrong_choice(pool, times: np.ndarray, num_frames: int, tolerance: float) -> str | None:
    """Say where the pool holds other frames than those nearest to the middles of equal parts."""
    if len(times) <= num_frames:
        return None if pool.num_frames == len(times) else f"WRONG count {pool.num_frames}, not {len(times)}"
    if not times[-1] < pool.duration_seconds < times[-1] + max(0.5, 2 * np.diff(times).max()):
        return f"WRONG duration {pool.duration_seconds:.3f}"
    centres = (np.arange(num_frames) + 0.5) * pool.duration_seconds / num_frames
    best = np.abs(times[None] - centres[:, None]).min(axis=1)
    got = np.abs(pool.times_seconds[None] - centres[:, None]).min(axis=1)
    return None if np.all(got <= best + 2 * tolerance) else f"WRONG choice, {(got - best).max():.3f} s off"
