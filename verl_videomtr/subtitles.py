# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Subtitles of the frames shown: SRT files in, the lines that are on screen at given times out.

Video-MME's official rule: a model with subtitles gets those of its sampled frames, each once, in order. A cue covers
the times from its start to before its end. The rule's own code rounds both down to frame numbers first, which differs
by less than one frame.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from verl_videomtr.sample import Sample

HEADING = "This video's subtitles are listed below:"
"""Video-MME's own words."""
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_CLOCK = r"(\d{1,4}):(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
_TIMING = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(\s.*)?")
# Markup, and whatever a chat template would take for a token of its own.
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}|[\x00-\x08\x0e-\x1f\x7f]")


class SubtitleError(ValueError):
    """A folder or a file of subtitles cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Cue:
    """One subtitle."""

    start_seconds: float
    """Inclusive."""
    end_seconds: float
    """Exclusive."""
    text: str
    """One line, without markup."""


@dataclass(frozen=True, kw_only=True)
class Subtitles:
    """The subtitles of a file of questions, all read before the first of them is played."""

    cues: dict[str, tuple[Cue, ...]]
    """Of each video that has a file, by `Sample.video`."""
    num_videos: int
    sha256: str
    """Of all cues."""

    def of(self, sample: Sample) -> tuple[Cue, ...]:
        """Return a sample's cues; none where its video has no file."""
        return self.cues.get(sample.video, ())

    def describe(self) -> dict[str, Any]:
        """Return what moves a number."""
        return {"num_files": len(self.cues), "num_videos": self.num_videos, "sha256": self.sha256}


def read_subtitles(folder: Path, samples: Sequence[Sample]) -> Subtitles:
    """Read the files of the samples' videos; some videos of a benchmark have none.

    Args:
        folder: holds an SRT file for a video, at the video's own relative path or at its name alone.
    Raises:
        SubtitleError: there is no such folder, it has a file for none of the videos, or one cannot be read.
    """
    if not folder.is_dir():
        raise SubtitleError(f"no such folder {folder}; expected the videos' .srt files in it; correct --subtitles")
    videos = {sample.video: sample for sample in samples}
    found = {video: path for video, sample in videos.items() if (path := _find(folder, sample)) is not None}
    if not found:
        example = _names(next(iter(videos.values())))[-1] if videos else "VIDEO.srt"
        raise SubtitleError(
            f"none of {len(videos)} videos has subtitles; expected files such as {folder / example}; "
            "correct --subtitles"
        )
    if shared := [path for path, count in Counter(found.values()).items() if count > 1]:
        both = [video for video, path in found.items() if path == shared[0]]
        raise SubtitleError(
            f"one file for several videos {both[:3]}; expected one each; {shared[0]}; "
            "put the files into the videos' folders"
        )
    cues = {video: parse_srt(path.read_bytes(), path=path) for video, path in found.items()}
    digest = hashlib.sha256(repr(sorted(cues.items())).encode()).hexdigest()
    return Subtitles(cues=cues, num_videos=len(videos), sha256=digest)


def parse_srt(data: bytes, *, path: Path) -> tuple[Cue, ...]:
    """Parse a file, in UTF-8, or in UTF-16 with its mark; an empty file has no cues.

    Raises:
        SubtitleError: another encoding, a timing line that is none, or text without any timing.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise SubtitleError(
            f"no {encoding} text ({error.reason} at byte {error.start}); expected UTF-8, or UTF-16 with its mark; "
            f"{path}; convert it: iconv -f ITS_ENCODING -t UTF-8"
        ) from None
    cues: list[Cue] = []
    times: tuple[float, float] | None = None
    words: list[str] = []
    # A last blank line ends the last cue.
    for number, line in enumerate([*re.split(r"\r\n|\r|\n", text), ""], start=1):
        if "-->" in line:
            match = _TIMING.fullmatch(line)
            if match is None:
                raise SubtitleError(
                    f"{line[:80]!r} is no timing; expected 00:01:02,500 --> 00:01:04,000; {path}, line {number}; "
                    "correct the line"
                )
            if times is not None:
                # No blank line between two cues: the last line is the next one's number.
                _add(cues, times, words[:-1])
            times, words = (_seconds(match.groups()[:4]), _seconds(match.groups()[4:8])), []
        elif line.strip():
            words.append(line)
        elif times is not None:
            _add(cues, times, words)
            times = None
    if not cues and words and "-->" not in text:
        raise SubtitleError(
            f"text without a subtitle; expected numbered cues with timings; {path}; give SRT, or remove it"
        )
    return tuple(sorted(cues, key=lambda cue: cue.start_seconds))


def lines_at(cues: Sequence[Cue], times_seconds: Sequence[float]) -> list[str]:
    """Return the texts that are on screen at any of the times, each cue once, in order of their starts."""
    return [cue.text for cue in cues if any(cue.start_seconds <= time < cue.end_seconds for time in times_seconds)]


def _add(cues: list[Cue], times: tuple[float, float], words: Sequence[str]) -> None:
    if text := " ".join(_MARKUP.sub("", " ".join(words)).split()):
        cues.append(Cue(start_seconds=times[0], end_seconds=times[1], text=text))


def _find(folder: Path, sample: Sample) -> Path | None:
    root = folder.resolve()
    for name in _names(sample):
        path = (root / name).resolve()
        # A row's path may lead anywhere.
        if path.is_relative_to(root) and path.is_file():
            return path
    return None


def _names(sample: Sample) -> list[str]:
    video = PurePosixPath(sample.video)
    beside = [] if video.is_absolute() else [str(video.with_suffix(".srt"))]
    return [*beside, f"{video.stem}.srt"]


def _seconds(clock: Sequence[str]) -> float:
    hours, minutes, seconds, fraction = clock
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
