"""Exact frames with PyAV, which carries its own FFmpeg.

`decode_sparse` seeks to the key frame before each wanted frame and, on the way to it, lets the decoder drop frames
that no other frame refers to. `decode_all` reads from the start and drops nothing: slow, and the reference for the
former. Both keep a frame only if the time that it came out with is one that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from verl_videomtr.video.container import open_video
from verl_videomtr.video.errors import DamagedVideoError, VideoTimestampError
from verl_videomtr.video.probe import VideoProbe

RESAMPLER = "swscale-bicubic"


def decode_sparse(
    probe: VideoProbe, wanted_pts: np.ndarray, size: tuple[int, int], *, tick: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Decode the frames shown at `wanted_pts`, touching only what they depend on.

    Args:
        wanted_pts: (n,) int64, strictly rising, out of `probe.frame_pts`.
        size: (height, width) of the frames returned, upright.
        tick: called for every packet, to show that decoding is moving.
    Returns:
        (n, height, width, 3) uint8 RGB.
    Raises:
        VideoTimestampError: a wanted frame did not come out.
        DamagedVideoError: decoding failed, or a wanted frame is marked corrupt.
    """
    with open_video(probe.path) as (container, stream):
        frames = _sparse_frames(container, stream, probe, wanted_pts, tick)
        return _collect(frames, probe, wanted_pts, size)


def decode_all(
    probe: VideoProbe, wanted_pts: np.ndarray, size: tuple[int, int], *, tick: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Decode from the first packet on, in full, and keep the frames shown at `wanted_pts`; as `decode_sparse`."""
    with open_video(probe.path) as (container, stream):
        return _collect(_all_frames(container, stream, wanted_pts, tick), probe, wanted_pts, size)


def _collect(
    frames: Iterable[VideoFrame], probe: VideoProbe, wanted_pts: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    height, width = size
    turns = probe.rotation_degrees // 90
    stored = (width, height) if turns % 2 else (height, width)
    reformatter = VideoReformatter()
    out = np.empty((len(wanted_pts), height, width, 3), dtype=np.uint8)
    missing = {int(pts): row for row, pts in enumerate(wanted_pts)}
    for frame in frames:
        row = None if frame.pts is None else missing.pop(frame.pts, None)
        if row is None:
            continue
        if frame.is_corrupt:
            raise DamagedVideoError(f"has a corrupt frame at pts {frame.pts}", path=probe.path)
        small = reformatter.reformat(frame, stored[1], stored[0], "rgb24", interpolation=Interpolation.BICUBIC)
        out[row] = np.rot90(small.to_ndarray(), turns)
        if not missing:
            return out
    raise VideoTimestampError(
        f"did not give {len(missing)} of the {len(wanted_pts)} frames asked for (first: pts {min(missing)})",
        path=probe.path,
    )


def _all_frames(
    container: InputContainer, stream: VideoStream, wanted_pts: np.ndarray, tick: Callable[[], None]
) -> Iterator[VideoFrame]:
    for packet in container.demux(stream):
        tick()
        yield from packet.decode()


def _sparse_frames(
    container: InputContainer,
    stream: VideoStream,
    probe: VideoProbe,
    wanted_pts: np.ndarray,
    tick: Callable[[], None],
) -> Iterator[VideoFrame]:
    context = stream.codec_context
    wanted = {int(pts) for pts in wanted_pts}
    key_of = np.searchsorted(probe.key_pts, wanted_pts, side="right") - 1
    groups = {int(k): {int(pts) for pts in wanted_pts[key_of == k]} for k in np.unique(key_of)}
    packets = _packets(container, stream, tick)
    while groups:
        key = min(groups)
        key_pts = int(probe.key_pts[key])
        if probe.seeks:
            container.seek(int(probe.key_dts[key]), stream=stream, backward=True)
            packets = _packets(container, stream, tick)
        pending = groups.pop(key)
        started = False
        for packet in packets:
            if not started:
                started = packet.is_keyframe and packet.pts == key_pts
                if not started:
                    continue
            pending |= _reached_group(groups, probe, packet)
            yield from _decode(context, packet, full=packet.pts in wanted)
            pending.discard(packet.pts)
            if not pending:
                break
        yield from context.decode(None)
        context.flush_buffers()
        if pending:
            raise VideoTimestampError(f"has no packet for pts {min(pending)} after a seek", path=probe.path)


def _packets(container: InputContainer, stream: VideoStream, tick: Callable[[], None]) -> Iterator[Packet]:
    for packet in container.demux(stream):
        tick()
        if packet.size:
            yield packet


def _reached_group(groups: dict[int, set[int]], probe: VideoProbe, packet: Packet) -> set[int]:
    """Take over the group whose key frame is passed while an earlier group waits for frames stored behind it."""
    if not packet.is_keyframe or not groups:
        return set()
    key = min(groups)
    return groups.pop(key) if packet.pts == int(probe.key_pts[key]) else set()


def _decode(context: VideoCodecContext, packet: Packet, *, full: bool) -> list[VideoFrame]:
    skip = "DEFAULT" if full else "NONREF"
    if context.skip_frame != skip:
        context.skip_frame = skip  # type: ignore[assignment]
    return context.decode(packet)
