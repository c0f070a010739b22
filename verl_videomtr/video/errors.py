# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a video, as types: a caller counts, skips or stops by class, and reads one line that says why.

Every failure of the frame path raises a `VideoError`; there are no empty results and no black frames.
"""

from __future__ import annotations


class VideoError(ValueError):
    """A video cannot give the frames asked for.

    Its text is one line: `<what is wrong>; <what to do>; <path>`.
    """

    def __init__(self, reason: str, *, path: object, remedy: str = "") -> None:
        self.reason = reason
        """What is wrong and which rule was expected, without the path."""
        self.path = str(path)
        """The file, as it was asked for."""
        self.remedy = remedy
        """What a user can do about it; may be empty."""
        text = "; ".join(part for part in (reason, f"video {self.path}", remedy) if part)
        super().__init__(" ".join(text.split()))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self).__name__, self.reason, self.path, self.remedy)


class VideoNotFoundError(VideoError):
    """The path names no regular, readable file, or leaves the configured root."""


class UnsupportedVideoError(VideoError):
    """Container, codec, size or orientation outside what is allowed; also a playlist in disguise."""


class NoVideoStreamError(VideoError):
    """The file opens but holds no moving pictures (audio only, cover art only, no packets)."""


class DamagedVideoError(VideoError):
    """The file is cut short, or the frames asked for cannot be decoded."""


class VideoTimestampError(VideoError):
    """The frames that came back are not the ones asked for, or the file's times contradict each other."""


class VideoTimeoutError(VideoError):
    """The file kept its decoder busy without progress, or past the deadline; the decoding process was ended."""


class MachineFaultError(VideoError):
    """The machine failed, twice, and perhaps not the file: a decoding process was killed, or got no data to work on.

    A reason to look at memory and storage, and not to drop the video.
    """


class DecoderUnavailableError(VideoError):
    """The decoder chosen by name cannot run here, or refuses a file that it is known to get wrong."""


ERRORS: dict[str, type[VideoError]] = {
    error.__name__: error
    for error in (
        VideoError,
        VideoNotFoundError,
        UnsupportedVideoError,
        NoVideoStreamError,
        DamagedVideoError,
        VideoTimestampError,
        VideoTimeoutError,
        MachineFaultError,
        DecoderUnavailableError,
    )
}
"""By name, for errors that crossed a process boundary and for counting."""


def _rebuild(name: str, reason: str, path: str, remedy: str) -> VideoError:
    return ERRORS[name](reason, path=path, remedy=remedy)
