# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the server's prompts were those that training would have seen: a journal in, a count and a phrase out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verl_videomtr.serving.texts import one_line


def count_drift(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Count episodes whose later prompts were not what training would have seen, with the first example."""
    judged: set[str] = set()
    drifted: dict[str, Any] = {}
    rejoined = 0
    for key, entry in entries.items():
        episode = key.rpartition("/")[0]
        rejoined += bool(entry.get("rejoined"))
        if entry.get("drift") is not None:
            judged.add(episode)
            if entry["drift"]["at"] is not None:
                drifted.setdefault(episode, entry["drift"])
    first = next(iter(drifted.items()), None)
    return {
        "episodes_judged": len(judged),
        "episodes_drifted": len(drifted),
        "first": None if first is None else {"episode": first[0], **first[1]},
        "responses_rejoined": rejoined,
    }


def say_drift(drift: Mapping[str, Any], *, max_turns: int) -> str:
    """One phrase of the line that holds everything."""
    if max_turns == 1:
        return "none, with one turn"
    judged, drifted = drift["episodes_judged"], drift["episodes_drifted"]
    number = drift["responses_rejoined"]
    rejoined = f", {number} responses rejoined with their reasoning" if number else ""
    if not judged:
        return f"unknown (no episode with a later turn whose token ids the server gave){rejoined}"
    if not drifted:
        return f"0 of {judged} episodes{rejoined}"
    return f"{drifted} of {judged} episodes, NOT COMPARABLE with training's numbers{rejoined}"


def say_first(first: Mapping[str, Any]) -> str:
    """The first difference, so that its cause can be found."""
    where = f"{one_line(first['episode'])}, token {first['at']} of a prompt"
    return f"first drift: {where}: sampled before {first['expected']}, rendered now {first['rendered']}"
