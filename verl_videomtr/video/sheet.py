# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A contact sheet: frames in reading order, each with its pool index and its time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP_PX = 4
_LABEL_PX = 18
_BACKGROUND = (24, 24, 24)
_INK = (240, 240, 240)


def contact_sheet(frames: np.ndarray, labels: Sequence[str], *, columns: int | None = None) -> Image.Image:
    """Lay out `frames` (n, H, W, 3) uint8 in a grid with `labels[i]` under frame i.

    Args:
        columns: frames in a row; None makes the sheet about square.
    Raises:
        ValueError: no frames, or not one label per frame.
    """
    if not len(frames) or len(frames) != len(labels):
        raise ValueError(f"{len(frames)} frames with {len(labels)} labels; expected one label for each of at least one")
    count, height, width, _ = frames.shape
    columns = columns or max(1, min(count, round(math.sqrt(count * (height + _LABEL_PX) / width))))
    rows = math.ceil(count / columns)
    cell_height, cell_width = height + _LABEL_PX + _GAP_PX, width + _GAP_PX
    sheet = Image.new("RGB", (columns * cell_width + _GAP_PX, rows * cell_height + _GAP_PX), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=_LABEL_PX - 5)
    for position, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        left = _GAP_PX + (position % columns) * cell_width
        top = _GAP_PX + (position // columns) * cell_height
        sheet.paste(Image.fromarray(frame), (left, top))
        draw.text((left + 2, top + height + 1), label, fill=_INK, font=font)
    return sheet
