# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Opening a file as a file: one regular local file, a known container, a known codec, one video stream.

FFmpeg picks a demuxer by content. An HLS playlist or a concat list named `.mp4` would make it read other files or the
network, so the demuxers, the decoders and the protocol are whitelisted before a byte is parsed.
"""

from __future__ import annotations

import os
import resource
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import psutil
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from verl_videomtr.video.errors import (
    DamagedVideoError,
    NoVideoStreamError,
    UnsupportedVideoError,
    VideoError,
    VideoNotFoundError,
)

CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "live_flv", "asf", "ogg", "gif")
"""FFmpeg demuxers that may run: each reads exactly the file that it is given."""

INDEXED_CONTAINERS = frozenset({"mov", "matroska", "avi"})
"""Containers whose index makes a seek to a key frame exact; all others are read from the start."""

_VIDEO_CODECS = (
    "h264,hevc,av1,vp8,vp9,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4v3,mpeg1video,mpeg2video,h263,flv1,wmv1,wmv2,wmv3,vc1,"
    "mjpeg,prores,dnxhd,theora,ffv1,cinepak,gif,rawvideo,png"
)
_AUDIO_DECODERS = (
    "aac,aac_latm,ac3,eac3,mp1float,mp2,mp2float,mp3,mp3float,opus,libopus,vorbis,libvorbis,flac,alac,dca,wmav1,wmav2,"
    "wmapro,pcm_s16le,pcm_s16be,pcm_u8,pcm_s24le,pcm_f32le,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,amrnb,amrwb"
)
_OTHER_DECODERS = "libdav1d,libvpx,libvpx-vp9,msmpeg4,flv"
_INTRA_CODECS = frozenset({"mjpeg", "prores", "dnxhd", "png", "rawvideo"})
"""Codecs in which every frame is a key frame, whatever the container says."""

CODECS = frozenset(_VIDEO_CODECS.split(","))
"""FFmpeg codecs whose frames are read."""

MAX_SIDE_PX = 16384
MAX_FRAME_PIXELS = 8192 * 8192


_NO_MOVIE = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


@contextmanager
def open_video(path: str | Path, *, stream_index: int | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open `path` and yield its container and its one video stream, set to decode on the calling thread alone.

    Args:
        stream_index: the stream that an earlier opening chose; None chooses, see `_choose`.
    Raises:
        VideoError: the file is missing, not allowed, damaged or has no video; the class says which. A failure of
            FFmpeg inside the `with` block becomes a `DamagedVideoError`.
    """
    _require_regular_file(path)
    container = _open(path)
    try:
        if stream_index is None and len(movie_streams(container)) > 1:
            stream_index = _choose(container)
            container.close()
            container = _open(path)  # Not every container can be read from its start again.
        yield container, _video_stream(container, path, stream_index)
    except av.error.MemoryError:
        raise
    except FFmpegError as error:
        if _is_memory_short(container):
            raise MemoryError from error
        raise DamagedVideoError(f"cannot be decoded ({error.strerror})", path=path) from error
    finally:
        container.close()


def container_name(container: InputContainer) -> str:
    """FFmpeg's first name of the container format: `mov` stands for the whole MP4 family."""
    return container.format.name.split(",")[0]


def video_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yield the packets of `stream` that hold data."""
    intra = stream.codec_context.codec.canonical_name in _INTRA_CODECS
    for packet in container.demux(stream):
        if packet.size:
            if intra:
                packet.is_keyframe = True
            yield packet


def made_visible(packet: Packet[VideoStream]) -> Packet[VideoStream]:
    """Return `packet`, or a copy of one whose frame the decoder would hide, as before the start of an edit list."""
    if not packet.is_discard:
        return packet
    copy: Packet[Any] = Packet(bytes(packet))
    copy.pts, copy.dts, copy.time_base, copy.is_keyframe = (
        packet.pts,
        packet.dts,
        packet.time_base,
        packet.is_keyframe,
    )
    return copy


def starts_clean(frame: VideoFrame, stream: VideoStream) -> bool:
    """Whether a frame that came out first needs no other, whatever the container marks.

    The decoder of H.264 gives no frame before it can be right; those of other codecs may.
    """
    return frame.key_frame or stream.codec_context.codec.canonical_name == "h264"


def movie_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams that are neither cover art nor thumbnails."""
    return [stream for stream in container.streams.video if not _NO_MOVIE & stream.disposition]


