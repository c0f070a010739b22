# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Needles in video: real mp4 files in which the frame that decides a question lies where an overview does not look.

    settings + seed -> layouts -> mp4 files (H.264) and parquet rows -> Sample.from_row

A video is a row of scenes, each with a background colour of its own, in a random order. Inside a scene a sign with a
shape stands for a few pool frames: the needle. A question names a colour and asks for the shape. Every scene is seen
in the uniform overview, no needle is; so one look answers at chance, and only a second look in the scene that the
question names can do better. The other scenes hold needles too: what is seen must be the needle asked for.

Time is counted in slots: slot i is the stretch of the video whose middle is pool frame i, so a needle of two slots is
two pool frames of a pool of `pool_size`.

    python -m data_prep.synthetic --out DIR --num-train 1200 --num-val 64 --num-test 256 --seed 0
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from verl_videomtr.episode import spread
from verl_videomtr.sample import Sample, write_rows

DATA_SOURCE = "synthetic_needle"

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 35),
    "green": (35, 160, 55),
    "blue": (45, 65, 215),
    "yellow": (225, 210, 45),
    "cyan": (45, 200, 210),
    "pink": (215, 70, 195),
    "white": (230, 230, 230),
    "black": (20, 20, 20),
}
"""Scene backgrounds: far apart after 4:2:0, where chroma has half the resolution."""

SHAPES = ("square", "dot", "bars", "cross")
"""What a sign can show: white on a black board, so the background does not matter."""

STRANGE_SHAPES = ("ring", "stairs", "corner")
"""What a sign can show that no option names: evidence that can be found, and not read."""

PHRASINGS = (
    "Which shape in the {colour} part?",
    "What is shown in the {colour} part?",
    "In the {colour} part, which shape is shown?",
)
PAIR_PHRASING = "Which two shapes in the {colour} part?"
SHAPE_PAIRS = (("square", "dot"), ("bars", "cross"))
"""A scene with two signs has one of each, in either order: of the four answers, one sign alone leaves two."""

RING = ((2, 2, 3, 16), (15, 2, 3, 16), (2, 2, 16, 3), (2, 15, 16, 3))
"""Row, column, height and width of its sides."""
LENGTHS = {"short": (4, 4), "medium": (6, 3), "long": (8, 2)}
"""(scenes, slots of a needle) of a mixture: a longer video has more parts, and each is less of it. A needle stands for
about an eighth of its scene."""
DETAILS = {"single": 1, "multi": 2}
"""Needles of a scene."""
DETAIL_NAMES = {number: name for name, number in DETAILS.items()}
LENGTH_NAMES = {shape: name for name, shape in LENGTHS.items()}
SLOT_FRAMES = 2
"""Real frames per slot: with two, the slot's middle is exactly the second one's time."""
FRAME_RATES = (Fraction(2), Fraction(1), Fraction(2, 3))
"""Frames per second that a video may have; at 128 slots they make 128, 256 and 384 seconds."""
PICTURE_PX = 28
"""Edge of the picture that the shapes are drawn for; other sizes scale it."""


