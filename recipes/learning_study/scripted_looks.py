# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a base model answers after looks that a script takes for it: what is left to learn is where to look.

    checkpoint -> new questions -> scripted looks, played by the environment -> sampled answers -> table

    python -m recipes.learning_study.scripted_looks --model DIR --frame-budget 22 --mixture

Beside each share is what a reader without fault would reach: right where the signs asked for are in view, and by
chance between the answers that are left where they are not.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_prep.synthetic import (
    NeedleConfig,
    add_config_arguments,
    config_from_arguments,
    difficulty,
    scene_bounds,
)
from recipes.learning_study.fast_policy import FastPolicy, picture_features
from recipes.learning_study.lessons import FRAME_BUDGET, Case, make_case, new_episode, overview_place
from recipes.learning_study.pictures import make_picture_book
from recipes.learning_study.transcript import Scribe, Transcript
from verl_videomtr.actions import Answer
from verl_videomtr.episode import Episode

Script = Callable[[int, int], Sequence[tuple[int, int]]]
SCRIPTS: dict[str, Script] = {
    "the single look at all of B": lambda first, end: (),
    "one over the whole scene asked about": lambda first, end: ((first, end - 1),),
    "one over each half of it": lambda first, end: ((first, (first + end) // 2 - 1), ((first + end) // 2, end - 1)),
}
"""Name -> the ranges to look at, of a scene from slot `first` up to but without slot `end`. Without any the episode
has one turn."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One question after its looks."""

    groups: frozenset[str]
    is_right: bool
    expected: float
    """What a reader without fault reaches."""


def play_script(
    model, processor, config: NeedleConfig, script: Script, *, num_cases: int, seed: int, frame_budget: int
) -> list[Answered]:
    """Take a script's looks in new questions, of a mixture any kinds of video, and sample one answer each.

    Args:
        frame_budget: B.
    """
    book = make_picture_book(config, processor.image_processor, seed=seed + 1)
    scribe = Scribe(processor.tokenizer)
    with torch.no_grad():
        policy = FastPolicy(model.eval(), picture_features(model, book))
    rng = random.Random(f"scripted looks/{seed}")
    # Drawn from the mixture itself: its thoughts have a word for each of two signs in every kind of video.
    cases = [make_case(config, rng) for _ in range(num_cases)]
    rooms = [_look(case, script, scribe, book, frame_budget) for case in cases]
    responses = policy.sample([transcript for _, transcript in rooms], generator=torch.Generator().manual_seed(seed))
    answered: list[Answered] = []
    for case, (episode, _), response in zip(cases, rooms, responses, strict=True):
        episode.step(processor.tokenizer.decode(response, skip_special_tokens=True))
        action = episode.turns[-1].action
        seen = case.shapes([slot for turn in episode.turns for slot in case.evidence(turn.observation.frames)])
        answered.append(
            Answered(
                groups=frozenset(difficulty(case.config).values()),
                is_right=isinstance(action, Answer) and action.text == case.answer,
                expected=1 / len(case.letters(seen)),
            )
        )
    return answered


def _look(case: Case, script: Script, scribe: Scribe, book, frame_budget: int) -> tuple[Episode, Transcript]:
    """Play the looks of a script, with thoughts that say what they show."""
    ranges = script(*scene_bounds(case.config, case.scene))
    episode = new_episode(case, case.config, 3 if ranges else 1, frame_budget=frame_budget)
    transcript = Transcript(scribe, case.layout, book)
    observation = episode.reset()
    place, sightings = overview_place(case, observation.frames), []
    for start, end in ranges:
        transcript.observe(observation)
        sightings += case.evidence(observation.frames)
        response = f"{case.think(place, case.shapes(sightings))}<retrieve>{start},{end}</retrieve>"
        transcript.respond(response)
        observation = episode.step(response)
    transcript.observe(observation)
    return episode, transcript


def table(results: dict[str, list[Answered]]) -> Iterator[str]:
    """One line per script, one column per group; in brackets what a reader without fault reaches."""
    known = {group for answers in results.values() for answer in answers for group in answer.groups}
    groups = [group for group in ("single", "multi", "short", "medium", "long") if group in known]
    yield f"| look | all | {' | '.join(groups)} |"
    yield "|" + "---|" * (len(groups) + 2)
    for name, answers in results.items():
        cells = []
        for group in ("", *groups):
            own = [answer for answer in answers if not group or group in answer.groups]
            share, expected = (statistics.fmean(v) for v in ([a.is_right for a in own], [a.expected for a in own]))
            cells.append(f"{share:.2f} ({expected:.2f})")
        yield f"| {name} | {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder of the base model")
    parser.add_argument("--num-cases", type=int, default=384, help="questions (default: %(default)s)")
    parser.add_argument(
        "--frame-budget", type=int, default=FRAME_BUDGET, help="frames of an episode (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the questions and the sampling (default: %(default)s)")
    add_config_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.num_cases < 1:
        parser.exit(2, f"--num-cases={arguments.num_cases}; expected at least 1\n")
    try:
        config = config_from_arguments(arguments)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    processor = AutoProcessor.from_pretrained(arguments.model)
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=torch.float32)
    options = {"num_cases": arguments.num_cases, "seed": arguments.seed, "frame_budget": arguments.frame_budget}
    results = {name: play_script(model, processor, config, script, **options) for name, script in SCRIPTS.items()}
    print("\n".join(table(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
