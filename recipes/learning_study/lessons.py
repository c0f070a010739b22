# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Demonstrations that teach the tiny model sight and manners: scripted episodes with a label for every policy token.

    layout + script -> Episode, played with scripted responses -> token ids, pictures, labels

A thought repeats the colour asked about, names its place and what was seen there: `<think> red54 nothing</think>` has
the overview frame of the red part, before its sign was seen, `<think> red54 dot</think>` after. Each look-up follows
from the last, which is what lets a model of four layers learn them in minutes. An answer is the letter of the shape
that was seen, or any letter. Where a part may hold two signs, thoughts have a word for each pair of shapes that exclude
each other (SHAPE_PAIRS): `<think> red54 dot nothing</think>`; after one sign of two, two letters are left.

When to retrieve is not taught: wherever both actions are allowed, the label is the same soft one (`Habits.rate`),
whatever has been seen. Looks in the right and in the wrong place, in either order, and unusable messages come from the
script and carry no label.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from data_prep.synthetic import (
    SHAPE_PAIRS,
    SHAPES,
    Layout,
    NeedleConfig,
    kinds_of,
    make_layout,
    make_questions,
    scene_bounds,
)
from recipes.learning_study.pictures import PictureBook
from recipes.learning_study.tiny_model import NOTHING
from recipes.learning_study.transcript import Scribe, Transcript
from verl_videomtr.episode import Episode, EpisodeConfig
from verl_videomtr.prompts import Prompts

LETTERS = "ABCD"
FRAME_BUDGET = 16
"""B of an episode where nothing else is said; what the overview leaves is shared by the looks."""

THOUGHT_KINDS = ("manner", "colour", "place", "sign", "sign")
"""What a thought's tokens say, by their offset in the response, as far as the thought goes."""
SEEN_WEIGHT = 3.0
"""Weight of naming a sign that was seen: to say `nothing` is the easier half."""
RANGE_WEIGHT = 3.0
"""Weight of a range's index: ranges are rarer than thoughts."""
BOTH_SHARE = 0.5
"""Looks of the script that are to show both signs of two at once."""
TRIM_SHARE = 3
"""An aimed range begins and ends within the first and the last of this many parts of the scene."""
MAX_BLIND_SPAN = 32
CUT_SHORT = ("<think>", "{thought}", "{thought}<retrieve>{place}")
UNUSABLE = (
    "{thought}<retrieve>{place},</retrieve>",
    "{thought}<retrieve>128,{place}</retrieve>",
    "{thought}<answer></answer>",
    "<answer>{letter}</answer>",
    "{thought}<answer>{letter}</answer><answer>{letter}</answer>",
    *CUT_SHORT,
)
"""Responses that an episode answers with an error; the last ones as if cut at the length limit."""


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What the base model does of its own accord, before any reinforcement."""

    rate: float = 0.03
    """Probability of a retrieval wherever one is allowed, seen or not seen."""
    aim: float = 0.3
    """Share of its retrievals that are aimed at the part that the question names; the others fall anywhere."""

    def __post_init__(self) -> None:
        for name in ("rate", "aim"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected a probability")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question about one layout."""

    config: NeedleConfig
    """The task; of a mixture, that of this video."""
    layout: Layout
    question: str
    """With its options, as the prompt holds it."""
    answer: str
    """The letter."""
    options: tuple[str, ...]
    colour: str
    scene: int
    truth: frozenset[int]
    """Slots of the needles asked for."""
    signs: tuple[tuple[str, ...], ...]
    """What each of a thought's words for signs may name beside NOTHING."""

    def evidence(self, frames: tuple[int, ...]) -> list[int]:
        """List those of `frames` that show a needle asked for."""
        return [frame for frame in frames if frame in self.truth]

    def shapes(self, frames: list[int]) -> frozenset[str]:
        """Name what the signs in `frames` show."""
        return frozenset(shape for frame in frames if (shape := self.layout.pictures[frame][1]) is not None)

    def letters(self, seen: frozenset[str]) -> list[str]:
        """List the letters whose options have every shape that was seen: one where nothing is missing."""
        return [letter for letter, option in zip(LETTERS, self.options, strict=True) if seen <= set(option.split())]

    def think(self, place: int, seen: frozenset[str]) -> str:
        """Write a thought about what was seen so far."""
        named = (next((shape for shape in shapes if shape in seen), NOTHING) for shapes in self.signs)
        return f"<think> {self.colour}{place} {' '.join(named)}</think>"


