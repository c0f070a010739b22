# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Exact frames with PyAV, which carries its own FFmpeg.

`decode_sparse` seeks to the key frame before each wanted frame and, on the way to it, lets the decoder drop frames
that no other frame refers to. `decode_all` reads from the start and drops nothing: slow, and the reference for the
former. Both keep a frame only if the time that it came out with is one that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from verl_videomtr.video.container import made_visible, open_video, starts_clean, video_packets
from verl_videomtr.video.errors import DamagedVideoError, UnsupportedVideoError, VideoTimestampError
from verl_videomtr.video.orientation import display_matrix, orientation_of
from verl_videomtr.video.plan import PoolPlan

RESAMPLER = "swscale-bicubic"

_SKIPPING_CODECS = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})
"""Codecs whose FFmpeg decoder heeds `skip_frame` packet by packet and whose streams have frames without dependants."""


def decode_sparse(plan: PoolPlan, rows: np.ndarray, *, tick: Callable[[], None]) -> np.ndarray:
    """Decode the pool frames `rows`, touching only what they depend on.

    Args:
        rows: (n,) int64, strictly rising pool indices.
        tick: called for every packet, to show that decoding is moving.
    Returns:
        (n, height, width, 3) uint8 RGB.
    Raises:
        VideoTimestampError: a wanted frame did not come out.
        DamagedVideoError: decoding failed, or a wanted frame is marked corrupt.
    """
    with open_video(plan.path, stream_index=plan.source.stream_index) as (container, stream):
        frames = _sparse_frames(container, stream, plan, plan.source.frame_pts[rows], tick)
        return _collect(((frame.pts, frame) for frame in frames), plan, plan.source.frame_pts[rows])


def decode_all(plan: PoolPlan, rows: np.ndarray, *, tick: Callable[[], None]) -> np.ndarray:
    """Decode from the first packet on, in full, and keep the pool frames `rows`; as `decode_sparse`.

    A file whose frames carry no presentation time is read to its end: its frames are known by their order, which can
    be relied on only if as many came out as its packets promise.
    """
    with open_video(plan.path, stream_index=plan.source.stream_index) as (container, stream):
        frames = _all_frames(container, stream, tick)
        if plan.source.has_pts:
            return _collect(((frame.pts, frame) for frame in frames), plan, plan.source.frame_pts[rows])
        return _collect(_counted(frames, plan), plan, plan.frame_idx[rows])


def _counted(frames: Iterable[VideoFrame], plan: PoolPlan) -> Iterator[tuple[int, VideoFrame]]:
    count = 0
    for count, frame in enumerate(frames, start=1):
        yield count - 1, frame
    if count != plan.num_video_frames:
        raise VideoTimestampError(
            f"has frames without a presentation time, and {count} came out of {plan.num_video_frames} packets",
            path=plan.path,
            remedy="re-encode it to MP4",
        )


def _collect(frames: Iterable[tuple[int | None, VideoFrame]], plan: PoolPlan, wanted: np.ndarray) -> np.ndarray:
    height, width = plan.size
    orientation = plan.source.orientation
    stored = (width, height) if orientation.quarter_turns % 2 else (height, width)
    reformatter = VideoReformatter()
    out = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
    missing: dict[int | None, int] = {int(mark): row for row, mark in enumerate(wanted)}
    last = None
    for mark, frame in frames:
        if mark is not None and last is not None and mark < last:
            raise VideoTimestampError(
                f"has presentation times that contradict the order of its frames ({mark} after {last})", path=plan.path
            )
        last = mark if mark is not None else last
        row = missing.pop(mark, None)
        if row is None:
            continue
        if frame.is_corrupt:
            raise DamagedVideoError(f"has a corrupt frame at pts {mark}", path=plan.path)
        if display_matrix(frame) is not None and orientation_of(frame, plan.path) != orientation:
            raise UnsupportedVideoError(
                "is turned otherwise midway than at its start", path=plan.path, remedy="re-encode it upright"
            )
        small = reformatter.reformat(
            frame, stored[1], stored[0], "rgb24", interpolation=Interpolation.BICUBIC, threads=1
        )
        out[row] = orientation.upright(small.to_ndarray())
        if not missing and plan.source.has_pts:
            return out
    if missing:
        raise VideoTimestampError(
            f"did not give {len(missing)} of the {len(wanted)} frames asked for (first: {next(iter(missing))})",
            path=plan.path,
        )
    return out


