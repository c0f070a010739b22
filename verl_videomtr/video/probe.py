# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Probe: everything about a video but its pixels, in one pass over its packets and one decoded frame.

The packets carry the presentation time of every frame and say where the key frames are, which is what an exact and
sparse read needs. Nothing is taken from headers that the packets can contradict (frame counts, rates, durations).
"""

from __future__ import annotations

import os
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.codec.context import CodecContext
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from verl_videomtr.video.container import (
    INDEXED_CONTAINERS,
    container_name,
    made_visible,
    movie_streams,
    open_video,
    starts_clean,
    stored_pts,
    video_packets,
)
from verl_videomtr.video.edit_list import edits_of, is_followed
from verl_videomtr.video.errors import (
    DamagedVideoError,
    NoVideoStreamError,
    VideoTimestampError,
)
from verl_videomtr.video.orientation import Orientation, display_matrix, orientation_of
from verl_videomtr.video.packet_headers import packet_reader
from verl_videomtr.video.promised_size import promised_bytes

TRUNCATED_SHARE = 0.98
"""A file holding less than this share of the bytes or frames that it declares is cut short, and refused."""

MAX_TICKS = 2**53
"""Times further apart than this are damage: 104 days in nanoseconds, and the most that a float counts exactly."""

NO_PTS = int(np.iinfo(np.int64).min)


@dataclass(frozen=True, kw_only=True)
class VideoProbe:
    """What one file holds. Times in `frame_pts`, `key_pts` and `key_dts` are in units of `time_base`."""

    path: str
    container: str
    codec: str
    stream_index: int
    """Of the video stream among all streams of the file."""
    has_other_streams: bool
    """Whether the file holds further video streams, of which a decoder might choose another."""
    width_px: int
    """Stored width, before rotation."""
    height_px: int
    """Stored height, before rotation."""
    sample_aspect: float
    """Width of a stored pixel over its height; 1 for square pixels."""
    orientation: Orientation
    """How the stored picture is turned to be shown upright."""
    is_turned_by_stream: bool
    """Whether the video stream says so itself (an SEI message), which not every decoder heeds."""
    time_base: Fraction
    """Seconds of one tick."""
    frame_pts: np.ndarray
    """(N,) int64, strictly rising: the presentation time of every frame that is shown."""
    frame_whole: np.ndarray
    """(N,) bool: False where data are lost that the frame may depend on."""
    key_pts: np.ndarray
    """(K,) int64, rising: the presentation times of the frames at which decoding can start."""
    key_dts: np.ndarray
    """(K,) int64: their decoding times, by which a seek finds them; the presentation times where unknown."""
    key_frames_crc: int
    """CRC-32 of the positions of all key frames among the frames shown, as int64."""
    last_duration: int
    """Ticks for which the last frame is shown."""
    has_pts: bool
    """False where packets lack presentation times: `frame_pts` then holds decoding times, and order names frames."""
    has_hidden_frames: bool
    """Whether packets exist that are decoded and not shown, as before the start of an edit list."""
    has_odd_marks: bool
    """Whether the container marks H.264 frames that need a memory (open groups, intra refresh), or not the first."""

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.frame_pts)

    @property
    def times_seconds(self) -> np.ndarray:
        """(N,) float64: when each frame is shown, in seconds after the first frame."""
        times: np.ndarray = (self.frame_pts - self.frame_pts[0]) * float(self.time_base)
        return times

    @property
    def duration_seconds(self) -> float:
        """From the first frame's appearance to the last one's end."""
        return float((self.frame_pts[-1] - self.frame_pts[0] + self.last_duration) * self.time_base)

    @property
    def average_fps(self) -> float:
        """Frames over duration."""
        return self.num_frames / self.duration_seconds

    @property
    def seeks(self) -> bool:
        """Whether a seek to a key frame can be trusted in this container."""
        return self.has_pts and self.container in INDEXED_CONTAINERS

    @property
    def display_size(self) -> tuple[float, float]:
        """(height, width) as shown: square pixels, upright."""
        height, width = float(self.height_px), self.width_px * self.sample_aspect
        return (width, height) if self.orientation.quarter_turns % 2 else (height, width)


def probe(path: str | Path, *, tick: Callable[[], None] = lambda: None) -> VideoProbe:
    """Read the packets of `path` and its first key frame.

    Args:
        tick: called now and then, to show that the pass is moving.
    Raises:
        VideoError: the file is missing, not allowed, damaged, has no video, or times that cannot be put in order.
    """
    with open_video(path) as (container, stream):
        _require_every_byte(path)
        _require_plain_edits(container, stream, path)
        first = _FirstFrame(stream)
        table = _packet_table(container, stream, first, tick)
        _require_clock(table, path)
        _require_whole(stream, table, container_name(container), path)
        # AVI stores no presentation times; those made up for reordered frames are wrong.
        late = table["pts"] - table["dts"]
        made_up = container_name(container) == "avi" and (stream.codec_context.has_b_frames or np.ptp(late) > 0)
        has_pts = not made_up and not np.any(table["pts"] == NO_PTS)
        if not has_pts:
            table["pts"] = table["dts"]
        first.feed(None)
        if (frame := first.frame) is None:
            raise DamagedVideoError("gives no frame that decodes by itself", path=path, remedy="fetch it again")
        if has_pts and frame.pts != table["pts"][0]:
            _require_whole_start(container, stream, path)
        has_odd_marks = _correct_key_frames(table, frame.pts if has_pts else None, path)
        _mark_losses(table)
        shown, keys, last_duration = _order(table, stream, path)
        sample_aspect = stream.sample_aspect_ratio
        key_pts, key_dts = table["pts"][keys], table["dts"][keys]
        return VideoProbe(
            path=str(path),
            container=container_name(container),
            codec=stream.codec_context.codec.canonical_name,
            stream_index=stream.index,
            has_other_streams=len(movie_streams(container)) > 1,
            width_px=frame.width,
            height_px=frame.height,
            sample_aspect=float(sample_aspect) if sample_aspect else 1.0,
            orientation=orientation_of(frame, path),
            is_turned_by_stream=display_matrix(frame) is not None and first.is_turned_by_stream(),
            time_base=Fraction(stream.time_base or 0),
            frame_pts=shown["pts"],
            frame_whole=shown["whole"],
            key_pts=key_pts,
            key_dts=np.where(key_dts == NO_PTS, key_pts, key_dts),
            key_frames_crc=zlib.crc32(np.searchsorted(shown["pts"], key_pts).astype(np.int64).data),
            last_duration=last_duration,
            has_pts=has_pts,
            has_hidden_frames=len(shown) != len(table),
            has_odd_marks=has_odd_marks,
        )


_PACKET = np.dtype(
    [("pts", "i8"), ("dts", "i8"), ("duration", "i8"), ("key", "?"), ("clean", "?"), ("shown", "?"), ("whole", "?")]
)


def _packet_table(
    container: InputContainer, stream: VideoStream, first: _FirstFrame, tick: Callable[[], None]
) -> np.ndarray:
    """Read every packet, in decoding order; `whole` is False where data are first missed, and not yet behind it."""
    pts, dts, durations, flags = array("q"), array("q"), array("q"), bytearray()
    read, gaps = packet_reader(stream), []
    for packet in video_packets(container, stream):
        first.feed(packet)
        facts = read(packet)
        key = packet.is_keyframe
        pts.append(NO_PTS if packet.pts is None else packet.pts)
        dts.append(NO_PTS if packet.dts is None else packet.dts)
        durations.append(packet.duration or 0)
        if facts.gap is not None:
            gaps.append(len(flags) - facts.gap)
        flags.append(key | (key and facts.clean) << 1 | (not packet.is_discard) << 2 | (not packet.is_corrupt) << 3)
        tick()
    table = np.empty(len(flags), dtype=_PACKET)
    table["pts"], table["dts"], table["duration"] = pts, dts, durations
    bits = np.frombuffer(flags, dtype=np.uint8)
    for bit, name in enumerate(("key", "clean", "shown", "whole")):
        table[name] = bits >> bit & 1
    table["whole"][gaps] = False
    return table


def _correct_key_frames(table: np.ndarray, first_pts: int | None, path: str | Path) -> bool:
    """Mark as key frames those at which decoding can start clean, the first of them the first that was decoded.

    Returns:
        Whether key frames were marked that need a memory of earlier frames, or the first was not marked.
    """
    is_first_unmarked = False
    if first_pts is not None:
        rows = np.flatnonzero(table["pts"] == first_pts)
        if not len(rows):
            raise VideoTimestampError(
                f"has a first frame at pts {first_pts}, a time that no packet has", path=path, remedy="re-encode it"
            )
        is_first_unmarked = not table["key"][rows[0]]
        table["key"][: rows[0]] = False
        table["key"][rows[0]] = table["clean"][rows[0]] = True
    keys = np.flatnonzero(table["key"])
    unclean = bool(len(keys)) and not table["clean"][keys].all()
    if unclean and table["clean"][keys[0]]:
        table["key"] &= table["clean"]
    return unclean or is_first_unmarked


def _mark_losses(table: np.ndarray) -> None:
    """Unmark as whole the frames behind lost data, up to the next key frame and the frames shown before that."""
    end = 0
    for row in np.flatnonzero(~table["whole"]):
        if row < end:
            continue
        later_keys = np.flatnonzero(table["key"][row + 1 :] & table["whole"][row + 1 :])
        end = row + 1 + later_keys[0] if len(later_keys) else len(table)
        table["whole"][row:end] = False
        if end < len(table):
            behind = table[end:]
            next_key = np.flatnonzero(behind["key"][1:])
            group = behind[: next_key[0] + 1] if len(next_key) else behind
            group["whole"] &= group["pts"] >= group["pts"][0]


def _require_every_byte(path: str | Path) -> None:
    there, promised = os.path.getsize(path), promised_bytes(path)
    if promised is not None and there < TRUNCATED_SHARE * promised:
        raise DamagedVideoError(
            f"is cut short: {there:,} of the {promised:,} bytes that it declares are there",
            path=path,
            remedy="fetch it again",
        )


def _require_plain_edits(container: InputContainer, stream: VideoStream, path: str | Path) -> None:
    if container_name(container) == "mov" and not is_followed(edits := edits_of(path, stream.id)):
        raise VideoTimestampError(
            f"has an edit list of {len(edits)} parts or of another speed; expected at most a pause and one plain part",
            path=path,
            remedy="re-encode it with the program that edited it",
        )


def _require_whole_start(container: InputContainer, stream: VideoStream, path: str | Path) -> None:
    """Refuse a file whose first packets do not decode if its edit list cuts off what they need."""
    if container_name(container) != "mov" or not (edits := edits_of(path, stream.id)):
        return
    stored = [pts for pts in stored_pts(path, stream.index) if pts is not None]
    if edits[-1].start > min(stored, default=0):
        raise DamagedVideoError(
            "has an edit list that begins with frames which do not decode; expected their key frame to be marked",
            path=path,
            remedy="re-encode it",
        )


def _require_clock(table: np.ndarray, path: str | Path) -> None:
    for name in ("pts", "dts"):
        known = table[name][table[name] != NO_PTS]
        if len(known) and int(known.max()) - int(known.min()) > MAX_TICKS:
            raise VideoTimestampError(
                "has times further apart than any clock counts", path=path, remedy="fetch it again"
            )


def _require_whole(stream: VideoStream, table: np.ndarray, container: str, path: str | Path) -> None:
    if not len(table):
        raise NoVideoStreamError("has a video stream without a single frame", path=path)
    # AVI counts the empty slots that mark repeated frames; its packets' times are their slots.
    held = len(table)
    if container == "avi":
        steps = np.diff(table["dts"])
        held = int(table["dts"].max() + np.median(steps)) if len(steps) else stream.frames
    if held < TRUNCATED_SHARE * stream.frames and container == "mov":
        held = len(stored_pts(path, stream.index))
    if held < TRUNCATED_SHARE * stream.frames:
        raise DamagedVideoError(
            f"is cut short: {held} of the {stream.frames} frames in its index can be read",
            path=path,
            remedy="fetch it again",
        )
    if _falls_back(table, container):
        raise VideoTimestampError("has times that start again midway", path=path, remedy="re-encode it to MP4")


def _falls_back(table: np.ndarray, container: str) -> bool:
    """Whether the clock starts again: two recordings in one file, which players show in the order of storage."""
    if container != "mpeg":
        known = table["dts"][table["dts"] != NO_PTS]
        return bool(np.diff(known).min(initial=0) < 0)
    # A program stream keeps few decoding times; but nothing stored before a key frame is shown after it.
    keys = np.flatnonzero(table["key"])[1:]
    latest = np.maximum.accumulate(table["pts"])
    return bool(np.any((latest[keys - 1] >= table["pts"][keys]) & (table["pts"][keys] != NO_PTS)))


def _order(table: np.ndarray, stream: VideoStream, path: str | Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the shown frames in presentation order, the rows of key frames by time, and the last duration."""
    keys = np.flatnonzero(table["key"] & (table["pts"] != NO_PTS))
    if not len(keys):
        raise DamagedVideoError("has no key frame, so that nothing can be decoded", path=path)
    decodable = table[keys[0] :]
    shown = decodable[decodable["shown"] & (decodable["pts"] >= table["pts"][keys[0]])]
    if np.any(shown["pts"] == NO_PTS) or not stream.time_base:
        raise VideoTimestampError(
            "has frames without a presentation time", path=path, remedy="remux or re-encode it to MP4"
        )
    if not len(shown):
        raise NoVideoStreamError("has no frame that is shown", path=path)
    shown = shown[np.argsort(shown["pts"], kind="stable")]
    times = np.count_nonzero(np.diff(shown["pts"])) + 1
    if times < len(shown):
        raise VideoTimestampError(
            f"shows {len(shown)} frames at {times} different times", path=path, remedy="re-encode it to MP4"
        )
    last_duration = int(shown["duration"][-1])
    if not 0 < last_duration < MAX_TICKS:
        typical = np.median(np.diff(shown["pts"])) if times > 1 else 1 / (stream.average_rate or 25) / stream.time_base
        last_duration = max(1, round(float(typical)))
    return shown, keys[np.argsort(table["pts"][keys], kind="stable")], last_duration


