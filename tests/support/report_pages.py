# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the report's tests share: one record to change, and a page's data read back."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

RECORD: dict[str, Any] = {
    "schema_version": 2, "status": "played", "step": 1, "sample_id": "s-1", "uid": "u-1", "session": 0,
    "data_source": "needles", "split": "train", "video": "gone.mp4", "question": "What is put down?",
    "ground_truth": "B", "groups": {"task": "order"}, "question_type": "multiple_choice",
    "options": ["A. a map", "B. a key"],
    "segments": [[2.0, 4.0]], "extra_info": {}, "turn_rows": [0, 0], "turn_spans": [[0, 5], [9, 14]],
    "turn_rewards": [0.6, 1.1], "components": {"acc": 1.0, "fms": 0.5, "format": 0.2, "gate_open": 1},
    "turn_components": [{"fms": 0.5, "format": 0.1, "acc": 0.0}, {"fms": 0.0, "format": 0.1, "acc": 1.0}],
    "gate_open": True, "bonus": [], "policy_version": None, "finish_reasons": ["stop", "stop"],
    "prompt_tokens": [10, 20], "response_tokens": [5, 5], "advantages": [0.4, -0.2], "values": [1.3, 1.3],
    "returns": [1.7, 1.1], "correct": True, "seconds": {"generate": 1.5},
    "episode": {
        "answer": "B", "format_ok": [True, True], "initial_iou": 0.0, "retrieval_ious": [0.5, None],
        "actions": ["retrieve", "answer"], "ranges": [[2, 3], None], "invalid_reasons": [], "invalid_kinds": [],
        "frames": [[0, 4, 7], [2, 3]], "frame_budget": 8, "pool_size": 8, "max_turns": 3,
        "responses": ["<think>not yet</think><retrieve>2,3</retrieve>", "<think>a key</think><answer>B</answer>"],
        "num_segments_between_frames": 0, "stop_reason": "answered", "truth": [2, 3],
        "times_seconds": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5], "duration_seconds": 8.0,
        "returned": [[2, 3], None], "messages": [["An overview: ", 0, 4, 7], ["A closer look: ", 2, 3]],
    },
}  # fmt: skip
"""A played episode of two turns: a look that finds the evidence, and the right answer."""

LOST: dict[str, Any] = {
    "schema_version": 2, "status": "lost", "step": 1, "sample_id": "s-9", "uid": "u-9", "session": 1, "split": "train",
    "kind": "unreadable", "error": "no video stream",
}  # fmt: skip


def record(episode: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Copy `RECORD` with changes to it and to its episode."""
    made = copy.deepcopy(RECORD) | changes
    made["episode"] |= episode or {}
    return made


def write_lines(path: Path, *records: dict[str, Any], end: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in records) + end, encoding="utf-8")
    return path


def read_block(page: str, name: str) -> Any:
    """Read one block of data out of a page's text."""
    found = re.search(rf'<script type="application/json" id="block-{name}">(.*?)</script>', page, re.DOTALL)
    assert found, f"the page has no block {name}"
    return json.loads(found[1])
