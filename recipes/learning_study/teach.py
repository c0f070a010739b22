# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Teach the tiny model to see, to read, to name places and to keep the format: the stand-in for a pre-trained MLLM.

    untaught model -> eyes (vision encoder alone) -> lessons (scripted episodes) -> examination -> checkpoint

A model that does not pass (`examine.MARKS`, sampled at temperature 1 as in the rollouts) gets further rounds of
lessons; one that has not passed after the last is not saved, and the command ends with exit code 1.

Four base models come of it, alike but for their habits (`lessons.Habits`) and what their episodes are like:

- `study` answers at once: it retrieves in about 2% of the turns, whatever it has seen;
- `mixture` is like it, and reads one sign and two;
- `demo` retrieves in a quarter of the turns, half of them where the question points: few steps of training show;
- `gate` retrieves in a tenth of the turns, of which it has five.

    python -m recipes.learning_study.teach --base study --out DIR --seed 0

A folder that was made with the same settings is kept. Stopped runs leave nothing behind.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from data_prep import synthetic
from data_prep.synthetic import NeedleConfig, add_config_arguments, config_from_arguments
from recipes.learning_study.examine import examine, reached, shortfalls
from recipes.learning_study.fast_policy import FastPolicy, picture_features
from recipes.learning_study.lessons import FRAME_BUDGET, Habits, Lesson, Teacher
from recipes.learning_study.pictures import PictureBook, make_picture_book
from recipes.learning_study.tiny_model import NOTHING, PICTURE_TOKEN, make_model, make_processor, save_checkpoint
from recipes.learning_study.transcript import Scribe
from verl_videomtr.prompts import Prompts

PRACTICE_RATE = 0.3
"""Retrieval rate of all lessons but the last: a model that hardly ever sees the action would not learn when it is
allowed, and reinforcement of it would spill onto last turns, where it is invalid."""
REPORT_EVERY = 20
TEACHING_MODULES = ("examine", "fast_policy", "lessons", "pictures", "teach", "tiny_model", "transcript")


class NotPassedError(RuntimeError):
    """A model that reinforcement would erode rather than improve."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
    """How long each part of the teaching lasts, and how fast it goes."""

    eye_steps: int = 100
    steps: int = 180
    settling_share: float = 0.25
    """Of these, the last ones, whose lessons have the base's own retrieval rate; the others have PRACTICE_RATE."""
    batch_size: int = 40
    eye_lr: float = 2e-3
    lr: float = 2e-3
    warmup_steps: int = 40
    frame_budget: int = FRAME_BUDGET
    """B of the lessons' episodes."""
    max_turns: int = 3
    """K_max of most of them."""
    exam_cases: int = 128
    """Cases of each situation of the examination; 0: none is held."""
    max_rounds: int = 4
    """Further rounds for a model that has not passed."""
    round_steps: int = 60
    round_lr: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("eye_steps", "steps", "batch_size", "warmup_steps", "round_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected at least 1")
        if not 0 <= self.settling_share <= 1:
            raise ValueError(f"settling_share={self.settling_share}; expected 0 to 1")
        if self.max_turns < 3:
            raise ValueError(f"max_turns={self.max_turns}; expected at least 3: the examination looks twice")

    @property
    def plans(self) -> tuple[tuple[int, int, int], ...]:
        """(K_max, looks or unusable messages before the answer, weight) of a batch of lessons."""
        return ((self.max_turns, self.max_turns - 1, 6), (self.max_turns, 1, 2), (2, 1, 2), (1, 0, 2))


BASES = {
    "study": (Habits(rate=0.02, aim=0.4), Course(steps=400, frame_budget=22)),
    "demo": (Habits(rate=0.25, aim=0.5), Course(steps=200, frame_budget=22)),
    "mixture": (Habits(rate=0.02, aim=0.4), Course(steps=400, frame_budget=22)),
    "gate": (Habits(rate=0.1, aim=0.5), Course(steps=240, frame_budget=24, max_turns=5)),
}


