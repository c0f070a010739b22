# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Frames with torchcodec in its exact mode. Needs torch and FFmpeg's shared libraries (see `decode_workers`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verl_videomtr.video.errors import DamagedVideoError, DecoderUnavailableError, VideoTimestampError
from verl_videomtr.video.plan import PoolPlan

_FRAMES_AT_ONCE = 8
"""Frames between two ticks."""
_CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "mjpeg", "prores", "dnxhd", "png", "rawvideo", "ffv1"})
"""Codecs whose decoders give nothing where a wrongly marked key frame is sought; torchcodec does not look itself."""


def decode_torchcodec(plan: PoolPlan, rows: np.ndarray, *, tick: Callable[[], None]) -> np.ndarray:
    """Read the pool frames `rows` (strictly rising) and check the time that each came back with.

    Raises:
        DecoderUnavailableError: torchcodec or its FFmpeg is missing, or the container is one that it seeks wrongly in.
        VideoTimestampError: it counts other frames than the packets, or returned another frame.
    """
    source = plan.source
    if not source.seeks or not source.has_pts or source.codec not in _CODECS:
        raise DecoderUnavailableError(
            f"torchcodec does not seek reliably in {source.codec} in {source.container}",
            path=plan.path,
            remedy="use decoder=auto",
        )
    if source.orientation.is_mirrored or source.is_turned_by_stream:
        raise DecoderUnavailableError(
            "torchcodec does not turn this video upright", path=plan.path, remedy="use decoder=auto"
        )
    decoder = _open(plan)
    if decoder.metadata.num_frames != plan.num_video_frames:
        raise VideoTimestampError(
            f"has {plan.num_video_frames} frames, of which torchcodec sees {decoder.metadata.num_frames}",
            path=plan.path,
            remedy="use decoder=auto",
        )
    out = np.empty((len(rows), *plan.size, 3), dtype=np.uint8)
    asked_seconds = plan.source.frame_pts[rows] * float(plan.source.time_base)
    for start in range(0, len(rows), _FRAMES_AT_ONCE):
        tick()
        part = slice(start, start + _FRAMES_AT_ONCE)
        try:
            batch = decoder.get_frames_at(plan.frame_idx[rows[part]].tolist())
        except (RuntimeError, IndexError, ValueError) as error:
            raise DamagedVideoError(f"cannot be decoded by torchcodec ({error})", path=plan.path) from error
        came_seconds = batch.pts_seconds.numpy()
        if not np.allclose(came_seconds, asked_seconds[part], rtol=0, atol=0.51 * float(plan.source.time_base) + 1e-6):
            raise VideoTimestampError(
                f"gave frames at {came_seconds.tolist()} s through torchcodec; expected {asked_seconds[part].tolist()}",
                path=plan.path,
                remedy="use decoder=auto",
            )
        out[part] = batch.data.numpy()
    return out


def _open(plan: PoolPlan):  # type: ignore[no-untyped-def]
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize
    except (ImportError, OSError, RuntimeError) as error:
        raise DecoderUnavailableError(
            f"torchcodec cannot be imported ({str(error).splitlines()[0]})", path=plan.path, remedy="use decoder=auto"
        ) from error
    try:
        return VideoDecoder(
            plan.path,
            stream_index=plan.source.stream_index,
            seek_mode="exact",
            num_ffmpeg_threads=1,
            dimension_order="NHWC",
            transforms=[Resize(plan.size)],
        )
    except (RuntimeError, ValueError, OSError) as error:
        if "Could not load libtorchcodec" in str(error):
            raise DecoderUnavailableError(
                "torchcodec finds no FFmpeg libraries", path=plan.path, remedy="install FFmpeg or use decoder=auto"
            ) from error
        reason = str(error).splitlines()[0]
        raise DamagedVideoError(f"cannot be opened by torchcodec ({reason})", path=plan.path) from error