@dataclass
class Lesson:
    """A conversation with labels."""

    transcript: Transcript
    labels: list[tuple[int, int, float, str]] = field(default_factory=list)
    """(position of the labelled token, label id, weight, kind); several rows of one position are a soft label.
    The kinds are `colour`, `place` (of a first thought), `place again`, `sign`, `sign seen`, `letter`, `range` and
    `manner`."""


def make_case(config: NeedleConfig, rng: random.Random, *, num_needles: int | None = None) -> Case:
    """Draw a layout and one question about it.

    Args:
        num_needles: how many needles the question is about; None: as many as the task has, any of a mixture's.
    """
    signs = SHAPE_PAIRS if config.mixture or config.needles_per_scene > 1 else (SHAPES,)
    if config.mixture:
        config = rng.choice([kind for kind in kinds_of(config) if num_needles in (None, kind.needles_per_scene)])
    layout = make_layout(config, rng)
    fields = next(make_questions(layout, config, rng))
    scene = fields["metadata"]["scene"]
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, fields["options"], strict=True)]
    return Case(
        config=config,
        layout=layout,
        question="\n".join([fields["question"], *lines]),
        answer=fields["answer"],
        options=fields["options"],
        colour=layout.colours[scene],
        scene=scene,
        truth=frozenset(slot for needle in layout.needles[scene] for slot in needle.slots),
        signs=signs,
    )


def new_episode(case: Case, config: NeedleConfig, max_turns: int, *, frame_budget: int = FRAME_BUDGET) -> Episode:
    """Open the episode that the agent loop would play on this case."""
    return Episode(
        config=EpisodeConfig(
            pool_size=config.pool_size,
            frame_budget=frame_budget,
            max_turns=max_turns,
            initial_frames=None if max_turns == 1 else config.overview_frames,
        ),
        prompts=Prompts.load("tiny"),
        question=case.question,
        times_seconds=[slot + 0.5 for slot in range(config.pool_size)],
        duration_seconds=float(config.pool_size),
        segments=[(needle.start, needle.slots.stop) for needle in case.layout.needles[case.scene]],
    )


