# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Frames with decord 0.6, which never says which frame it returned.

It reads packets, not presentation: edit lists, transport streams and gaps make it return wrong frames without a word.
So it is used only where its own frame table is the same as the probe's, and refused everywhere else.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from verl_videomtr.video.errors import DamagedVideoError, DecoderUnavailableError, VideoTimestampError
from verl_videomtr.video.plan import PoolPlan

_FRAMES_AT_ONCE = 8
_CONTAINERS = ("mov",)
"""Not Matroska: where its index lacks the first key frame, decord lands elsewhere after a seek and does not look."""
_CODECS = ("h264", "vp8", "vp9")
"""Not HEVC: with open groups, which x265 makes by default, decord returns frames several positions off. Not MPEG-4: its
decoder gives pictures where a key frame is wrongly marked, and decord does not look."""


def decode_decord(plan: PoolPlan, rows: np.ndarray, *, tick: Callable[[], None]) -> np.ndarray:
    """Read the pool frames `rows` (strictly rising) after checking that decord's frame times are the probe's.

    Raises:
        DecoderUnavailableError: decord is missing, or the file is of a kind that it gets wrong.
        VideoTimestampError: its frame table differs from the packets'.
    """
    source = plan.source
    safe = source.container in _CONTAINERS and source.codec in _CODECS
    odd = source.has_hidden_frames or source.has_odd_marks or source.has_other_streams or source.is_turned_by_stream
    if not safe or odd or source.orientation.is_mirrored or not source.has_pts:
        raise DecoderUnavailableError(
            f"decord does not read this {source.codec} in {source.container} reliably",
            path=plan.path,
            remedy="use decoder=auto",
        )
    try:
        import decord
    except (ImportError, OSError) as error:
        raise DecoderUnavailableError(
            f"decord cannot be imported ({error})", path=plan.path, remedy="pip install decord, or use decoder=auto"
        ) from error
    height, width = plan.size
    try:
        reader = decord.VideoReader(plan.path, ctx=decord.cpu(0), width=width, height=height, num_threads=1)
    except (RuntimeError, decord.DECORDError) as error:
        raise DamagedVideoError(f"cannot be opened by decord ({_first_line(error)})", path=plan.path) from error
    _check_table(reader, plan, rows)
    out = np.empty((len(rows), height, width, 3), dtype=np.uint8)
    for start in range(0, len(rows), _FRAMES_AT_ONCE):
        tick()
        part = slice(start, start + _FRAMES_AT_ONCE)
        try:
            out[part] = reader.get_batch(plan.frame_idx[rows[part]].tolist()).asnumpy()
        except (RuntimeError, ValueError, decord.DECORDError) as error:
            raise DamagedVideoError(f"cannot be decoded by decord ({_first_line(error)})", path=plan.path) from error
    return out


def _check_table(reader, plan: PoolPlan, rows: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    if len(reader) != plan.num_video_frames:
        raise VideoTimestampError(
            f"has {plan.num_video_frames} frames, of which decord sees {len(reader)}",
            path=plan.path,
            remedy="use decoder=auto",
        )
    if zlib.crc32(np.array(reader.get_key_indices(), dtype=np.int64).data) != plan.source.key_frames_crc:
        raise VideoTimestampError(
            "has key frames that decord sees elsewhere than they are", path=plan.path, remedy="use decoder=auto"
        )
    starts = reader.get_frame_timestamp(plan.frame_idx[rows])[:, 0]
    first = reader.get_frame_timestamp([0])[0, 0]
    if not np.allclose(starts - first, plan.times_seconds[rows], rtol=0, atol=2e-3):
        raise VideoTimestampError(
            "has frame times that decord reads differently from the packets", path=plan.path, remedy="use decoder=auto"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
