# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""An episode as a terminal shows it: a timeline of the frames looked at, the thought, the action, small pictures."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from verl_videomtr.actions import Action, Answer, Invalid, Retrieve
from verl_videomtr.serving.texts import clean

NEW, OLD, UNSEEN = "█", "▓", "·"
_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|$)", re.DOTALL)


def timeline(
    num_frames: int, new: Collection[int], seen: Collection[int], *, duration_seconds: float, width: int
) -> Text:
    """Draw the pool as a line: what was just shown, what was shown before, what was not.

    Args:
        num_frames: M of this video.
        new: pool indices of the last message.
        seen: pool indices of the messages before.
        width: columns; several frames may share one, and the newest decides it.
    """
    width = max(1, min(width, num_frames))
    columns = [UNSEEN] * width
    for mark, indices in ((OLD, seen), (NEW, new)):
        for index in indices:
            columns[index * width // num_frames] = mark
    text = Text()
    for mark in columns:
        text.append(mark, style={NEW: "bold green", OLD: "cyan", UNSEEN: "dim"}[mark])
    end = clock(duration_seconds)
    text.append(f"\n{clock(0)}{' ' * max(1, width - len(clock(0)) - len(end))}{end}", style="dim")
    return text


def message_panel(
    turn: int, frames: Sequence[int], times_seconds: Sequence[float], line: Text, pictures: Sequence[Text]
) -> Panel:
    """Draw what the policy is shown in a turn."""
    if frames:
        first, last = times_seconds[frames[0]], times_seconds[frames[-1]]
        shown = f"{len(frames)} frames, {frames[0]} to {frames[-1]}, {clock(first)} to {clock(last)}"
    else:
        shown = "no frames"
    return Panel(Group(line, *pictures), title=f"turn {turn}: shown {shown}", title_align="left")


def reply_panel(response: str, action: Action, times_seconds: Sequence[float], *, seconds: float) -> Panel:
    """Draw what the policy thought and did."""
    thought = _THOUGHT.search(response)
    body = Text(clean(thought[1].strip()) if thought else clean(response.strip()) or "(nothing)", style="italic")
    body.append("\n")
    if isinstance(action, Retrieve):
        start, end = clock(times_seconds[action.start]), clock(times_seconds[action.end])
        body.append(f"looks at frames {action.start} to {action.end} ({start} to {end})", style="bold green not italic")
    elif isinstance(action, Answer):
        body.append(f"answers {clean(action.text)}", style="bold yellow not italic")
    else:
        assert isinstance(action, Invalid)
        body.append(f"invalid: {clean(action.reason)}", style="bold red not italic")
    return Panel(body, title=f"replies after {seconds:.1f} s", title_align="left")


def thumbnails(frames: Sequence[np.ndarray], *, columns: int, width: int = 16) -> list[Text]:
    """Draw small pictures side by side, two pixels a character.

    Args:
        frames: (H, W, 3) uint8 RGB.
        columns: of the terminal; what does not fit goes to the next row of pictures.
        width: of one picture, in characters.
    """
    rows = []
    per_row = max(1, columns // (width + 1))
    for start in range(0, len(frames), per_row):
        small = [_shrink(frame, width) for frame in frames[start : start + per_row]]
        height = min(len(picture) for picture in small)
        text = Text()
        for y in range(0, height - 1, 2):
            for picture in small:
                for upper, lower in zip(picture[y], picture[y + 1], strict=True):
                    text.append("▀", style=f"#{_hex(upper)} on #{_hex(lower)}")
                text.append(" ")
            text.append("\n")
        rows.append(text)
    return rows


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _shrink(frame: np.ndarray, width: int) -> np.ndarray:
    """Take evenly spaced pixels: (2 * rows, width, 3)."""
    height = max(2, 2 * round(frame.shape[0] / frame.shape[1] * width / 2))
    ys = np.linspace(0, frame.shape[0] - 1, height).round().astype(int)
    xs = np.linspace(0, frame.shape[1] - 1, width).round().astype(int)
    sampled: np.ndarray = frame[ys][:, xs]
    return sampled


def _hex(pixel: np.ndarray) -> str:
    return "".join(f"{int(value):02x}" for value in pixel)
