# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/appendix/configuration.md: every `videomtr.*` key with its default, from the comments in paper.yaml.

    python tests/support/write_configuration_reference.py

The reward's fields come from the docstrings of `RewardConfig`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "appendix" / "configuration.md"
PAPER = ROOT / "verl_videomtr" / "conf" / "videomtr" / "paper.yaml"
REWARDS = ROOT / "verl_videomtr" / "rewards.py"
HEAD = """# Configuration reference

<!-- written by tests/support/write_configuration_reference.py -->

Every key below `videomtr`, with the default of `+videomtr=paper`
([paper.yaml](../../verl_videomtr/conf/videomtr/paper.yaml)). `+videomtr=released_code` has other values for some of
them ([algorithm.md](algorithm.md)). All are Hydra overrides of the launch, such as
`videomtr.episode.frame_budget=64`; a key that does not exist, or a value out of its range, ends the launch with a
message that names it.
"""


def keys(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (dotted key, default as written, comment) of every line below `videomtr:`; a section has no default."""
    path: list[str] = []
    comment: list[str] = []
    lines = text[text.index("\nvideomtr:\n") + len("\nvideomtr:\n") :].splitlines()
    for line in lines:
        if line and not line.startswith(" "):
            return
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
            continue
        if found := re.match(r"^( +)(\w+):(?: (.+))?$", line):
            depth = len(found[1]) // 2 - 1
            path = [*path[:depth], found[2]]
            yield ".".join(path), found[3] or "", " ".join(comment)
        elif line:
            raise ValueError(f"{line!r} is no `key: value`; expected one key a line; {PAPER}")
        comment = []


def reward_fields() -> Iterator[tuple[str, str, str]]:
    """Yield (name, default, docstring) of every field of `RewardConfig`."""
    tree = ast.parse(REWARDS.read_text(encoding="utf-8"))
    (config,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "RewardConfig")
    for field, doc in zip(config.body, config.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
            assert isinstance(field.target, ast.Name)
            default = ast.unparse(field.value) if field.value else ""
            default = default.split(".")[-1].lower() if default.startswith(("Gate.", "Baseline.")) else default
            assert isinstance(doc.value, ast.Constant)
            yield field.target.id, default, " ".join(str(doc.value.value).split())


def page() -> str:
    """Make the whole page."""
    parts = [HEAD]
    sections: dict[str, list[str]] = {"videomtr": []}
    about: dict[str, str] = {"videomtr": ""}
    for key, default, comment in keys(PAPER.read_text(encoding="utf-8")):
        if not default:
            sections[f"videomtr.{key}"] = []
            about[f"videomtr.{key}"] = comment
            continue
        section = f"videomtr.{key}".rpartition(".")[0]
        sections[section].append(f"| `{key.rpartition('.')[2]}` | `{default}` | {comment} |")
    for section, rows in sections.items():
        if rows:
            parts.append(
                "\n".join([f"## `{section}`", "", *([about[section], ""] if about[section] else []), *_table(rows)])
            )
    rows = [f"| `{name}` | `{default}` | {doc} |" for name, default, doc in reward_fields()]
    introduction = (
        "Of the package's own reward function; the prefix takes a plus sign, as verl has no such keys:\n"
        "`+reward.custom_reward_function.reward_kwargs.gate=none`. `preset` (`paper` or `released_code`) names all\n"
        "at once."
    )
    parts.append("\n".join(["## `reward.custom_reward_function.reward_kwargs`", "", introduction, "", *_table(rows)]))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _table(rows: list[str]) -> list[str]:
    return ["| key | default | what |", "|---|---|---|", *rows]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
