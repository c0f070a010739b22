# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One trajectory record -> what statistics need of it, and what the page shows of it.

Records are untrusted and may be old or incomplete: what a record lacks is None on the page, and a value of another type
than expected makes the record unreadable, with a reason.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLAYED = "played"
TEXT_LIMIT = 12_000
"""Characters of one text on a page; the middle of a longer one is left out."""
MAX_TURNS = 200
"""Turns of an episode on a page; the later ones are left out, and the episode says so."""
MAX_FRAMES = 2_000
"""Frames of one turn on a page, likewise."""
MAX_VALUES = 50
"""Groups, components, options and the like of one episode, likewise."""
BY_TURN = ("actions", "ranges", "retrieval_ious", "frames", "format_ok")
"""What an episode's record has one of for each response."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is kept of every record, shown or not."""

    run: int
    phase: str
    step: int | None
    file: int
    line: int
    sample_id: str
    prompt: str
    """What the rollouts of one prompt share: verl's uid, or the sample."""
    source: str
    video: str
    groups: tuple[str, ...]
    """The sample's groups, as "name: value"."""
    right: bool | None
    """None for a lost episode."""
    reward: float
    turns: int
    frames: int
    iou: float | None


def read_facts(record: Mapping[str, Any], *, run: int, phase: str, file: int, line: int) -> Facts:
    """Take a record's facts.

    Raises:
        ValueError: the record is not what it should be.
    """
    try:
        played = record.get("status", PLAYED) == PLAYED
        episode = record["episode"] if played else {}
        for name in BY_TURN if played else ():
            if len(episode[name]) != len(episode["responses"]):
                raise ValueError(
                    f"{len(episode[name])} {name}; expected one for each of {len(episode['responses'])} responses"
                )
        for name in ("components", "seconds") if played else ():
            if not isinstance(record.get(name), (dict, type(None))):
                raise ValueError(f"{name}={record[name]!r}; expected numbers by name")
        return Facts(
            run=run,
            phase=phase,
            step=_whole(record.get("step")),
            file=file,
            line=line,
            sample_id=str(record["sample_id"]),
            prompt=str(record.get("uid") or record["sample_id"]),
            source=str(record.get("data_source") or ""),
            video=str(record.get("video") or record["sample_id"]),
            groups=groups_of(record),
            right=bool(record["correct"]) if played else None,
            reward=float(sum(record["turn_rewards"])) if played else 0.0,
            turns=len(episode["responses"]) if played else 0,
            frames=sum(map(len, episode["frames"])) if played else 0,
            iou=best_iou(episode) if played else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"no readable trajectory ({type(error).__name__}: {error})") from error


def groups_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """List what a sample counts in; a group with several values gives one each."""
    groups = dict(itertools.islice((record.get("groups") or {}).items(), MAX_VALUES))
    listed = {name: value if isinstance(value, list) else [value] for name, value in groups.items()}
    named = (shorten(f"{name}: {value}", 100) for name, values in listed.items() for value in values)
    return tuple(itertools.islice(named, MAX_VALUES))


def best_iou(episode: Mapping[str, Any]) -> float | None:
    """Find the highest IoU with the evidence of anything shown; None without ground truth."""
    known = [iou for iou in (episode["initial_iou"], *episode["retrieval_ious"]) if iou is not None]
    return max(map(float, known)) if known else None


def video_key(record: Mapping[str, Any]) -> tuple[str, int]:
    """Name the candidate pool that a record's frames are indices into: (video, number of frames)."""
    return str(record.get("video") or ""), int((record.get("episode") or {}).get("pool_size") or 0)


def card(record: Mapping[str, Any], *, facts: Facts, name: str) -> dict[str, Any]:
    """Describe an episode for the gallery: small, for thousands of them are read at once.

    Args:
        name: of this episode in the page's links.
    """
    episode = record["episode"] if facts.right is not None else {}
    components = record.get("components") or {}
    gate = record.get("gate_open")
    if gate is None:  # as records of the first schema have it
        gate = components.get("gate_open")
    return {
        "id": name,
        "run": facts.run,
        "phase": facts.phase,
        "step": facts.step,
        "sample": shorten(facts.sample_id, 200),
        "prompt": shorten(facts.prompt, 200),
        "source": shorten(facts.source, 100),
        "groups": list(facts.groups),
        "question": shorten(str(record.get("question") or ""), 400),
        "answer": _optional_text(episode.get("answer"), 200),
        "truth": shorten(str(record.get("ground_truth") or ""), 200),
        "right": facts.right,
        "lost": None if facts.right is not None else shorten(str(record.get("kind") or "failed"), 60),
        "reward": plain(facts.reward),
        "turns": facts.turns,
        "iou": plain(facts.iou),
        "gate": None if gate is None else bool(gate),
        "invalid": [shorten(str(kind), 60) for kind in episode.get("invalid_kinds", ())[:MAX_TURNS]],
        "truncated": episode.get("stop_reason") == "length_limit",
        "pool": int(episode.get("pool_size") or 0),
        "frames": [_indices(frames) for frames in episode.get("frames", ())[:MAX_TURNS]],
        "ranges": [
            None if ends is None else [int(ends[0]), int(ends[1])] for ends in episode.get("ranges", ())[:MAX_TURNS]
        ],
        "evidence": _spans(episode.get("truth")),
        "segments": _segments(record),
    }


