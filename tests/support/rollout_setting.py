# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One question on a video whose frames are made on the spot, for tests that play episodes without files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from verl_videomtr.episode import EpisodeConfig
from verl_videomtr.prompts import Prompts
from verl_videomtr.rollout import FrameSource, Rollout, open_episode
from verl_videomtr.sample import Sample
from verl_videomtr.video.errors import VideoError

LOOK = "<think>red</think><retrieve>4,9</retrieve>"
ANSWER = "<think>red</think><answer>A</answer>"
WRONG = "<think>red</think><answer>B</answer>"

SAMPLE = Sample(
    data_source="test",
    sample_id="s0",
    index=0,
    split="train",
    video="v.mp4",
    duration_seconds=16.0,
    question="What?",
    options=("cat", "dog"),
    answer="A",
    question_type="multiple_choice",
    segments=((5.0, 8.0),),
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """One frame in the middle of each of `num_frames` equal parts."""

    num_frames: int
    duration_seconds: float

    @property
    def times_seconds(self) -> np.ndarray:
        return (np.arange(self.num_frames) + 0.5) * self.duration_seconds / self.num_frames


class MadeFrames:
    """A frame service of one video, whose frames are as bright as their number; counts what is read."""

    def __init__(self, num_frames: int = 16, duration_seconds: float = 16.0, side_px: int = 28) -> None:
        self.num_read = 0
        self._pool = Pool(num_frames=num_frames, duration_seconds=duration_seconds)
        self._side_px = side_px

    async def pool(self, path: str) -> Any:
        if path.endswith("broken.mp4"):
            raise VideoError("cannot be read", path=path)
        return self._pool

    async def read(self, pool: Any, indices: Sequence[int]) -> np.ndarray:
        self.num_read += len(indices)
        return np.stack([self.picture(index) for index in indices])

    def picture(self, index: int) -> np.ndarray:
        return np.full((self._side_px, self._side_px, 3), index % 256, np.uint8)

    def metrics(self) -> dict[str, float]:
        return {}


async def open_rollout(
    sample: Sample = SAMPLE, *, frames: FrameSource | None = None, prompts: str = "tiny", **config: Any
) -> Rollout:
    """Open an episode of at most three turns and eight of 16 frames.

    Args:
        config: other fields of EpisodeConfig.
    """
    return await open_episode(
        sample,
        config=EpisodeConfig(**{"pool_size": 16, "frame_budget": 8, "max_turns": 3, **config}),
        prompts=Prompts.load(prompts),
        frames=frames or MadeFrames(),
        root="/videos",
    )
