# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The decoders by name, what `auto` means, and the rule that no frame is served whose time was not checked.

Each decoder is a function (plan, rows, tick) -> frames. `auto` is PyAV reading only what the wanted frames depend on,
and, where that does not give exactly the frames asked for, PyAV reading the file from its start. A decoder chosen by
name never hands over to another: it gives the right frames or raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np

from verl_videomtr.video.errors import DamagedVideoError, VideoTimestampError
from verl_videomtr.video.plan import PoolPlan

logger = logging.getLogger(__name__)


class Decode(Protocol):
    """Read the frames `rows` (rising pool indices) of a plan as (n, height, width, 3) uint8 RGB."""

    def __call__(self, plan: PoolPlan, rows: np.ndarray, *, tick: Callable[[], None]) -> np.ndarray: ...


def decode(
    plan: PoolPlan, rows: np.ndarray, decoder: str, *, tick: Callable[[], None] = lambda: None
) -> tuple[np.ndarray, str]:
    """Return the pool frames `rows` and the name of the decoder that read them.

    Args:
        rows: (n,) int64, strictly rising pool indices.
        decoder: `auto`, `pyav`, `pyav-full`, `torchcodec` or `decord`.
        tick: called while work goes on.
    Raises:
        VideoError: the decoder cannot give exactly these frames.
    """
    plan.require_unchanged()
    plan.require_whole(rows)
    if decoder == "torchcodec":
        from verl_videomtr.video.decode_torchcodec import decode_torchcodec

        return decode_torchcodec(plan, rows, tick=tick), decoder
    if decoder == "decord":
        from verl_videomtr.video.decode_decord import decode_decord

        return decode_decord(plan, rows, tick=tick), decoder

    from verl_videomtr.video.decode_pyav import decode_all, decode_sparse

    if decoder == "pyav-full" or not plan.source.has_pts:
        return decode_all(plan, rows, tick=tick), "pyav-full"
    try:
        return decode_sparse(plan, rows, tick=tick), "pyav"
    except (VideoTimestampError, DamagedVideoError) as error:
        if decoder == "pyav":
            raise
        logger.warning("sparse reading failed, reading from the start instead: %s", error)
        return decode_all(plan, rows, tick=tick), "pyav-full"
