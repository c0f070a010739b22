# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own videos: one minute is encoded, longer ones repeat it by stream copy; every frame is numbered.

The pictures are drifting textures in shots of 2 to 8 seconds with faint noise, at 1280x720 and 30 frames a second, and
the number of the frame within its minute is burnt in twice, so that a wrong frame is seen. H.264 has always two
B-frames between P-frames, as film mostly gets: left to choose, x264 uses hardly any on such pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from awkward_videos import draw, read_number

__all__ = ["FPS", "HEIGHT", "WIDTH", "make_video", "wrong_frames"]

HEIGHT, WIDTH, FPS, SECONDS = 720, 1280, 30, 60
_FRAMES = FPS * SECONDS
_OPTIONS = {
    "h264": ("libx264", {"preset": "fast", "bf": "2", "x264-params": "b-adapt=0"}),
    "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=error:bframes=3:bitrate=800"}),
    "av1": ("libsvtav1", {"preset": "8", "crf": "32", "svtav1-params": "lp=1"}),
}


def make_video(directory: Path, *, codec: str = "h264", gop: int = 48, minutes: int = 1) -> Path:
    """Return the video of that kind in `directory`, making it where it is not there."""
    path = directory / f"{codec}_gop{gop}_{minutes}min.mp4"
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part.mp4")
    if minutes == 1:
        _encode(beside, codec, gop)
    else:
        _repeat(make_video(directory, codec=codec, gop=gop), beside, minutes)
    beside.rename(path)
    return path


def wrong_frames(frames: np.ndarray, times_seconds: np.ndarray) -> int:
    """How many frames show another number than their time says."""
    expected = np.rint(times_seconds * FPS).astype(int) % _FRAMES
    return sum(read_number(frame) != int(number) for frame, number in zip(frames, expected, strict=True))


def _encode(path: Path, codec: str, gop: int) -> None:
    name, options = _OPTIONS[codec]
    with av.open(str(path), "w") as output:
        stream = output.add_stream(name, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.options = options
        if codec == "h264":
            stream.codec_context.bit_rate = 1_000_000
        for picture in _pictures():
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)


def _pictures() -> Iterator[np.ndarray]:
    noise = np.random.default_rng(7)
    number, middle = 0, slice(HEIGHT // 4, HEIGHT - HEIGHT // 4)
    while number < _FRAMES:
        coarse = noise.integers(40, 215, (HEIGHT // 40 + 8, WIDTH // 40 + 8, 3), dtype=np.uint8)
        texture = coarse.repeat(40, axis=0).repeat(40, axis=1)
        grain = noise.integers(0, 6, texture.shape, dtype=np.uint8)
        step = noise.integers(0, 4, 2)
        for frame in range(int(noise.integers(2 * FPS, 8 * FPS))):
            if number >= _FRAMES:
                return
            down, right = (frame * step) % (7 * 40)
            picture = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
            picture[:] = draw(number, 4, WIDTH)[0]  # The first row of a drawing is its barcode alone.
            shown = slice(down + middle.start, down + middle.stop), slice(right, right + WIDTH)
            picture[middle] = texture[shown] + np.roll(grain[middle], number, axis=1)[:, :WIDTH]
            yield picture
            number += 1


def _repeat(minute: Path, path: Path, times: int) -> None:
    with av.open(str(path), "w") as output:
        target = None
        for round_idx in range(times):
            with av.open(str(minute)) as reader:
                stream = reader.streams.video[0]
                # Opaque: for AV1 the decoder that PyAV picks has no encoder of its name.
                target = target or output.add_stream_from_template(stream, opaque=True)
                shift = round(round_idx * Fraction(_FRAMES, FPS) / stream.time_base)
                for packet in reader.demux(stream):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = target
                        output.mux(packet)
