# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the task yields to a policy that does not look where the question points: exact bounds, printed beside results.

    NeedleConfig, EpisodeConfig -> best accuracy of several kinds of policy

A policy that has seen the needle asked for answers right, any other guesses. Its looks are ranges; all of them, and for
two looks all pairs, are tried against every place where the needle can be.

    python -m recipes.learning_study.blind_bound --max-turns 3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.synthetic import (
    SHAPES,
    NeedleConfig,
    add_config_arguments,
    config_from_arguments,
    needle_placements,
    scene_bounds,
)
from recipes.learning_study.lessons import FRAME_BUDGET
from verl_videomtr.episode import EpisodeConfig, spread


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Highest accuracies, with the looks that reach them."""

    overview: float
    """Only the overview: chance."""
    uniform: float
    """All of the frame budget at once, spread over the video (K_max = 1)."""
    blind: float
    """The same ranges whatever the question and the overview: a sweep."""
    blind_ranges: tuple[tuple[int, int], ...]
    one_aimed: float
    """One look in the scene that the question names."""
    all_aimed: float
    """As many looks there as an episode has."""
    whole_scene: float
    """One look over exactly that scene, end to end: what comes to mind first."""
    coarse_iou: float
    """Mean IoU of that look, where it returns a frame of the needle; 0 where it never does."""


def compute_bounds(config: NeedleConfig, episode: EpisodeConfig) -> Bounds:
    """Enumerate ranges against needle placements.

    Raises:
        ValueError: more than one needle per scene, a pool of another size, or more than two retrievals.
    """
    num_looks = episode.max_turns - 1
    if config.needles_per_scene != 1 or episode.pool_size != config.pool_size or num_looks not in (1, 2):
        raise ValueError(
            f"needles_per_scene={config.needles_per_scene}, pool_size={episode.pool_size}, "
            f"max_turns={episode.max_turns}; expected 1 needle, a pool of {config.pool_size} and 2 or 3 turns"
        )
    pool, num = config.pool_size, episode.frames_per_retrieval
    places = [(scene, start) for scene in range(config.num_scenes) for (start,) in needle_placements(config, scene)]
    scenes = np.array([scene for scene, _ in places])
    weights = 1 / config.num_scenes / np.bincount(scenes)[scenes]
    starts = np.array([start for _, start in places])

    def shows(frames: Sequence[int]) -> np.ndarray:
        """Whether `frames` show the needle, for each place where it can be: (places,) float."""
        offsets = np.asarray(frames)[:, None] - starts
        return ((offsets >= 0) & (offsets < config.needle_frames)).any(0).astype(float)

    ranges = {tuple(spread(a, b, num)): (a, b) for a in range(pool) for b in range(a, pool)}
    covers = np.stack([shows(frames) for frames in ranges])
    names = list(ranges.values())

    def best(weights: np.ndarray, looks: int) -> tuple[float, tuple[tuple[int, int], ...]]:
        one = covers @ weights
        if looks == 1:
            top = int(one.argmax())
            return float(one[top]), (names[top],)
        two = one[:, None] + one - (covers * weights) @ covers.T
        i, j = np.unravel_index(int(two.argmax()), two.shape)
        return float(two[i, j]), (names[i], names[j])

    def accuracy(share_seen: float) -> float:
        return share_seen + (1 - share_seen) / len(SHAPES)

    aimed: dict[int, list[float]] = {1: [], num_looks: []}
    whole_seen, whole_iou = [], []
    for scene in range(config.num_scenes):
        here = weights * (scenes == scene) * config.num_scenes
        for looks in aimed:
            aimed[looks].append(best(here, looks)[0])
        first, end = scene_bounds(config, scene)
        frames = spread(first, end - 1, num)
        whole_seen.append(float(shows(frames) @ here))
        for start in starts[scenes == scene]:
            common = len(set(frames) & set(range(start, start + config.needle_frames)))
            if common:
                whole_iou.append(common / (len(frames) + config.needle_frames - common))
    blind, blind_ranges = best(weights, num_looks)
    return Bounds(
        overview=accuracy(0),
        uniform=accuracy(float(shows(spread(0, pool - 1, episode.frame_budget)) @ weights)),
        blind=accuracy(blind),
        blind_ranges=blind_ranges,
        one_aimed=accuracy(float(np.mean(aimed[1]))),
        all_aimed=accuracy(float(np.mean(aimed[num_looks]))),
        whole_scene=accuracy(float(np.mean(whole_seen))),
        coarse_iou=float(np.mean(whole_iou)) if whole_iou else 0.0,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-turns", type=int, default=3, help="turns of an episode (default: %(default)s)")
    parser.add_argument(
        "--frame-budget", type=int, default=FRAME_BUDGET, help="frames of an episode (default: %(default)s)"
    )
    add_config_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        config = config_from_arguments(arguments)
        episode = EpisodeConfig(
            pool_size=config.pool_size,
            frame_budget=arguments.frame_budget,
            max_turns=arguments.max_turns,
            initial_frames=config.overview_frames,
        )
        bounds = compute_bounds(config, episode)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    sweep = " and ".join(f"{start}-{end}" for start, end in bounds.blind_ranges)
    print(f"highest accuracy at K_max = {episode.max_turns}, {episode.frame_budget} frames:")
    print(f"  {bounds.overview:.3f}  the overview alone")
    print(f"  {bounds.blind:.3f}  blind: the same looks for every question ({sweep})")
    print(f"  {bounds.uniform:.3f}  one look at {episode.frame_budget} frames over the whole video (K_max = 1)")
    print(
        f"  {bounds.whole_scene:.3f}  one look over the whole scene asked about (IoU {bounds.coarse_iou:.2f} on a hit)"
    )
    print(f"  {bounds.one_aimed:.3f}  the best one look there")
    print(f"  {bounds.all_aimed:.3f}  the best {episode.max_turns - 1} looks there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