class Teacher:
    """Makes lessons.

    Args:
        config: the task.
        habits: the soft labels.
        scribe: text to ids.
        book: the pictures.
        frame_budget: B of the scripted episodes.
    """

    def __init__(
        self,
        config: NeedleConfig,
        habits: Habits,
        scribe: Scribe,
        book: PictureBook,
        *,
        frame_budget: int = FRAME_BUDGET,
    ) -> None:
        self.config = config
        self.habits = habits
        self.scribe = scribe
        self.book = book
        self.frame_budget = frame_budget

    def lesson(self, rng: random.Random, *, max_turns: int, num_detours: int) -> Lesson:
        """Script one episode: `num_detours` looks or unusable messages, then an answer."""
        case = make_case(self.config, rng)
        episode = new_episode(case, self.config, max_turns, frame_budget=self.frame_budget)
        lesson = Lesson(transcript=Transcript(self.scribe, case.layout, self.book))
        observation = episode.reset()
        assert observation is not None
        place, sightings = overview_place(case, observation.frames), []
        for turn in range(num_detours + 1):
            # The newest first: a look that follows a sign goes where it was seen last.
            sightings = case.evidence(observation.frames) + sightings
            letters = case.letters(case.shapes(sightings))
            lesson.transcript.observe(observation)
            thought = case.think(place, case.shapes(sightings))
            last = turn == max_turns - 1
            if turn == num_detours:
                letter = letters[0] if len(letters) == 1 else rng.choice(letters)
                response = f"{thought}<answer>{letter}</answer>"
                self._label(lesson, response, free_choice=not last, letters=letters)
            else:
                response, labelled = self._detour(rng, case, place, sightings, thought)
                self._label(
                    lesson,
                    response,
                    free_choice=True,
                    usable=labelled is not None,
                    range_labelled=labelled,
                )
            observation = episode.step(response)
            if observation is None:
                break
        return lesson

    def _detour(
        self, rng: random.Random, case: Case, place: int, sightings: list[int], thought: str
    ) -> tuple[str, bool | None]:
        """Script a response that is not an answer.

        Returns:
            The response, and whether its range is labelled; None for an unusable one, which has no labels at all.
        """
        kind = rng.choices(("habit", "right", "wrong", "unusable"), (4, 4, 3, 1))[0]
        if kind == "unusable":
            template = rng.choice(UNUSABLE)
            return template.format(thought=thought, place=place, letter=rng.choice(LETTERS)), None
        if kind == "habit":
            start, end = self.habit_range(rng, case, sightings)
        elif kind == "right":
            start, end = self._right_range(rng, case, case.shapes(sightings))
        else:
            wrong = rng.choice([scene for scene in range(case.config.num_scenes) if scene != case.scene])
            needle = case.layout.needles[wrong]
            middle = needle[0].start if needle else scene_bounds(case.config, wrong)[0]
            start, end = aimed_at(rng, middle, self.config.pool_size)
        return f"{thought}<retrieve>{start},{end}</retrieve>", kind == "habit"

    def _right_range(self, rng: random.Random, case: Case, seen: frozenset[str]) -> tuple[int, int]:
        """Draw a range around a needle asked for: of two, one that is still unseen, or from the first to the last."""
        needles = case.layout.needles[case.scene]
        if len(needles) > 1 and rng.random() < BOTH_SHARE:
            return min(case.truth), max(case.truth)
        unseen = [needle for needle in needles if needle.shape not in seen] if len(needles) > 1 else needles
        slots = [slot for needle in unseen or needles for slot in needle.slots]
        return aimed_at(rng, rng.choice(slots), self.config.pool_size)

    def habit_range(self, rng: random.Random, case: Case, sightings: list[int]) -> tuple[int, int]:
        """Draw a range as the base model should choose it."""
        if rng.random() >= self.habits.aim:
            start = rng.randrange(self.config.pool_size)
            return start, min(self.config.pool_size - 1, start + rng.randrange(MAX_BLIND_SPAN))
        if len(case.letters(case.shapes(sightings))) == 1:
            near = sightings[0]
            return max(0, near - rng.randrange(3)), min(self.config.pool_size - 1, near + rng.randrange(3))
        first, end = scene_bounds(case.config, case.scene)
        trim = max(1, (end - first) // TRIM_SHARE)
        return first + rng.randrange(trim), end - 1 - rng.randrange(trim)

    def _label(
        self,
        lesson: Lesson,
        response: str,
        *,
        free_choice: bool,
        usable: bool = True,
        range_labelled: bool | None = False,
        letters: Sequence[str] = (),
    ) -> None:
        """Append a response and its labels.

        Args:
            letters: those that an answer may give, as far as is known.
        """
        first_thought = not lesson.transcript.num_responses
        start = lesson.transcript.respond(response)
        if not usable:
            return
        encode = self.scribe.encode
        (answer,), (retrieve,), (nothing,) = (encode(text) for text in ("<answer>", "<retrieve>", f" {NOTHING}"))
        ids = lesson.transcript.ids[start:]
        decision = ids.index(encode("</think>")[0]) + 1
        for offset, token in enumerate(ids):
            position = start + offset
            if offset == decision and free_choice:
                lesson.labels += [
                    (position, answer, 1 - self.habits.rate, "manner"),
                    (position, retrieve, self.habits.rate, "manner"),
                ]
            elif offset > decision and ids[offset - 1] == answer:
                if len(letters) == 1:
                    lesson.labels.append((position, token, 2.0, "letter"))
                else:
                    lesson.labels += [(position, encode(letter)[0], 1 / len(letters), "manner") for letter in letters]
            elif ids[decision] == retrieve and offset in (decision + 1, decision + 3):
                if range_labelled:
                    lesson.labels.append((position, token, RANGE_WEIGHT, "range"))
            elif 0 < offset < decision - 1:
                kind = THOUGHT_KINDS[offset]
                if kind == "sign" and token != nothing:
                    lesson.labels.append((position, token, SEEN_WEIGHT, "sign seen"))
                elif kind == "place" and not first_thought:
                    lesson.labels.append((position, token, 1.0, "place again"))
                else:
                    lesson.labels.append((position, token, 2.0, kind))
            else:
                lesson.labels.append((position, token, 1.0, "manner"))


def overview_place(case: Case, frames: tuple[int, ...]) -> int:
    """Return the first frame of the overview that shows the part asked about."""
    return next(frame for frame in frames if case.layout.pictures[frame][0] == case.colour)


def aimed_at(rng: random.Random, frame: int, pool_size: int) -> tuple[int, int]:
    """Draw a short range, often of at most four frames, around a frame."""
    span = rng.choice((1, 2, 3, 4, 4, 4, 8, 16))
    start = max(0, frame - rng.randrange(span))
    return start, min(pool_size - 1, start + span - 1)
