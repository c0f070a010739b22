# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A video whose frames are told apart by their grey."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def write_grey_video(
    path: Path, *, count: int = 64, step: int = 4, size: tuple[int, int] = (180, 320), fps: int = 8
) -> Path:
    """Write `count` frames of (height, width) pixels, each of one grey: `step` times its number."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=fps, options={"crf": "10"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in range(count):
            picture = np.full((*size, 3), step * number, dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
    return path
