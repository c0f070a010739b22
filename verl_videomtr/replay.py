# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""An episode played again from its own record: no video, no model, no configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verl_videomtr.episode import Episode, EpisodeConfig
from verl_videomtr.prompts import Prompts

WORDS = ("system", "messages")
"""Parts of a record that depend on the prompt set and on the question."""


def replay(
    record: Mapping[str, Any], *, question: str = "", segments: Sequence[Sequence[float]] | None = None
) -> Episode:
    """Play an episode's responses again, with its own frame times and constants.

    Args:
        record: `Episode.record()`.
        segments: ground truth in seconds, or None.
    Returns:
        The finished episode; its record equals the one given, but for `WORDS`, which the shipped prompt set makes.
    Raises:
        ValueError: the record lacks what the game needs, or the episode ends before its last response.
    """
    needed = ("times_seconds", "duration_seconds", "unit", "window", "overview_frames", "max_answer_chars")
    if missing := [name for name in needed if name not in record]:
        raise ValueError(
            f"the record lacks {', '.join(missing)}; expected one of schema version 2; an episode of an older dump "
            "cannot be played again"
        )
    episode = Episode(
        config=EpisodeConfig(
            pool_size=len(record["times_seconds"]),
            frame_budget=record["frame_budget"],
            max_turns=record["max_turns"],
            window=record["window"],
            initial_frames=record["overview_frames"],
            retrieval_frames=record["frames_per_retrieval"] or None,
            unit=record["unit"],
            max_answer_chars=record["max_answer_chars"],
        ),
        prompts=Prompts.load("default"),
        question=question,
        times_seconds=record["times_seconds"],
        duration_seconds=record["duration_seconds"],
        segments=None if segments is None else [(start, end) for start, end in segments],
    )
    episode.reset()
    for number, response in enumerate(record["responses"]):
        if episode.done:
            raise ValueError(f"response {number} comes after the episode's end; expected none; the record was changed")
        episode.step(response)
    if not episode.done:
        episode.truncate()
    return episode


def differences(record: Mapping[str, Any], episode: Episode) -> list[str]:
    """Name the parts of a record that playing it again does not give."""
    again = episode.record()
    return [name for name, value in again.items() if name not in WORDS and record.get(name) != value]
