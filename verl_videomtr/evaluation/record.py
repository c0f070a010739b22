"""One line of an evaluation's trajectory file: what was played and earned, or why there is no episode."""

from __future__ import annotations

from typing import Any

from verl_videomtr.rollout import Rollout
from verl_videomtr.sample import Sample, question_text
from verl_videomtr.scoring import EpisodeScore
from verl_videomtr.serving.chat import ChatPolicy

SCHEMA_VERSION = 2


def played_line(rollout: Rollout, policy: ChatPolicy, score: EpisodeScore) -> dict[str, Any]:
    """Describe a played episode."""
    entries = policy.entries
    return {
        **_head(rollout.sample, "played"),
        "turn_rows": [0] * len(entries),
        "turn_spans": [[0, 0]] * len(entries),
        "turn_rewards": score.turn_rewards,
        "components": score.components,
        "correct": score.correct,
        "finish_reasons": [entry["finish_reason"] for entry in entries],
        "prompt_tokens": [entry["input_tokens"] for entry in entries],
        "response_tokens": [entry["output_tokens"] for entry in entries],
        "response_seconds": [entry["seconds"] for entry in entries],
        "seconds": dict(rollout.seconds),
        "episode": rollout.episode.record(),
    }


def lost_line(sample: Sample, kind: str, error: Exception) -> dict[str, Any]:
    """Describe an episode that was not played to its end.

    Args:
        kind: "unreadable" (the video), "refused", "unanswered" (the server), or "failed".
    """
    return {**_head(sample, "lost"), "kind": kind, "error": " ".join(str(error).split())}


def _head(sample: Sample, status: str) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "sample_id": sample.sample_id,
        "data_source": sample.data_source,
        "split": sample.split,
        "video": sample.video,
        "question": question_text(sample),
        "question_type": sample.question_type,
        "options": list(sample.options),
        "ground_truth": sample.answer,
        "segments": None if sample.segments is None else [list(span) for span in sample.segments],
        "groups": dict(sample.groups),
        "step": None,
        "uid": None,
        "session": None,
    }
