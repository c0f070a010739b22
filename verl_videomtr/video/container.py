"""Opening a file as a file: one regular local file, a known container, a known codec, one video stream.

FFmpeg picks a demuxer by content. An HLS playlist or a concat list named `.mp4` would make it read other files or the
network, so the demuxers, the decoders and the protocol are whitelisted before a byte is parsed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Discard, Disposition
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

CODECS = frozenset(_VIDEO_CODECS.split(","))
"""FFmpeg codecs whose frames are read."""

MAX_SIDE_PX = 16384
MAX_FRAME_PIXELS = 8192 * 8192


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open `path` and yield its container and its one video stream, set to decode on the calling thread alone.

    Raises:
        VideoError: the file is missing, not allowed, damaged or has no video; the class says which. A failure of
            FFmpeg inside the `with` block becomes a `DamagedVideoError`.
    """
    _require_regular_file(path)
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(CONTAINERS),
        "codec_whitelist": ",".join((_VIDEO_CODECS, _OTHER_DECODERS, _AUDIO_DECODERS)),
    }
    try:
        container = av.open("file:" + os.path.abspath(path), options=options, metadata_errors="replace")
    except FFmpegError as error:
        raise _open_error(path, error) from error
    with container:
        try:
            yield container, _video_stream(container, path)
        except FFmpegError as error:
            raise DamagedVideoError(f"cannot be decoded ({error.strerror})", path=path) from error


def container_name(container: InputContainer) -> str:
    """FFmpeg's first name of the container format: `mov` stands for the whole MP4 family."""
    return container.format.name.split(",")[0]


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


def _video_stream(container: InputContainer, path: str | Path) -> VideoStream:
    streams = [s for s in container.streams.video if not Disposition.attached_pic & s.disposition]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise NoVideoStreamError(f"has no video stream (it holds {kinds}); expected one", path=path)
    stream = next((s for s in streams if Disposition.default & s.disposition), streams[0])
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