def open_eyes(model: Qwen2_5_VLForConditionalGeneration, tokenizer, book: PictureBook, course: Course) -> float:
    """Train the vision encoder until a picture's feature is the sum of its words' embeddings and of PICTURE_TOKEN's.

    So the language model meets pictures in a language that it knows, as behind a pre-trained projector.

    Returns:
        The mean squared error left, as a share of the targets' mean square.
    """
    words = model.get_input_embeddings().weight.detach()

    def embed(token: str) -> torch.Tensor:
        return words[tokenizer.convert_tokens_to_ids(token)]

    picture = embed(PICTURE_TOKEN)
    targets = torch.stack(
        [embed(f" {colour}") + embed(f" {shape or NOTHING}") + picture for colour, shape in book.keys]
    )
    optimizer, scheduler = _optimizer(model.model.visual, course.eye_lr, course.eye_steps, course.warmup_steps)
    error = torch.tensor(0.0)
    for step in range(course.eye_steps):
        variant = step % book.num_variants
        single = PictureBook(keys=book.keys, pixel_values=book.pixel_values[:, variant : variant + 1])
        error = (picture_features(model, single)[:, 0] - targets).square().mean()
        _step(model.model.visual, error, optimizer, scheduler)
    return float(error.detach() / targets.square().mean())


def train_on(
    model: Qwen2_5_VLForConditionalGeneration,
    book: PictureBook,
    draw: Callable[[int], list[Lesson]],
    *,
    course: Course,
    report: Callable[[str], None],
) -> None:
    """Train the language model on lessons; the vision encoder stays as it is.

    Args:
        draw: makes the lessons of a step, given its number.
        report: takes a line now and then: how often the likeliest token was the label, by kind of label.
    """
    with torch.no_grad():
        features = picture_features(model, book)
    language = torch.nn.ModuleList([model.model.language_model, model.lm_head])
    optimizer, scheduler = _optimizer(language, course.lr, course.steps, course.warmup_steps)
    started = time.monotonic()
    hits: dict[str, list[bool]] = {}
    for step in range(1, course.steps + 1):
        lessons = draw(step)
        labels = [(row, *label) for row, lesson in enumerate(lessons) for label in lesson.labels]
        rows, positions, tokens = (torch.tensor([label[i] for label in labels]) for i in range(3))
        weights = torch.tensor([label[3] for label in labels])
        policy = FastPolicy(model, features, variant=step % book.num_variants)
        log_probs = policy.label_log_probs([lesson.transcript for lesson in lessons], rows, positions)
        loss = -(log_probs[torch.arange(len(labels)), tokens] * weights).sum() / weights.sum()
        _step(language, loss, optimizer, scheduler)
        for hit, label in zip((log_probs.argmax(-1) == tokens).tolist(), labels, strict=True):
            hits.setdefault(label[4], []).append(hit)
        if step % REPORT_EVERY == 0 or step == course.steps:
            shares = " ".join(f"{kind} {sum(hits[kind]) / len(hits[kind]):.2f}" for kind in sorted(hits))
            report(f"step {step}: loss {loss.item():.3f}; right: {shares}; {time.monotonic() - started:.0f} s")
            hits = {}


