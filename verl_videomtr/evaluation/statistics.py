# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Intervals and tests over questions that share videos: the video is what is drawn, not the question.

Questions of one video stand or fall together (Video-MME has 3 each, LVBench 15), so resampling questions would give
intervals that are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 4000
CONFIDENCE = 0.95
SEED = 0
_BLOCK = 500


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its interval."""

    value: float
    num: int
    """Questions."""
    low: float | None = None
    """None where all questions are of one video: nothing can be said of others."""
    high: float | None = None


def mean_by_video(values: Sequence[float], videos: Sequence[str]) -> Estimate:
    """The mean over questions (micro), with a bootstrap interval over videos."""
    return _estimate(values, videos, ["all"] * len(values))


def mean_of_groups(values: Sequence[float], videos: Sequence[str], groups: Sequence[str]) -> Estimate:
    """The mean over groups of each group's mean (macro), with a bootstrap interval over videos.

    A group that a resample does not hold is left out of that resample's mean.
    """
    return _estimate(values, videos, groups)


def mcnemar(num_first_only: int, num_second_only: int) -> float:
    """The exact two-sided p-value that two runs are right equally often.

    Of the questions on which they differ, each is the first run's with probability one half.

    Args:
        num_first_only: questions that only the first run has right.
        num_second_only: questions that only the second run has right.
    """
    num = num_first_only + num_second_only
    few = min(num_first_only, num_second_only)
    tail = sum(math.comb(num, k) for k in range(few + 1))
    return min(1.0, float(2 * tail / 2**num))


def percentile(values: Sequence[float], percent: float) -> float | None:
    """A percentile of values, interpolated; None without values."""
    return float(np.percentile(values, percent)) if values else None


def _estimate(values: Sequence[float], videos: Sequence[str], groups: Sequence[str]) -> Estimate:
    if not len(values) == len(videos) == len(groups) > 0:
        raise ValueError(
            f"{len(values)} values, {len(videos)} videos, {len(groups)} groups; expected as many, 1 or more"
        )
    video_names, video_ids = np.unique(np.asarray(videos, dtype=object).astype(str), return_inverse=True)
    group_names, group_ids = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    shape = (len(video_names), len(group_names))
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (video_ids, group_ids), np.asarray(values, dtype=float))
    np.add.at(counts, (video_ids, group_ids), 1.0)
    value = float(np.mean(sums.sum(0) / counts.sum(0)))
    if len(video_names) == 1:
        return Estimate(value=value, num=len(values))
    means = np.concatenate(list(_resampled_means(sums, counts)))
    edge = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [edge, 100 - edge])
    return Estimate(value=value, num=len(values), low=float(low), high=float(high))


def _resampled_means(sums: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """Means over groups, for draws of as many videos as there are, with replacement."""
    generator = np.random.default_rng(SEED)
    num_videos = len(sums)
    for start in range(0, NUM_RESAMPLES, _BLOCK):
        num = min(_BLOCK, NUM_RESAMPLES - start)
        draws = generator.multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=num)
        with np.errstate(invalid="ignore"):
            yield np.nanmean((draws @ sums) / (draws @ counts), axis=1)