@dataclass(frozen=True, kw_only=True)
class NeedleConfig:
    """The difficulty of the task.

    Raises:
        ValueError: a value out of range, or scenes that no overview frame shows or that have no room for a needle.
    """

    pool_size: int = 128
    """M: slots of a video; the episode's pool must have as many frames."""
    overview_frames: int = 8
    """n_0: the uniform overview of this many pool frames shows every scene and no needle."""
    num_scenes: int = 8
    """Parts of a video, each of one colour."""
    needle_frames: int = 2
    """Length of a needle in slots."""
    needles_per_scene: int = 1
    """1: which shape (single detail). 2: which two shapes (multi-detail: both must be seen)."""
    num_distractors: int = 7
    """Scenes besides the one asked about that hold needles; at most num_scenes - 1."""
    random_order: bool = True
    """Scene colours in random order; False keeps one order, and then the question alone says where to look."""
    shuffle_options: bool = False
    """Options in random order; False ties every shape to one letter."""
    unreadable_percent: int = 0
    """Chance that a scene's sign shows one of STRANGE_SHAPES; a question about it has an answer drawn by chance."""
    mixture: bool = False
    """Videos of three lengths (LENGTHS), each with one and with two needles a scene, by turns; in place of num_scenes,
    needle_frames, needles_per_scene and num_distractors."""
    num_phrasings: int = 1
    """How many of the ways to word the question are used."""
    questions_per_video: int = 4
    """Rows that share one video, each about another scene."""
    size_px: int = PICTURE_PX
    """Edge of the square video."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_scenes", 1, min(len(COLOURS), self.overview_frames)),
            ("needle_frames", 1, self.pool_size),
            ("needles_per_scene", 1, len(SHAPE_PAIRS)),
            ("num_distractors", 0, self.num_scenes - 1),
            ("unreadable_percent", 0, 100 if self.needles_per_scene == 1 else 0),
            ("num_phrasings", 1, len(PHRASINGS)),
            ("questions_per_video", 1, self.num_scenes if self.num_distractors else 1),
            ("size_px", 16, 4096),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)}; expected {low} to {high}; {self}")
        if self.size_px % 2:
            raise ValueError(f"size_px={self.size_px}; expected an even number: 4:2:0 halves the chroma planes")
        if self.questions_per_video > self.num_distractors + 1:
            raise ValueError(
                f"questions_per_video={self.questions_per_video}; expected at most num_distractors + 1 = "
                f"{self.num_distractors + 1}: a scene can only be asked about if it holds a needle"
            )
        overview = set(spread(0, self.pool_size - 1, self.overview_frames))
        for scene in range(self.num_scenes):
            start, end = scene_bounds(self, scene)
            if not overview & set(range(start, end)):
                raise ValueError(f"scene {scene} = slots {start} to {end - 1} is not in the overview; use fewer scenes")
            if not needle_placements(self, scene):
                raise ValueError(f"scene {scene} has no room for its needles; shorten needle_frames")
        kinds_of(self)


@dataclass(frozen=True, kw_only=True)
class Needle:
    """A sign that stands for a while."""

    start: int
    """First slot."""
    num_slots: int
    shape: str

    @property
    def slots(self) -> range:
        return range(self.start, self.start + self.num_slots)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What one video shows, slot by slot."""

    colours: tuple[str, ...]
    """Background of each scene, in order of time."""
    needles: tuple[tuple[Needle, ...], ...]
    """Needles of each scene, in order of time; () where a scene has none."""
    pictures: tuple[tuple[str, str | None], ...]
    """(colour, shape or None) of each slot."""


def scene_bounds(config: NeedleConfig, scene: int) -> tuple[int, int]:
    """Return a scene's first slot and the slot after its last; scenes share the video equally."""
    return (
        config.pool_size * scene // config.num_scenes,
        config.pool_size * (scene + 1) // config.num_scenes,
    )


def needle_placements(config: NeedleConfig, scene: int) -> list[tuple[int, ...]]:
    """List where a scene's needles may start: inside it, in no overview frame, one slot apart; each is as likely."""
    overview = set(spread(0, config.pool_size - 1, config.overview_frames))
    first, end = scene_bounds(config, scene)
    num = config.needle_frames
    starts = [start for start in range(first, end - num + 1) if not overview & set(range(start, start + num))]
    if config.needles_per_scene == 1:
        return [(start,) for start in starts]
    return [(a, b) for a in starts for b in starts if b > a + num]


def kinds_of(config: NeedleConfig) -> list[NeedleConfig]:
    """List the settings of a mixture's videos: video number i has those at i modulo their number.

    A task that is no mixture has its own alone.
    """
    if not config.mixture:
        return [config]
    return [
        dataclasses.replace(
            config,
            mixture=False,
            num_scenes=num_scenes,
            needle_frames=needle_frames,
            needles_per_scene=needles_per_scene,
            num_distractors=num_scenes - 1,
        )
        for needles_per_scene in DETAILS.values()
        for num_scenes, needle_frames in LENGTHS.values()
    ]


def difficulty(config: NeedleConfig) -> dict[str, str]:
    """Name the groups that the questions about a video with these settings are in, but for their evidence."""
    return {
        "length": LENGTH_NAMES.get((config.num_scenes, config.needle_frames), "other"),
        "detail": DETAIL_NAMES[config.needles_per_scene],
    }


def make_layout(config: NeedleConfig, rng: random.Random) -> Layout:
    """Draw a video's scenes and needles."""
    colours = list(COLOURS)[: config.num_scenes]
    if config.random_order:
        rng.shuffle(colours)
    with_needles = set(rng.sample(range(config.num_scenes), config.num_distractors + 1))
    needles: list[tuple[Needle, ...]] = []
    pictures: list[tuple[str, str | None]] = []
    for scene, colour in enumerate(colours):
        start, end = scene_bounds(config, scene)
        pictures += [(colour, None)] * (end - start)
        placed: tuple[Needle, ...] = ()
        if scene in with_needles:
            starts = rng.choice(needle_placements(config, scene))
            if config.needles_per_scene == 1:
                shapes = rng.sample(SHAPES, 1)
            else:
                shapes = [rng.choice(pair) for pair in SHAPE_PAIRS]
                rng.shuffle(shapes)
            if config.unreadable_percent and rng.randrange(100) < config.unreadable_percent:
                shapes = [rng.choice(STRANGE_SHAPES)]
            placed = tuple(
                Needle(start=slot, num_slots=config.needle_frames, shape=shape)
                for slot, shape in zip(starts, shapes, strict=True)
            )
        needles.append(placed)
        for needle in placed:
            for slot in needle.slots:
                pictures[slot] = (colour, needle.shape)
    return Layout(colours=tuple(colours), needles=tuple(needles), pictures=tuple(pictures))


