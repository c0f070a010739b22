"""Probe: everything about a video but its pixels, in one pass over its packets and one decoded frame.

The packets carry the presentation time of every frame and say where the key frames are, which is what an exact and
sparse read needs. Nothing is taken from headers that the packets can contradict (frame counts, rates, durations).
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from verl_videomtr.video.container import INDEXED_CONTAINERS, container_name, open_video
from verl_videomtr.video.errors import (
    DamagedVideoError,
    NoVideoStreamError,
    UnsupportedVideoError,
    VideoTimestampError,
)
from verl_videomtr.video.promised_size import promised_bytes

TRUNCATED_SHARE = 0.98
"""A file holding less than this share of the bytes or frames that it declares is cut short, and refused."""

MAX_BACK_SECONDS = 1.0
"""Decoding times that fall back by more than this are a second recording, not disorder."""

MAX_TICKS = 2**53
"""Times further apart than this are damage: 104 days in nanoseconds, and the most that a float counts exactly."""

NO_PTS = int(np.iinfo(np.int64).min)


@dataclass(frozen=True, kw_only=True)
class VideoProbe:
    """What one file holds. Times in `frame_pts`, `key_pts` and `key_dts` are in units of `time_base`."""

    path: str
    container: str
    codec: str
    width_px: int
    """Stored width, before rotation."""
    height_px: int
    """Stored height, before rotation."""
    sample_aspect: float
    """Width of a stored pixel over its height; 1 for square pixels."""
    rotation_degrees: int
    """Counter-clockwise turn that shows the picture upright: 0, 90, 180 or 270."""
    time_base: Fraction
    """Seconds of one tick."""
    frame_pts: np.ndarray
    """(N,) int64, strictly rising: the presentation time of every frame that is shown."""
    key_pts: np.ndarray
    """(K,) int64, rising: the presentation times of the frames at which decoding can start."""
    key_dts: np.ndarray
    """(K,) int64: their decoding times, by which a seek finds them; the presentation times where unknown."""
    last_duration: int
    """Ticks for which the last frame is shown."""
    has_pts: bool
    """False where packets lack presentation times: `frame_pts` then holds decoding times, and order names frames."""
    has_hidden_frames: bool
    """Whether packets exist that are decoded and not shown, as before the start of an edit list."""
    has_open_groups: bool
    """Whether H.264 key frames exist behind which frames refer to what was before (open groups, intra refresh)."""

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.frame_pts)

    @property
    def times_seconds(self) -> np.ndarray:
        """(N,) float64: when each frame is shown, in seconds after the first frame."""
        return (self.frame_pts - self.frame_pts[0]) * float(self.time_base)

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
        return (width, height) if self.rotation_degrees % 180 else (height, width)


def probe(path: str | Path, *, tick: Callable[[], None] = lambda: None) -> VideoProbe:
    """Read the packets of `path` and its first key frame.

    Args:
        tick: called now and then, to show that the pass is moving.
    Raises:
        VideoError: the file is missing, not allowed, damaged, has no video, or times that cannot be put in order.
    """
    with open_video(path) as (container, stream):
        _require_every_byte(path)
        table = _packet_table(container, stream, tick)
        _require_clock(table, path)
        _require_whole(stream, table, container_name(container), path)
        # AVI stores no presentation times; those made up for reordered frames are wrong.
        made_up = container_name(container) == "avi" and stream.codec_context.has_b_frames
        has_pts = not made_up and not np.any(table["pts"] == NO_PTS)
        if not has_pts:
            table["pts"] = table["dts"]
        has_open_groups = _keep_clean_starts(table)
        shown, keys, last_duration = _order(table, stream, path)
        frame = _first_frame(container, stream, path)
        sample_aspect = stream.sample_aspect_ratio
        key_pts, key_dts = table["pts"][keys], table["dts"][keys]
        return VideoProbe(
            path=str(path),
            container=container_name(container),
            codec=stream.codec_context.codec.canonical_name,
            width_px=frame.width,
            height_px=frame.height,
            sample_aspect=float(sample_aspect) if sample_aspect else 1.0,
            rotation_degrees=_rotation(frame, path),
            time_base=Fraction(stream.time_base or 0),
            frame_pts=shown,
            key_pts=key_pts,
            key_dts=np.where(key_dts == NO_PTS, key_pts, key_dts),
            last_duration=last_duration,
            has_pts=has_pts,
            has_hidden_frames=len(shown) != len(table),
            has_open_groups=has_open_groups,
        )


_PACKET = np.dtype([("pts", "i8"), ("dts", "i8"), ("duration", "i8"), ("key", "?"), ("clean", "?"), ("shown", "?")])


def _packet_table(container: InputContainer, stream: VideoStream, tick: Callable[[], None]) -> np.ndarray:
    pts, dts, durations, flags = array("q"), array("q"), array("q"), bytearray()
    starts_clean = _clean_start_test(stream)
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        key = packet.is_keyframe
        shown = not (packet.is_discard or packet.is_corrupt)
        pts.append(NO_PTS if packet.pts is None else packet.pts)
        dts.append(NO_PTS if packet.dts is None else packet.dts)
        durations.append(packet.duration or 0)
        flags.append(key | (key and starts_clean(packet)) << 1 | shown << 2)
        if len(flags) % 512 == 0:
            tick()
    table = np.empty(len(flags), dtype=_PACKET)
    table["pts"], table["dts"], table["duration"] = pts, dts, durations
    bits = np.frombuffer(flags, dtype=np.uint8)
    for bit, name in enumerate(("key", "clean", "shown")):
        table[name] = bits >> bit & 1
    return table


def _clean_start_test(stream: VideoStream) -> Callable[[Packet], bool]:
    """Return the test for a key packet at which H.264 decoding starts without a memory of earlier frames (IDR)."""
    context = stream.codec_context
    if context.codec.canonical_name != "h264":
        return lambda packet: True
    header = context.extradata or b""
    if header[:1] != b"\x01" or len(header) < 5:
        return lambda packet: _ANNEX_B_IDR.search(bytes(packet)) is not None
    length_bytes = (header[4] & 3) + 1

    def has_idr(packet: Packet) -> bool:
        data, position = bytes(packet), 0
        while position + length_bytes < len(data):
            if data[position + length_bytes] & 31 == _H264_IDR:
                return True
            position += length_bytes + int.from_bytes(data[position : position + length_bytes], "big")
        return False

    return has_idr


_H264_IDR = 5
_ANNEX_B_IDR = re.compile(rb"\x00\x00\x01[\x25\x45\x65]")


def _keep_clean_starts(table: np.ndarray) -> bool:
    """Unmark key frames that need a memory, if the stream starts with one that does not; say whether any exist."""
    keys = np.flatnonzero(table["key"])
    unclean = not table["clean"][keys].all()
    if unclean and table["clean"][keys[0]]:
        table["key"] = table["clean"]
    return unclean


def _require_every_byte(path: str | Path) -> None:
    there, promised = os.path.getsize(path), promised_bytes(path)
    if promised is not None and there < TRUNCATED_SHARE * promised:
        raise DamagedVideoError(
            f"is cut short: {there:,} of the {promised:,} bytes that it declares are there",
            path=path,
            remedy="fetch it again",
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
    held = int(table["dts"].max()) + 1 if container == "avi" else len(table)
    if held < TRUNCATED_SHARE * stream.frames:
        raise DamagedVideoError(
            f"is cut short: {held} of the {stream.frames} frames in its index can be read",
            path=path,
            remedy="fetch it again",
        )
    known = table["dts"][table["dts"] != NO_PTS]
    if stream.time_base and len(known) and np.diff(known).min(initial=0) * stream.time_base < -MAX_BACK_SECONDS:
        raise VideoTimestampError("has times that start again midway", path=path, remedy="re-encode it to MP4")


def _order(table: np.ndarray, stream: VideoStream, path: str | Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the shown frames' times in presentation order, the rows of key frames by time, the last duration."""
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
    pts, first = np.unique(shown["pts"], return_index=True)
    last_duration = int(shown["duration"][first[-1]])
    if not 0 < last_duration < MAX_TICKS:
        typical = np.median(np.diff(pts)) if len(pts) > 1 else 1 / (stream.average_rate or 25) / stream.time_base
        last_duration = max(1, round(float(typical)))
    return pts, keys[np.argsort(table["pts"][keys], kind="stable")], last_duration


def _first_frame(container: InputContainer, stream: VideoStream, path: str | Path) -> VideoFrame:
    container.seek(0, backward=True)
    for frame in container.decode(stream):
        return frame
    raise DamagedVideoError("gives no frame when decoded", path=path, remedy="fetch it again")


def _rotation(frame: VideoFrame, path: str | Path) -> int:
    degrees = round(frame.rotation) % 360
    if degrees % 90:
        raise UnsupportedVideoError(f"is rotated by {degrees} degrees; expected a multiple of 90", path=path)
    return degrees