def teach(
    config: NeedleConfig, habits: Habits, course: Course, *, seed: int, report: Callable[[str], None] = print
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """Make and teach a base model; the same arguments give the same weights on the same machine.

    Raises:
        NotPassedError: it reads or answers too badly after all its lessons.
    """
    processor = make_processor()
    model = make_model(processor.tokenizer, seed=seed)
    book = make_picture_book(config, processor.image_processor, seed=seed)
    scribe = Scribe(processor.tokenizer)
    practice, settling = (
        Teacher(config, dataclasses.replace(habits, rate=rate), scribe, book, frame_budget=course.frame_budget)
        for rate in (max(PRACTICE_RATE, habits.rate), habits.rate)
    )
    rng = random.Random(f"{seed}/lessons")
    report(f"eyes: error {open_eyes(model, processor.tokenizer, book, course):.4f}")

    def draw(step: int) -> list[Lesson]:
        teacher = practice if step <= (1 - course.settling_share) * course.steps else settling
        max_turns, num_detours, _ = rng.choices(course.plans, [plan[2] for plan in course.plans])[0]
        return [teacher.lesson(rng, max_turns=max_turns, num_detours=num_detours) for _ in range(course.batch_size)]

    train_on(model, book, draw, course=course, report=report)
    if course.exam_cases:
        further = dataclasses.replace(course, steps=course.round_steps, lr=course.round_lr)
        for number in range(course.max_rounds + 1):
            table = examine(
                model,
                processor,
                config,
                num_cases=course.exam_cases,
                seed=seed,
                frame_budget=course.frame_budget,
                max_turns=course.max_turns,
            )
            missed = shortfalls(table)
            report(f"examination: {'not yet: ' if missed else 'passed: '}{'; '.join(missed or reached(table))}")
            if not missed:
                return model, processor
            if number < course.max_rounds:
                train_on(model, book, lambda step: draw(course.steps + step), course=further, report=report)
        raise NotPassedError(
            f"the base model does not pass its examination after {course.steps} steps of lessons and "
            f"{course.max_rounds} rounds of {course.round_steps}: {'; '.join(missed)}; expected every mark; teach it "
            "longer (--steps, --max-rounds) or from another --seed"
        )
    return model, processor


def sources_digest() -> str:
    """Hash what decides the result beside the settings: the modules that teach, the task and the prompts."""
    files = [Path(__file__).with_name(f"{name}.py") for name in TEACHING_MODULES] + [Path(synthetic.__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files))
    digest.update(json.dumps(Prompts.load("tiny").templates, sort_keys=True).encode())
    return digest.hexdigest()


def _optimizer(
    module: torch.nn.Module, lr: float, num_steps: int, warmup_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.0, betas=(0.9, 0.95))

    def scale(step: int) -> float:
        return min(1.0, (step + 1) / warmup_steps) * max(0.03, 1 - step / num_steps)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, scale)


def _step(
    module: torch.nn.Module,
    loss: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    scheduler.step()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=BASES, required=True, help="which base model")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to make")
    parser.add_argument("--seed", type=int, default=0, help="of weights and lessons (default: %(default)s)")
    parser.add_argument("--rate", type=float, help="retrieval rate instead of the base's own")
    parser.add_argument("--aim", type=float, help="share of aimed retrievals instead of the base's own")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    for field in dataclasses.fields(Course):
        name = field.name.replace("_", "-")
        parser.add_argument(
            f"--{name}", type=type(field.default), help=f"{name} of the lessons instead of the base's own"
        )
    add_config_arguments(parser)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)

    def replaced(value):
        names = [field.name for field in dataclasses.fields(value)]
        given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
        return dataclasses.replace(value, **given)

    try:
        habits, course = (replaced(value) for value in BASES[arguments.base])
        config = config_from_arguments(arguments)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    settings = {
        "needle": dataclasses.asdict(config),
        "habits": dataclasses.asdict(habits),
        "course": dataclasses.asdict(course),
        "seed": arguments.seed,
        "sources": sources_digest(),
    }
    record = arguments.out / "settings.json"
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) == settings:
        print(f"kept {arguments.out}")
        return 0
    started = time.monotonic()
    try:
        model, processor = teach(
            config, habits, course, seed=arguments.seed, report=lambda line: print(line, flush=True)
        )
    except NotPassedError as error:
        parser.exit(1, f"{error}\n")
    save_checkpoint(arguments.out, model, processor, settings)
    print(f"made {arguments.out} in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