def _all_frames(container: InputContainer, stream: VideoStream, tick: Callable[[], None]) -> Iterator[VideoFrame]:
    """Decode every packet. Frames before the first that needs no other may show anything, and are left out."""
    context, has_begun, hidden = stream.codec_context, False, set()
    for packet in chain(_packets(container, stream, tick), [None]):
        if packet is not None and packet.is_discard and not has_begun:
            hidden.add(packet.pts)
            packet = made_visible(packet)
        for frame in context.decode(packet):
            has_begun = has_begun or starts_clean(frame, stream)
            if has_begun and frame.pts not in hidden:
                yield frame


def _sparse_frames(
    container: InputContainer,
    stream: VideoStream,
    plan: PoolPlan,
    wanted_pts: np.ndarray,
    tick: Callable[[], None],
) -> Iterator[VideoFrame]:
    source = plan.source
    key_of = np.searchsorted(source.key_pts, wanted_pts, side="right") - 1
    groups = {int(source.key_pts[key]): {int(pts) for pts in wanted_pts[key_of == key]} for key in np.unique(key_of)}
    seek_dts = dict(zip(source.key_pts.tolist(), source.key_dts.tolist(), strict=True))
    packets = _packets(container, stream, tick)
    while groups:
        key_pts = min(groups)
        pending = groups.pop(key_pts)
        if source.seeks:
            container.seek(seek_dts[key_pts], stream=stream, backward=True)
            packets = _packets(container, stream, tick)
        needed = _needed_packets(_from(packets, key_pts), key_pts, pending, groups)
        yield from _decode_group(stream, needed, key_pts, frozenset(map(int, wanted_pts)), plan.path)
        if pending:
            raise VideoTimestampError(f"has no packet for pts {min(pending)} after a seek", path=plan.path)


def _needed_packets(
    packets: Iterator[Packet[VideoStream]], key_pts: int, pending: set[int], groups: dict[int, set[int]]
) -> Iterator[Packet[VideoStream]]:
    """Yield packets from the key frame on until none of `pending` is awaited; those of `groups` met on the way join."""
    for packet in packets:
        if packet.is_keyframe:
            # A frame stored behind the next key frame is still awaited: that key frame's own frames join it.
            pending |= groups.pop(packet.pts or 0, set())
        elif packet.pts is not None and packet.pts < key_pts:
            # Shown before its key frame: it needs the previous group, and belongs to a group of that one.
            continue
        yield packet
        pending.discard(packet.pts)
        if not pending:
            return


def _decode_group(
    stream: VideoStream, packets: Iterator[Packet[VideoStream]], key_pts: int, wanted: frozenset[int], path: str
) -> Iterator[VideoFrame]:
    """Decode one group, in which no frame may be believed unless its first is the key frame that it is said to be."""
    context, is_first, hides_key = stream.codec_context, True, False
    skips = context.codec.canonical_name in _SKIPPING_CODECS
    for packet in chain(packets, [None]):
        if skips and packet is not None:
            context.skip_frame = "DEFAULT" if packet.pts in wanted or packet.pts == key_pts else "NONREF"
        if packet is not None and packet.pts == key_pts and packet.is_discard:
            hides_key, packet = True, made_visible(packet)
        for frame in context.decode(packet):
            if is_first and not (frame.pts == key_pts and starts_clean(frame, stream)):
                raise VideoTimestampError(f"has no key frame at pts {key_pts}, where one is marked", path=path)
            if not (is_first and hides_key):
                yield frame
            is_first = False
    context.flush_buffers()


def _packets(container: InputContainer, stream: VideoStream, tick: Callable[[], None]) -> Iterator[Packet[VideoStream]]:
    for packet in video_packets(container, stream):
        tick()
        yield packet


def _from(packets: Iterator[Packet[VideoStream]], pts: int) -> Iterator[Packet[VideoStream]]:
    for packet in packets:
        if packet.pts == pts:
            yield packet
            break
    for packet in packets:  # Not `yield from`, which would close `packets` together with this generator.
        yield packet