def draw_picture(colour: str, shape: str | None, size_px: int = PICTURE_PX) -> np.ndarray:
    """Draw a background, with a sign on it unless `shape` is None: (size_px, size_px, 3) uint8 RGB."""
    picture = np.empty((PICTURE_PX, PICTURE_PX, 3), np.uint8)
    picture[:] = COLOURS[colour]
    if shape is not None:
        board = picture[4:24, 4:24]
        board[:] = 0
        for rows, columns in {
            "square": [(slice(2, 18), slice(2, 18))],
            "dot": [(slice(7, 13), slice(7, 13))],
            "bars": [(slice(y, y + 4), slice(2, 18)) for y in (2, 8, 14)],
            "cross": [(slice(2, 18), slice(8, 12)), (slice(8, 12), slice(2, 18))],
            "ring": [(slice(y, y + h), slice(x, x + w)) for y, x, h, w in RING],
            "stairs": [(slice(y, y + 5), slice(y, y + 5)) for y in (2, 7, 12)],
            "corner": [(slice(2, 18), slice(2, 6)), (slice(14, 18), slice(2, 18))],
        }[shape]:
            board[rows, columns] = 255
    index = np.arange(size_px) * PICTURE_PX // size_px
    scaled: np.ndarray = picture[index][:, index]
    return scaled


