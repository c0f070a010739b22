# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""An episode as one picture, for loggers that show pictures: the video's timeline, and under it every frame by turn.

A record's card and detail, and the frames' pixels -> an image. The timeline is drawn as the page draws it: evidence
above, then one lane for each turn; a green border marks a frame that lies in the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps

from verl_videomtr.report.thumbnails import Film

WIDTH_PX = 960
MARGIN_PX = 16
LINE_PX = 22
LANE_PX = 18
LABELS_PX = 84
"""Left of the timeline, for the names of its lanes."""
GAP_PX = 6
COLUMNS = 10
"""Frames in a row."""
MOST_FRAMES = 60
"""Of one turn; of more, an even choice is drawn."""
MOST_LINES = 3
"""Of the question."""
LETTERS_PX = 15

Colour = str | tuple[int, int, int]
PAPER, INK, MUTED, TRACK, GREY = "#ffffff", "#16202b", "#566270", "#e6e9ee", "#c9cfd7"
RIGHT, WRONG, EVIDENCE = "#0a5ea8", "#a63c00", "#009e73"
LOOKS = ("#7c8896", "#d98500", "#b8508f", "#2b93cf", "#8a6d00")
"""Of the overview and of the looks after it, as on the page."""


def draw_sheet(
    card: Mapping[str, Any], detail: Mapping[str, Any], *, film: Film, pixels: Mapping[int, np.ndarray]
) -> Image.Image:
    """Draw a played episode.

    Args:
        card, detail: of `verl_videomtr.report.episodes`.
        pixels: pool index -> (H, W, 3) uint8; a frame that is missing is drawn grey.
    """
    turns = [
        turn["frames"] if len(turn["frames"]) <= MOST_FRAMES else _even(turn["frames"]) for turn in detail["turn_list"]
    ]
    cell = (WIDTH_PX - 2 * MARGIN_PX + GAP_PX) // COLUMNS - GAP_PX
    frame_height = _frame_height(pixels, cell)
    question = _wrapped(detail["question"])
    rows = [-(-len(frames) // COLUMNS) for frames in turns]
    height = (
        2 * MARGIN_PX + (2 + len(question)) * LINE_PX + (len(turns) + 2) * LANE_PX
        + sum(LINE_PX + GAP_PX + number * (frame_height + LANE_PX + GAP_PX) for number in rows)
    )  # fmt: skip
    image = Image.new("RGB", (WIDTH_PX, height), PAPER)
    draw = ImageDraw.Draw(image)
    top = _draw_head(draw, card, detail, question)
    top = _draw_timeline(draw, card, detail, film, top)
    evidence = _evidence_test(card, detail, film)
    for number, (turn, frames) in enumerate(zip(detail["turn_list"], turns, strict=True)):
        draw.rectangle((MARGIN_PX, top + 5, MARGIN_PX + 10, top + 15), fill=_look(number))
        _write(draw, (MARGIN_PX + 18, top), _turn_in_words(number, turn, film))
        top += LINE_PX
        for place, frame in enumerate(frames):
            left = MARGIN_PX + place % COLUMNS * (cell + GAP_PX)
            at = top + place // COLUMNS * (frame_height + LANE_PX + GAP_PX)
            box = (left, at, left + cell, at + frame_height)
            draw.rectangle(box, fill=GREY)
            if frame in pixels:
                picture = ImageOps.contain(Image.fromarray(pixels[frame]), (cell, frame_height))
                image.paste(picture, (left + (cell - picture.width) // 2, at + (frame_height - picture.height) // 2))
            if evidence(frame):
                draw.rectangle(box, outline=EVIDENCE, width=3)
            _write(
                draw,
                (left + 2, at + frame_height),
                f"{frame}  {_time_in_words(frame, film)}",
                fill=MUTED,
                size=LETTERS_PX - 3,
            )
        top += rows[number] * (frame_height + LANE_PX + GAP_PX) + GAP_PX
    return image


def _draw_head(
    draw: ImageDraw.ImageDraw, card: Mapping[str, Any], detail: Mapping[str, Any], question: Sequence[str]
) -> int:
    result = "right" if card["right"] else "wrong"
    parts = [f"{name} {_number(value)}" for name, value in detail["components"].items() if name != "gate_open"]
    gate = [] if card["gate"] is None else ["gate open" if card["gate"] else "gate closed"]
    _write(draw, (MARGIN_PX, MARGIN_PX), result, fill=RIGHT if card["right"] else WRONG, bold=True)
    _write(draw, (MARGIN_PX + 60, MARGIN_PX), f"reward {_number(card['reward'])}:  {'   '.join(parts + gate)}")
    top = MARGIN_PX + LINE_PX
    for line in question:
        _write(draw, (MARGIN_PX, top), line)
        top += LINE_PX
    answer = "nothing" if card["answer"] is None else _latin(card["answer"])
    _write(draw, (MARGIN_PX, top), f"answered {answer}, right: {_latin(card['truth'])}", fill=MUTED)
    return top + LINE_PX


def _draw_timeline(
    draw: ImageDraw.ImageDraw, card: Mapping[str, Any], detail: Mapping[str, Any], film: Film, top: int
) -> int:
    """Draw the lanes and the times below them; return where the next thing may begin."""
    left, right = MARGIN_PX + LABELS_PX, WIDTH_PX - MARGIN_PX
    start_of, end_of, total = _scale(card, film)

    def x(value: float) -> float:
        return left + min(1.0, max(0.0, value / total)) * (right - left)

    def bar(lane: int, start: float, end: float, colour: Colour, inset: int = 4) -> None:
        at = top + lane * LANE_PX
        draw.rectangle((x(start), at + inset, max(x(start) + 2, x(end)), at + LANE_PX - inset), fill=colour)

    for lane, name in enumerate(["evidence", "overview", *(f"look {k}" for k in range(1, len(detail["turn_list"])))]):
        _write(draw, (MARGIN_PX, top + lane * LANE_PX), name, size=LETTERS_PX - 2)
        bar(lane, 0, total, TRACK)
    timed = film.times_seconds is not None and film.duration_seconds
    if timed and detail["segments"]:
        spans = [(float(start), float(end)) for start, end in detail["segments"]]
    else:
        spans = [(start_of(first), end_of(last)) for first, last in card["evidence"] or ()]
    for start, end in spans:
        bar(0, start, end, EVIDENCE)
    for number, turn in enumerate(detail["turn_list"]):
        asked = detail["turn_list"][number - 1]["range"] if number else None
        if asked is not None:
            bar(number + 1, start_of(asked[0]), end_of(asked[1]), _pale(_look(number)), inset=2)
        for frame in turn["frames"]:
            middle = (start_of(frame) + end_of(frame)) / 2
            bar(number + 1, middle, middle, _look(number), inset=2)
    below = top + (len(detail["turn_list"]) + 1) * LANE_PX
    for part, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        text = _clock(part * total) if timed else f"frame {round(part * (total - 1))}"
        _write(draw, (x(part * total), below), text, fill=MUTED, size=LETTERS_PX - 3, anchor=anchor)
    return below + LANE_PX + GAP_PX


def _scale(
    card: Mapping[str, Any], film: Film
) -> tuple[Callable[[int], float], Callable[[int], float], float]:  # fmt: skip
    """Say where a pool frame begins and ends on the timeline, and how long that is: in seconds, or else in frames."""
    times, duration, pool = film.times_seconds, film.duration_seconds, max(1, card["pool"])
    if not times or not duration:
        return float, lambda frame: frame + 1.0, float(pool)
    half = duration / pool / 2

    def time(frame: int) -> float:
        return times[min(max(frame, 0), len(times) - 1)]

    return lambda frame: time(frame) - half, lambda frame: time(frame) + half, float(duration)


def _evidence_test(card: Mapping[str, Any], detail: Mapping[str, Any], film: Film) -> Callable[[int], bool]:
    times, segments = film.times_seconds, detail["segments"]
    if times and segments:
        return lambda frame: 0 <= frame < len(times) and any(a <= times[frame] <= b for a, b in segments)
    return lambda frame: any(first <= frame <= last for first, last in card["evidence"] or ())


def _turn_in_words(number: int, turn: Mapping[str, Any], film: Film) -> str:
    count = len(turn["frames"])
    shown = "overview, " if number == 0 else ""
    words = [f"turn {number + 1}: {shown}{count} frame{'' if count == 1 else 's'}"]
    if turn["range"] is not None:
        times = [time for frame in turn["range"] if (time := _time_in_words(frame, film))]
        words.append(f"asks for {turn['range'][0]} to {turn['range'][1]} ({' to '.join(times) or 'frames'})")
    if turn["iou"] is not None:
        words.append(f"IoU {_number(turn['iou'])}")
    if turn["invalid"]:
        words.append(f"invalid ({_latin(str(turn['invalid']))})")
    return ";  ".join([*words, f"reward {_number(turn['reward'])}"])


def _time_in_words(frame: int, film: Film) -> str:
    times = film.times_seconds
    return _clock(times[frame]) if times and 0 <= frame < len(times) else ""


def _frame_height(pixels: Mapping[int, np.ndarray], cell: int) -> int:
    """Give cells the shape of the first picture, between a wide screen's and a phone's held upright."""
    if not pixels:
        return cell * 9 // 16
    height, width = next(iter(pixels.values())).shape[:2]
    shape: float = height / width
    return round(cell * min(1.5, max(0.5, shape)))


def _wrapped(text: str) -> list[str]:
    """Break a question into lines; one that this font cannot write is left to the table beside the picture."""
    if not _is_latin(text):
        return []
    font, room = _font(LETTERS_PX), WIDTH_PX - 2 * MARGIN_PX
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1]} ..."]


def _is_latin(text: str) -> bool:
    return all(ord(letter) < 0x250 for letter in text)


def _latin(text: str) -> str:
    text = " ".join(text.split())[:100]
    return text if _is_latin(text) else "(see the table)"


def _even(frames: Sequence[int]) -> list[int]:
    return [frames[round(k * (len(frames) - 1) / (MOST_FRAMES - 1))] for k in range(MOST_FRAMES)]


def _look(turn: int) -> str:
    return LOOKS[0] if turn == 0 else LOOKS[1 + (turn - 1) % (len(LOOKS) - 1)]


def _pale(colour: str) -> Colour:
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return ((red + 510) // 3, (green + 510) // 3, (blue + 510) // 3)


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    # Whole seconds passed, as a player shows them: frames a second apart keep clocks a second apart.
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, *, fill: str = INK, size: int = LETTERS_PX,
    bold: bool = False, anchor: str = "la",
) -> None:  # fmt: skip
    draw.text(at, text, fill=fill, font=_font(size), stroke_width=0.5 if bold else 0, anchor=anchor)