def stored_pts(path: str | Path, stream_index: int) -> list[int | None]:
    """Return the presentation time of every packet of a stream, by the track's own clock, shown or not."""
    with _open(path, ignore_editlist="1") as container:
        return [packet.pts for packet in container.demux(container.streams[stream_index]) if packet.size]


def _open(path: str | Path, **more: str) -> InputContainer:
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(CONTAINERS),
        "codec_whitelist": ",".join((_VIDEO_CODECS, _OTHER_DECODERS, _AUDIO_DECODERS)),
    }
    try:
        return av.open("file:" + os.path.abspath(path), options=options | more, metadata_errors="replace")
    except av.error.MemoryError:
        raise
    except FFmpegError as error:
        raise _open_error(path, error) from error


def _is_memory_short(container: InputContainer) -> bool:
    """Whether this process has no room for a few more frames: the decoder of H.264 then calls the data invalid."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return False
    contexts = (stream.codec_context for stream in movie_streams(container))
    frame_bytes = max((context.width * context.height for context in contexts if context), default=0) * 2
    return limit - int(psutil.Process().memory_info().data) < 4 * frame_bytes


def _require_regular_file(path: str | Path) -> None:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise VideoNotFoundError(f"cannot be opened ({error})", path=path, remedy="check the path") from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoNotFoundError("is not a regular file", path=path, remedy="name a video file")
    if status.st_size == 0:
        raise DamagedVideoError("is empty (0 bytes)", path=path, remedy="fetch it again")
    if not os.access(path, os.R_OK):
        raise VideoNotFoundError("is not readable by this user", path=path, remedy="check its permissions")


def _open_error(path: str | Path, error: FFmpegError) -> VideoError:
    if isinstance(error, av.error.InvalidDataError):
        return DamagedVideoError("is not a readable video file", path=path, remedy="fetch it again or drop it")
    if isinstance(error, av.error.ArgumentError):
        return UnsupportedVideoError(
            f"is in a container or codec outside the allowed ones; expected a container among {', '.join(CONTAINERS)}",
            path=path,
            remedy="convert it to MP4",
        )
    return DamagedVideoError(f"cannot be opened ({error.strerror})", path=path, remedy="fetch it again or drop it")


def _video_stream(container: InputContainer, path: str | Path, stream_index: int | None) -> VideoStream:
    streams = movie_streams(container)
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise NoVideoStreamError(f"has no video stream (it holds {kinds}); expected one", path=path)
    stream = next(stream for stream in streams if stream_index in (None, stream.index))
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    context = stream.codec_context
    if context is None or context.codec.canonical_name not in CODECS:
        name = "unknown" if context is None else context.codec.canonical_name
        raise UnsupportedVideoError(f"has {name} video; expected one of {', '.join(sorted(CODECS))}", path=path)
    width, height = context.width, context.height
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX and width * height <= MAX_FRAME_PIXELS):
        raise UnsupportedVideoError(
            f"has frames of {width}x{height}; expected at most {MAX_SIDE_PX} a side and {MAX_FRAME_PIXELS} pixels",
            path=path,
        )
    context.thread_count = 1
    context.options = {"err_detect": "explode"}
    return stream


def _choose(container: InputContainer) -> int:
    """Choose the movie among several streams: not one with few pictures, then the default, the largest, the first.

    Tracks of previews and chapter pictures often come first, and are enabled as the movie is.
    """
    streams = movie_streams(container)
    counts = Counter(packet.stream_index for packet in container.demux(streams) if packet.size)
    most = max(counts.values(), default=0)

    def rank(stream: VideoStream) -> tuple[bool, bool, int]:
        context = stream.codec_context
        area = context.width * context.height if context else 0
        return 2 * counts[stream.index] >= most, bool(Disposition.default & stream.disposition), area

    return max(streams, key=rank).index