class _FirstFrame:
    """Decodes packets, from the first on, until a frame comes out that needs no other, whatever the container marks.

    Before the first packet that is marked as a key frame, what does not decode is passed over.
    """

    def __init__(self, stream: VideoStream) -> None:
        self.frame: VideoFrame | None = None
        self._stream = stream
        self._was_marked = False
        self._packets: list[Packet[VideoStream]] = []

    def feed(self, packet: Packet[VideoStream] | None) -> None:
        """Decode a packet, or with None what the decoder still holds, unless the frame is there."""
        if self.frame is not None:
            return
        context = self._stream.codec_context
        if packet is not None:
            packet = made_visible(packet)
            self._was_marked |= packet.is_keyframe
            self._packets.append(packet)
        try:
            frames = context.decode(packet)
        except FFmpegError:
            if self._was_marked:
                raise
            context.flush_buffers()
            self._packets.clear()
            return
        self.frame = next((frame for frame in frames if starts_clean(frame, self._stream)), None)

    def is_turned_by_stream(self) -> bool:
        """Whether the frame has a display matrix where only the stream can give one, and not the container."""
        context = self._stream.codec_context
        alone = CodecContext.create(context.codec.name, "r")
        assert isinstance(alone, VideoCodecContext)
        alone.extradata = context.extradata
        frames = [frame for packet in (*self._packets, None) for frame in alone.decode(packet)]
        return any(display_matrix(frame) is not None for frame in frames)