def write_video(path: Path, layout: Layout, *, rate: Fraction | int, size_px: int = PICTURE_PX) -> None:
    """Encode a layout as mp4 (H.264, 4:2:0), SLOT_FRAMES frames per slot."""
    with av.open(str(path), "w", format="mp4") as container:
        # One thread, so that the same settings make the same bytes.
        options = {"crf": "10", "preset": "ultrafast", "g": "16", "threads": "1"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width = stream.height = size_px
        stream.pix_fmt = "yuv420p"
        stream.time_base = time_base = 1 / Fraction(rate)
        frames: dict[tuple[str, str | None], np.ndarray] = {}
        for slot, key in enumerate(layout.pictures):
            picture = frames.setdefault(key, draw_picture(*key, size_px))
            for i in range(SLOT_FRAMES):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = slot * SLOT_FRAMES + i, time_base
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


def make_questions(layout: Layout, config: NeedleConfig, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Ask about some of the scenes: the fields of a Sample that the layout decides, times still in slots."""
    askable = [scene for scene, needles in enumerate(layout.needles) if needles]
    for scene in rng.sample(askable, config.questions_per_video):
        single = config.needles_per_scene == 1
        options = list(SHAPES) if single else [" ".join(pair) for pair in itertools.product(*SHAPE_PAIRS)]
        if config.shuffle_options:
            rng.shuffle(options)
        colour, needles = layout.colours[scene], layout.needles[scene]
        phrasing = PHRASINGS[rng.randrange(config.num_phrasings)] if single else PAIR_PHRASING
        # Named as the options name them, whichever comes first in the video.
        answer = " ".join(sorted((needle.shape for needle in needles), key=(*SHAPES, *STRANGE_SHAPES).index))
        readable = answer in options
        yield {
            "question": phrasing.format(colour=colour),
            "options": tuple(options),
            # Drawn only where nothing is to be read: other tasks stay as they are.
            "answer": "ABCD"[options.index(answer) if readable else rng.randrange(len(options))],
            "segments": [(needle.start, needle.start + needle.num_slots) for needle in needles],
            "metadata": {"colours": list(layout.colours), "scene": scene, "needle_starts": [n.start for n in needles]},
            "groups": {**difficulty(config), "evidence": "readable" if readable else "unreadable"},
        }


def video_plan(
    config: NeedleConfig, *, seed: int, split: str, video_idx: int
) -> tuple[Layout, Fraction, list[dict[str, Any]]]:
    """Draw one video: its layout, frame rate and questions, decided by the seed, the split and its number alone."""
    rng = random.Random(f"{seed}/{split}/{video_idx}")
    kinds = kinds_of(config)
    config = kinds[video_idx % len(kinds)]
    layout = make_layout(config, rng)
    return layout, rng.choice(FRAME_RATES), list(make_questions(layout, config, rng))


def make_split(out: Path, config: NeedleConfig, *, seed: int, split: str, num_samples: int) -> list[Sample]:
    """Write a split's videos under out/videos and return its samples; the last video may have fewer questions."""
    num_videos = -(-num_samples // config.questions_per_video)
    plans = [video_plan(config, seed=seed, split=split, video_idx=i) for i in range(num_videos)]
    names = [f"videos/{split}_{i:05d}.mp4" for i in range(num_videos)]
    (out / "videos").mkdir(parents=True, exist_ok=True)

    def write(name: str, plan: tuple[Layout, Fraction, list[dict[str, Any]]]) -> None:
        write_video(out / name, plan[0], rate=plan[1], size_px=config.size_px)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, names, plans))
    samples: list[Sample] = []
    for name, (_, rate, questions) in zip(names, plans, strict=True):
        slot_seconds = float(SLOT_FRAMES / rate)
        for fields in questions[: num_samples - len(samples)]:
            segments = tuple((start * slot_seconds, end * slot_seconds) for start, end in fields["segments"])
            samples.append(
                Sample(
                    data_source=DATA_SOURCE,
                    sample_id=f"{split}-{seed}-{len(samples):06d}",
                    index=len(samples),
                    split=split,
                    video=name,
                    duration_seconds=config.pool_size * slot_seconds,
                    question_type="multiple_choice",
                    **{**fields, "segments": segments},
                )
            )
    return samples


def make_dataset(out: Path, config: NeedleConfig, *, seed: int, num_samples: dict[str, int]) -> bool:
    """Make videos and one parquet file per split, whole or not at all; a folder made with the same settings is kept.

    Args:
        num_samples: rows of each split; a split of 0 rows is left out.
    Returns:
        Whether anything was made.
    Raises:
        ValueError: a number of rows is negative, or all are 0.
        FileExistsError: `out` holds something else, or a part of what was made.
    """
    if min(num_samples.values()) < 0 or not any(num_samples.values()):
        raise ValueError(f"rows {num_samples}; expected 0 or more of each split, and some in all; make_dataset")
    settings = {"needle": dataclasses.asdict(config), "seed": seed, "num_samples": num_samples}
    if out.exists():
        num_videos = sum(-(-num // config.questions_per_video) for num in num_samples.values())
        if _settings(out) == settings and len(list(out.glob("videos/*.mp4"))) == num_videos:
            return False
        raise FileExistsError(
            f"{out} exists and was not made with these settings, or is not whole; remove it or give another --out"
        )
    beside = out.with_name(f".{out.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        for split, num in num_samples.items():
            if num:
                samples = make_split(beside, config, seed=seed, split=split, num_samples=num)
                write_rows(beside / f"{split}.parquet", samples)
        (beside / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return True


def _settings(out: Path) -> object:
    try:
        return json.loads((out / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


_HELP = {
    "pool_size": "slots of a video; the episode's pool must have as many frames",
    "overview_frames": "frames of the overview, which shows every scene and no needle",
    "num_scenes": "parts of a video, each of one colour",
    "needle_frames": "length of a needle in slots",
    "needles_per_scene": "1: which shape; 2: which two shapes, so both must be seen",
    "num_distractors": "scenes with needles besides the one asked about",
    "random_order": "scene colours in random order; otherwise the question alone says where to look",
    "shuffle_options": "options in random order; otherwise every shape has one letter",
    "unreadable_percent": "chance that a sign shows a shape that no option names",
    "mixture": "videos of three lengths, with one and with two needles a scene, in place of those four options",
    "num_phrasings": "how many ways to word the question are used",
    "questions_per_video": "rows that share one video",
    "size_px": "edge of the square video, in pixels",
}
"""Field of NeedleConfig -> what its option says in --help."""


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an option for every field of NeedleConfig."""
    for field in dataclasses.fields(NeedleConfig):
        flag, text = "--" + field.name.replace("_", "-"), f"{_HELP[field.name]} (default: {field.default})"
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default, help=text)
        else:
            parser.add_argument(flag, type=int, metavar="N", default=field.default, help=text)


def config_from_arguments(arguments: argparse.Namespace) -> NeedleConfig:
    return NeedleConfig(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(NeedleConfig)})


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.synthetic",
        description=(__doc__ or "").splitlines()[0],
        epilog="example:\n  python -m data_prep.synthetic --out data/needles --num-train 256 --num-val 32",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of videos and rows to make")
    for split, default in (("train", 1200), ("val", 64), ("test", 256)):
        parser.add_argument(
            f"--num-{split}", type=int, metavar="N", default=default, help=f"rows, not videos (default: {default})"
        )
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="another seed, other videos (default: 0)")
    add_config_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        config = config_from_arguments(arguments)
        num_samples = {split: getattr(arguments, f"num_{split}") for split in ("train", "val", "test")}
        made = make_dataset(arguments.out, config, seed=arguments.seed, num_samples=num_samples)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    num_videos = sum(1 for _ in (arguments.out / "videos").iterdir())
    print(f"{'made' if made else 'kept'} {arguments.out}: {num_videos} videos, rows {num_samples}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