def detail(record: Mapping[str, Any], *, facts: Facts) -> dict[str, Any]:
    """Describe an episode turn by turn."""
    shown = {
        "question": shorten(str(record.get("question") or "")),
        "options": [shorten(str(option), 1000) for option in (record.get("options") or ())[:MAX_VALUES]],
        "video": Path(str(record.get("video") or "")).name[:200],
        "uid": _optional_text(record.get("uid"), 200),
        "session": record.get("session") if isinstance(record.get("session"), int) else None,
        "split": str(record.get("split") or "")[:60],
        "question_type": str(record.get("question_type") or "")[:60],
        "error": _optional_text(record.get("error")),
    }
    if facts.right is None:
        return shown
    episode = record["episode"]
    return shown | {
        "segments": _segments(record),
        "stop": shorten(str(episode.get("stop_reason") or ""), 200),
        "turns_left_out": max(0, facts.turns - MAX_TURNS),
        "max_turns": episode.get("max_turns"),
        "frame_budget": episode.get("frame_budget"),
        "initial_iou": plain(episode.get("initial_iou")),
        "components": _values(record.get("components")),
        "policy_version": record.get("policy_version"),
        "seconds": _values(record.get("seconds")),
        "turn_list": _turns(record, episode),
    }


def _turns(record: Mapping[str, Any], episode: Mapping[str, Any]) -> list[dict[str, Any]]:
    number = min(len(episode["responses"]), MAX_TURNS)
    invalid = list(zip(episode.get("invalid_kinds", ()), episode.get("invalid_reasons", ()), strict=False))
    turns = []
    for k in range(number):
        action = str(_at(episode["actions"], k))
        kind, reason = invalid.pop(0) if action == "invalid" and invalid else (None, None)
        components = _at(record.get("turn_components"), k)
        turns.append(
            {
                "frames": _indices(_at(episode["frames"], k) or ()),
                "message": _parts(_at(episode.get("messages"), k)),
                "response": shorten(str(episode["responses"][k])),
                "length": len(str(episode["responses"][k])),
                "action": action,
                "range": _at(episode["ranges"], k),
                "iou": plain(_at(episode["retrieval_ious"], k)),
                "invalid": kind,
                "reason": _optional_text(reason, 1000),
                "reward": plain(_at(record["turn_rewards"], k)),
                "components": _values(components),
                **{
                    name: plain(_at(record.get(field), k))
                    for name, field in (
                        ("bonus", "bonus"),
                        ("advantage", "advantages"),
                        ("value", "values"),
                        ("return", "returns"),
                        ("prompt_tokens", "prompt_tokens"),
                        ("response_tokens", "response_tokens"),
                    )
                },
                "finish": _optional_text(_at(record.get("finish_reasons"), k), 60),
            }
        )
    return turns


def _parts(message: Any) -> list[str | int] | None:
    """Keep a message's texts and frame indices; a message that is one text is a message of one part."""
    if message is None:
        return None
    kept: list[str | int] = []
    room = TEXT_LIMIT
    for part in ([message] if isinstance(message, str) else message)[:MAX_FRAMES]:
        if not isinstance(part, int):
            part = shorten(str(part), min(4000, max(room, 1)))
            room -= len(part)
        kept.append(part)
    return kept


def _values(values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {shorten(name, 100): plain(value) for name, value in itertools.islice((values or {}).items(), MAX_VALUES)}


def _indices(frames: Sequence[Any]) -> list[int]:
    return [int(index) for index in frames[:MAX_FRAMES]]


def _segments(record: Mapping[str, Any]) -> list[list[Any]] | None:
    segments = [(float(start), float(end)) for start, end in (record.get("segments") or ())[:MAX_TURNS]]
    return [[plain(start), plain(end)] for start, end in segments if math.isfinite(start + end)] or None


def _spans(indices: Sequence[int] | None) -> list[list[int]] | None:
    """Write sorted indices as inclusive [first, last] runs."""
    if indices is None:
        return None
    spans: list[list[int]] = []
    for index in sorted(map(int, indices)):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return spans[:MAX_FRAMES]


def plain(value: Any) -> Any:
    """Round a number for the page; NaN and infinity, which JSON lacks, become their names."""
    if value is None or isinstance(value, bool):
        return value
    number = float(value)
    if not math.isfinite(number):
        return str(number)
    return int(number) if number.is_integer() and abs(number) < 2**53 else float(f"{number:.5g}")


def shorten(text: str, limit: int = TEXT_LIMIT) -> str:
    """Leave out the middle of a text longer than `limit`, and say so in its place."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit // 3
    return f"{text[:head]} [... {len(text) - head - tail:,} characters left out ...] {text[-tail:]}"


def _optional_text(value: Any, limit: int = TEXT_LIMIT) -> str | None:
    return None if value is None else shorten(str(value), limit)


def _at(values: Sequence[Any] | None, k: int) -> Any:
    return values[k] if values is not None and k < len(values) else None


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
