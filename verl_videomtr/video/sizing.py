# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Which size a frame is served at: the model's own grid, aspect kept, pixels bounded."""

from __future__ import annotations

import math

MAX_ASPECT = 200.0
"""Qwen-VL processors refuse a longer side of more than 200 times the shorter one."""


def grid_size(
    height_px: float, width_px: float, *, factor_px: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return the (height, width) nearest in aspect whose sides are multiples of `factor_px` and whose area is bounded.

    An image processor with the same factor and bounds then leaves the frame as it is, so that the number of visual
    tokens of a frame is height * width / factor_px^2.

    Raises:
        ValueError: a side is not positive, or one side is over 200 times the other.
    """
    if min(height_px, width_px) <= 0:
        raise ValueError(f"frame size {height_px}x{width_px}; expected positive sides")
    if max(height_px, width_px) / min(height_px, width_px) > MAX_ASPECT:
        raise ValueError(f"frame size {height_px:.0f}x{width_px:.0f}; expected an aspect of at most {MAX_ASPECT:.0f}:1")
    height = max(factor_px, round(height_px / factor_px) * factor_px)
    width = max(factor_px, round(width_px / factor_px) * factor_px)
    if height * width > max_pixels:
        shrink = math.sqrt(height_px * width_px / max_pixels)
        height = max(factor_px, math.floor(height_px / shrink / factor_px) * factor_px)
        width = max(factor_px, math.floor(width_px / shrink / factor_px) * factor_px)
    elif height * width < min_pixels:
        grow = math.sqrt(min_pixels / (height_px * width_px))
        height = math.ceil(height_px * grow / factor_px) * factor_px
        width = math.ceil(width_px * grow / factor_px) * factor_px
    return height, width
