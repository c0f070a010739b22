# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Results as they come: a dictionary -> one JSON line on the disk at once; all lines -> a Markdown table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LINES, TABLE = "results.jsonl", "results.md"


@dataclass(frozen=True)
class Record:
    """The results file of one run, shared by all its stages."""

    folder: Path
    stage: str

    def write(self, check: str, **fields: Any) -> None:
        """Append a line; it is in the file when this returns, so a stage that is cut keeps it."""
        line = {"stage": self.stage, "check": check, **fields}
        with (self.folder / LINES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """Read the lines written so far; a last line that was cut while it was written is left out."""
    path = folder / LINES
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def write_table(folder: Path) -> None:
    """Write the table anew: a row per line, figures as `name value`."""
    rows = ["| stage | check | figures |", "|---|---|---|"]
    for line in read(folder):
        figures = "; ".join(f"{name} {_text(value)}" for name, value in line.items() if name not in ("stage", "check"))
        rows.append(f"| {line['stage']} | {line['check']} | {figures} |".replace("\n", " "))
    (folder / TABLE).write_text("\n".join(rows) + "\n", encoding="utf-8")


def _text(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")
