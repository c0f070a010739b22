# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the task yields to a policy that does not look where the question points: exact bounds, printed beside results.

    NeedleConfig, EpisodeConfig -> best accuracy of several kinds of policy

A policy that has seen the needles asked for answers right; any other guesses, one that has seen one of two between two
letters. Its looks are ranges; all of them, and for two looks all pairs, are tried against every place where the needles
can be.

    python -m recipes.learning_study.blind_bound --frame-budget 22
    python -m recipes.learning_study.blind_bound --frame-budget 22 --mixture
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.synthetic import (
    SHAPES,
    NeedleConfig,
    add_config_arguments,
    config_from_arguments,
    difficulty,
    kinds_of,
    needle_placements,
    scene_bounds,
)
from recipes.learning_study.lessons import FRAME_BUDGET
from verl_videomtr.episode import EpisodeConfig, spread

ROWS_AT_ONCE = 256
"""Of the table of all pairs of ranges, which would take a gigabyte."""


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
        ValueError: a mixture, a pool of another size, or more than two retrievals.
    """
    num_looks = episode.max_turns - 1
    if config.mixture or episode.pool_size != config.pool_size or num_looks not in (1, 2):
        raise ValueError(
            f"mixture={config.mixture}, pool_size={episode.pool_size}, max_turns={episode.max_turns}; "
            f"expected one kind of video, a pool of {config.pool_size} and 2 or 3 turns"
        )
    pool, num = config.pool_size, episode.frames_per_retrieval
    places = [(scene, starts) for scene in range(config.num_scenes) for starts in needle_placements(config, scene)]
    scenes = np.array([scene for scene, _ in places])
    weights = 1 / config.num_scenes / np.bincount(scenes)[scenes]
    starts = np.array([starts for _, starts in places])

    def misses(frames: Sequence[int]) -> np.ndarray:
        """Whether `frames` miss each needle, for each place where they can be: (places, needles) bool."""
        offsets = np.asarray(frames)[:, None, None] - starts
        return ~((offsets >= 0) & (offsets < config.needle_frames)).any(0)

    def accuracy(frames: Sequence[int], weights: np.ndarray) -> float:
        return float(_accuracies(misses(frames)[None], weights)[0])

    ranges = {tuple(spread(a, b, num)): (a, b) for a in range(pool) for b in range(a, pool)}
    missed = np.stack([misses(frames) for frames in ranges])
    names = list(ranges.values())
    blind, looks = _best(missed, weights, num_looks)
    aimed: dict[int, list[float]] = {1: [], num_looks: []}
    whole, whole_iou = [], []
    for scene in range(config.num_scenes):
        here = scenes == scene
        # Most ranges are alike in what they miss in one scene.
        different, own = np.unique(missed[:, here], axis=0), weights[here] * config.num_scenes
        for number in aimed:
            aimed[number].append(_best(different, own, number)[0])
        first, end = scene_bounds(config, scene)
        frames = spread(first, end - 1, num)
        whole.append(accuracy(frames, weights * here * config.num_scenes))
        for place in starts[here]:
            truth = {slot for start in place for slot in range(start, start + config.needle_frames)}
            if common := len(set(frames) & truth):
                whole_iou.append(common / len(truth | set(frames)))
    return Bounds(
        overview=accuracy(spread(0, pool - 1, config.overview_frames), weights),
        uniform=accuracy(spread(0, pool - 1, episode.frame_budget), weights),
        blind=blind,
        blind_ranges=tuple(names[look] for look in looks),
        one_aimed=float(np.mean(aimed[1])),
        all_aimed=float(np.mean(aimed[num_looks])),
        whole_scene=float(np.mean(whole)),
        coarse_iou=float(np.mean(whole_iou)) if whole_iou else 0.0,
    )


def _terms(missed: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Write accuracy as a sum over sets of needles: a factor, and whether all of the set are missed: (looks, places).

    Each of k needles that is missed leaves as many answers as its sign could have made, so that the accuracy is the
    product of 1 - (1 - chance^(1/k)) * missed. In this form what several looks miss together is a product of theirs.
    """
    num_needles = missed.shape[2]
    lost = 1 - (1 / len(SHAPES)) ** (1 / num_needles)
    for size in range(num_needles + 1):
        for needles in itertools.combinations(range(num_needles), size):
            yield (-lost) ** size, missed[:, :, needles].all(2).astype(np.float32)


def _accuracies(missed: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the accuracy after each look: (looks,)."""
    return np.sum([factor * (term @ weights) for factor, term in _terms(missed)], axis=0)


def _best(missed: np.ndarray, weights: np.ndarray, num_looks: int) -> tuple[float, tuple[int, ...]]:
    """Find the highest accuracy after one look, or after two, and which looks they are.

    Args:
        missed: (looks, places, needles) bool.
        weights: (places,), probabilities of the places.
    """
    if num_looks == 1:
        one = _accuracies(missed, weights)
        return float(one.max()), (int(one.argmax()),)
    terms = list(_terms(missed))
    best: tuple[float, tuple[int, ...]] = (-1.0, ())
    for first in range(0, len(missed), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        two = sum(factor * ((term[rows] * weights.astype(np.float32)) @ term.T) for factor, term in terms)
        i, j = np.unravel_index(int(np.argmax(two)), np.shape(two))
        best = max(best, (float(two[i, j]), (first + int(i), int(j))), key=lambda found: found[0])
    return best


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
        all_bounds = [(kind, compute_bounds(kind, episode)) for kind in kinds_of(config)]
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    for kind, bounds in all_bounds:
        if config.mixture:
            print(f"{' '.join(difficulty(kind).values())}, ", end="")
        print_bounds(bounds, episode)
    return 0


def print_bounds(bounds: Bounds, episode: EpisodeConfig) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
