# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Examine a tiny base model before any reinforcement: what it reads, what it does of its own accord, and its format.

    checkpoint -> held-out layouts, scripted contexts -> sampled responses -> table

    python -m recipes.learning_study.examine --model DIR

Responses are sampled at temperature 1, as in the rollouts, and played by the environment's own `Episode`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_prep.synthetic import NeedleConfig, add_config_arguments, config_from_arguments, kinds_of, scene_bounds
from recipes.learning_study.fast_policy import FastPolicy, picture_features
from recipes.learning_study.lessons import FRAME_BUDGET, Case, aimed_at, make_case, new_episode, overview_place
from recipes.learning_study.pictures import PictureBook, make_picture_book
from recipes.learning_study.transcript import Scribe, Transcript
from verl_videomtr.actions import Answer, Invalid, Retrieve
from verl_videomtr.episode import Episode

HELD_OUT_SEED = "held out"
"""Layouts of the examination come from a stream of their own."""
EXAM_TURNS = 3
"""K_max of most situations."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """A context to put the model in."""

    name: str
    max_turns: int
    script: tuple[str, ...] = ()
    """Turns before the response: looks at the needle asked for ("right"), of two at the "other" or at "both" at once,
    "wrong" looks, and "unusable" messages."""
    force_retrieve: bool = False
    num_needles: int = 1
    """How many needles the question is about."""

    def with_turns(self, max_turns: int) -> Situation:
        """The same in episodes of another K_max, where its own is EXAM_TURNS; a last turn stays one."""
        if self.max_turns != EXAM_TURNS:
            return self
        wrong = ("wrong",) * (max_turns - EXAM_TURNS) if len(self.script) == EXAM_TURNS - 1 else ()
        return dataclasses.replace(self, max_turns=max_turns, script=(*wrong, *self.script))


SITUATIONS = (
    Situation(name="overview", max_turns=3),
    Situation(name="overview, retrieval forced", max_turns=3, force_retrieve=True),
    Situation(name="right look, retrieval forced", max_turns=3, script=("right",), force_retrieve=True),
    Situation(name="wrong look", max_turns=3, script=("wrong",)),
    Situation(name="right look", max_turns=3, script=("right",)),
    Situation(name="right then wrong, last turn", max_turns=3, script=("right", "wrong")),
    Situation(name="wrong then right, last turn", max_turns=3, script=("wrong", "right")),
    Situation(name="wrong then wrong, last turn", max_turns=3, script=("wrong", "wrong")),
    Situation(name="right look, K_max 2, last turn", max_turns=2, script=("right",)),
    Situation(name="error then right, last turn", max_turns=3, script=("unusable", "right")),
    Situation(name="two errors, last turn", max_turns=3, script=("unusable", "unusable")),
    Situation(name="all frames at once, K_max 1", max_turns=1),
    Situation(name="one of two signs, last turn", max_turns=3, script=("right", "wrong"), num_needles=2),
    Situation(name="two signs one by one, last turn", max_turns=3, script=("right", "other"), num_needles=2),
    Situation(name="two signs at once then wrong, last turn", max_turns=3, script=("both", "wrong"), num_needles=2),
    Situation(name="two signs, all frames at once, K_max 1", max_turns=1, num_needles=2),
)

COLUMNS = {
    "format ok": "responses that the environment accepts",
    "retrieves": "accepted responses that are retrievals",
    "acc": "answers that are right",
    "acc seen": "answers that are right, where every needle asked for is in view",
    "acc unseen": "answers that are right, where one is not",
    "place ok": "thoughts that name the overview frame of the part asked about",
    "sign ok": "thoughts that name the right shapes, or `nothing` for a needle that is not in view",
    "aimed": "retrievals that touch the scene asked about",
    "hits": "retrievals that return the needle",
}

MARKS = (
    ("overview", "format ok", 0.93),
    ("overview", "place ok", 0.97),
    ("overview, retrieval forced", "format ok", 0.85),
    ("right look", "acc seen", 0.95),
    ("right then wrong, last turn", "format ok", 0.97),
    ("right then wrong, last turn", "acc seen", 0.95),
    ("wrong then right, last turn", "acc seen", 0.95),
    ("wrong then wrong, last turn", "format ok", 0.97),
    ("wrong then wrong, last turn", "place ok", 0.97),
    ("one of two signs, last turn", "sign ok", 0.95),
    ("two signs one by one, last turn", "acc seen", 0.95),
    ("two signs at once then wrong, last turn", "acc seen", 0.95),
    ("two signs, all frames at once, K_max 1", "sign ok", 0.95),
)
"""(situation, column, least) that a base must reach: reinforcement at temperature 1 erodes what is not yet sure. What a
task does not have, such as two signs, is not asked.
Ranges that run backwards cost it some of its valid responses where it may retrieve; those the reward corrects."""


def reached(table: dict[str, dict[str, float]]) -> list[str]:
    """Name each mark with what a base reached."""
    return [f"{situation}: {column} {share:.2f}" for situation, column, share, _ in _held(table)]


def shortfalls(table: dict[str, dict[str, float]]) -> list[str]:
    """Name each mark that a base misses, with what it reached; nothing where it passes."""
    return [
        f"{situation}: {column} {share:.2f} of {least:.2f}"
        for situation, column, share, least in _held(table)
        if share < least
    ]


def _held(table: dict[str, dict[str, float]]) -> list[tuple[str, str, float, float]]:
    return [
        (situation, column, table[situation].get(column, 0.0), least)
        for situation, column, least in MARKS
        if situation in table
    ]


def examine(
    model,
    processor,
    config: NeedleConfig,
    *,
    num_cases: int,
    seed: int = 0,
    frame_budget: int = FRAME_BUDGET,
    max_turns: int = EXAM_TURNS,
) -> dict[str, dict[str, float]]:
    """Measure every situation: situation -> column -> share; a share of nothing is left out.

    Args:
        max_turns: K_max; where it is larger than EXAM_TURNS, wrong looks come before those of a last turn.
    """
    book = make_picture_book(config, processor.image_processor, seed=seed + 1)
    scribe = Scribe(processor.tokenizer)
    with torch.no_grad():
        policy = FastPolicy(model.eval(), picture_features(model, book))
    table = {}
    known = {kind.needles_per_scene for kind in kinds_of(config)}
    for situation in (situation for situation in SITUATIONS if situation.num_needles in known):
        rng = random.Random(f"{HELD_OUT_SEED}/{seed}/{situation.name}")
        longer = situation.with_turns(max_turns)
        rooms = [enter(longer, config, scribe, book, rng, frame_budget) for _ in range(num_cases)]
        thought = scribe.encode(rooms[0][0].think(0, frozenset()))
        forced = {len(thought): scribe.encode("<retrieve>")[0]} if situation.force_retrieve else None
        generator = torch.Generator().manual_seed(seed)
        responses = policy.sample([room[2] for room in rooms], generator=generator, forced=forced)
        texts = [processor.tokenizer.decode(response, skip_special_tokens=True) for response in responses]
        table[situation.name] = _shares(
            [_marks(case, episode, text) for (case, episode, _), text in zip(rooms, texts, strict=True)]
        )
    return table


def enter(
    situation: Situation,
    config: NeedleConfig,
    scribe: Scribe,
    book: PictureBook,
    rng: random.Random,
    frame_budget: int,
) -> tuple[Case, Episode, Transcript]:
    """Play the script of a situation on a new case."""
    case = make_case(config, rng, num_needles=situation.num_needles)
    episode = new_episode(case, config, situation.max_turns, frame_budget=frame_budget)
    transcript = Transcript(scribe, case.layout, book)
    observation = episode.reset()
    place, sightings = overview_place(case, observation.frames), []
    for step in situation.script:
        transcript.observe(observation)
        sightings += case.evidence(observation.frames)
        thought = case.think(place, case.shapes(sightings))
        if step == "unusable":
            response = f"{thought}<answer></answer>"
        else:
            start, end = _look(step, case, rng, episode.config.frames_per_retrieval)
            response = f"{thought}<retrieve>{start},{end}</retrieve>"
        transcript.respond(response)
        observation = episode.step(response)
    transcript.observe(observation)
    return case, episode, transcript


def _look(step: str, case: Case, rng: random.Random, most: int) -> tuple[int, int]:
    """Draw a range that shows what a step is to show; but for both signs at once it has at most `most` frames."""
    if step == "both":
        return min(case.truth), max(case.truth)
    wrong = rng.choice([scene for scene in range(case.config.num_scenes) if scene != case.scene])
    needles = case.layout.needles[wrong if step == "wrong" else case.scene]
    target = needles[1 if step == "other" else 0].slots
    while True:
        start, end = aimed_at(rng, target.start, case.config.pool_size)
        if end - start < most and set(range(start, end + 1)) & set(target):
            return start, end


def _marks(case: Case, episode: Episode, text: str) -> dict[str, bool]:
    """Let the environment judge one response; return the columns that it counts in."""
    episode.step(text)
    views = [turn.observation.frames for turn in episode.turns]
    seen = case.shapes([frame for view in views for frame in case.evidence(view)])
    thought = case.think(overview_place(case, views[0]), seen).removesuffix("</think>").split()
    action = episode.turns[-1].action
    marks = {
        "format ok": not isinstance(action, Invalid),
        "place ok": text.startswith(" ".join(thought[:2]) + " "),
        "sign ok": f" {' '.join(thought[2:])}</think>" in text,
    }
    if not isinstance(action, Invalid):
        marks["retrieves"] = isinstance(action, Retrieve)
    if isinstance(action, Answer):
        known = len(case.letters(seen)) == 1
        marks["acc"] = marks["acc seen" if known else "acc unseen"] = action.text == case.answer
    if isinstance(action, Retrieve):
        first, end = scene_bounds(case.config, case.scene)
        marks["aimed"] = action.start < end and action.end >= first
        marks["hits"] = bool(set(episode.turns[-1].returned) & case.truth)
    return marks


def _shares(all_marks: list[dict[str, bool]]) -> dict[str, float]:
    return {
        column: sum(values) / len(values)
        for column in COLUMNS
        if (values := [marks[column] for marks in all_marks if column in marks])
    }


def print_table(table: dict[str, dict[str, float]], write: Callable[[str], None] = print) -> None:
    """Print shares in per cent, one line per situation."""
    width = max(map(len, table))
    write(" " * width + "".join(f"{column:>12}" for column in COLUMNS))
    for name, shares in table.items():
        cells = "".join(f"{100 * shares[c]:11.1f}%" if c in shares else f"{'-':>12}" for c in COLUMNS)
        write(f"{name:<{width}}{cells}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder of the base model")
    parser.add_argument("--num-cases", type=int, default=256, help="cases of each situation (default: %(default)s)")
    parser.add_argument(
        "--frame-budget", type=int, default=FRAME_BUDGET, help="frames of an episode (default: %(default)s)"
    )
    parser.add_argument("--max-turns", type=int, default=EXAM_TURNS, help="turns of an episode (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the cases and the sampling (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the table here")
    add_config_arguments(parser)
    arguments = parser.parse_args(argv)
    processor = AutoProcessor.from_pretrained(arguments.model)
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=torch.float32)
    config = config_from_arguments(arguments)
    table = examine(
        model,
        processor,
        config,
        num_cases=arguments.num_cases,
        seed=arguments.seed,
        frame_budget=arguments.frame_budget,
        max_turns=arguments.max_turns,
    )
    print_table(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
