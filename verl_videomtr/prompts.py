# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The texts that a policy reads, kept in template files: values in, message parts out.

A prompt set is one YAML file. The package ships some (`verl_videomtr/prompts/*.yaml`); a team that trains from a
checkpoint with habits of its own brings its file by path. Templates use `{name}` with the names listed in
`TEMPLATES`, and `{image}` marks where a frame's picture goes.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from verl_videomtr.subtitles import HEADING

_COMMON = frozenset(
    {"question", "last_index", "duration_seconds", "max_frames", "turns_left", "retrievals_left", "unit", "next"}
)
_SYSTEM = frozenset({"last_index", "duration_seconds", "max_frames", "max_turns", "retrieve_form"})

TEMPLATES: dict[str, frozenset[str]] = {
    "system": _SYSTEM,
    "system_single_turn": frozenset({"last_index", "duration_seconds"}),
    "retrieve_form_index": frozenset({"last_index"}),
    "retrieve_form_seconds": frozenset({"duration_seconds"}),
    "frame": frozenset({"index", "time_seconds", "image"}),
    "overview": _COMMON | {"frames"},
    "retrieved": _COMMON | {"frames", "start", "end", "num_frames"},
    "invalid": _COMMON | {"reason"},
    "choose": frozenset({"turns_left", "retrievals_left", "max_frames", "last_index"}),
    "answer_now": frozenset(),
}
"""Every template of a prompt set, with the names that it may use."""

_IMAGE_MARK = "\x00image\x00"


class Prompts:
    """A checked prompt set.

    Args:
        templates: template name -> text; exactly the names of `TEMPLATES`.
        source: where it came from, for errors.
    Raises:
        ValueError: a template is missing, unknown, or uses a name that it is not given.
    """

    def __init__(self, templates: dict[str, str], *, source: str = "<dict>") -> None:
        missing = sorted(TEMPLATES.keys() - templates.keys())
        unknown = sorted(templates.keys() - TEMPLATES.keys())
        if missing or unknown:
            raise ValueError(
                f"prompt set has {missing=} and {unknown=} templates; expected exactly {sorted(TEMPLATES)}; {source}"
            )
        for name, text in templates.items():
            if not isinstance(text, str):
                raise ValueError(f"template {name!r} is {text!r}; expected a text; {source}; quote it")
            used = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
            if wrong := sorted(used - TEMPLATES[name]):
                raise ValueError(
                    f"template {name!r} uses {wrong}; expected only {sorted(TEMPLATES[name])}; {source}; "
                    "write {{ and }} for literal braces"
                )
        if templates["frame"].count("{image}") != 1:
            raise ValueError(f"template 'frame' is {templates['frame']!r}; expected {{image}} exactly once; {source}")
        for name in ("overview", "retrieved"):
            if templates[name].count("{frames}") != 1:
                raise ValueError(f"template {name!r} must hold {{frames}} exactly once; {source}")
        self.templates = dict(templates)
        self.source = source

    @classmethod
    def load(cls, name_or_path: str | Path) -> Prompts:
        """Load a shipped set by its name, or any file by its path.

        Raises:
            FileNotFoundError: neither exists.
        """
        return _load(str(name_or_path))

    def system(self, *, single_turn: bool, unit: str, **values: Any) -> str:
        """Render the instructions that open every context; "" means no system message."""
        if single_turn:
            return self._render("system_single_turn", values)
        values["retrieve_form"] = self._render(f"retrieve_form_{unit}", values)
        return self._render("system", values)

    def message(
        self,
        kind: str,
        *,
        frames: Sequence[tuple[int, float]],
        last_turn: bool,
        subtitles: Sequence[str] = (),
        **values: Any,
    ) -> list[str | int]:
        """Render one user message.

        Args:
            kind: "overview", "retrieved" or "invalid".
            frames: (pool index, time in seconds) of the frames shown, in order.
            last_turn: whether only an answer will be valid.
            subtitles: lines that follow the frames.
            values: what the template may name.
        Returns:
            Text, and pool indices where an image goes, in order; no two texts adjacent, none empty.
        """
        values["next"] = self._render("answer_now" if last_turn else "choose", values)
        values["num_frames"] = len(frames)
        values["frames"] = "".join(
            self._render("frame", {"index": index, "time_seconds": time, "image": _IMAGE_MARK})
            for index, time in frames
        )
        if subtitles:
            values["frames"] += "\n".join([HEADING, *subtitles]) + "\n"
        texts = self._render(kind, values).split(_IMAGE_MARK)
        parts: list[str | int] = [texts[0]] if texts[0] else []
        for (index, _), text in zip(frames, texts[1:], strict=True):
            parts.append(index)
            if text:
                parts.append(text)
        return parts

    def _render(self, name: str, values: dict[str, Any]) -> str:
        # A question may hold braces or an image mark of its own: values are substituted once, never re-read.
        clean = {
            key: value.replace(_IMAGE_MARK, " ") if key in ("question", "reason") else value
            for key, value in values.items()
        }
        return self.templates[name].format(**clean)


@functools.lru_cache(maxsize=16)
def _load(name_or_path: str) -> Prompts:
    shipped = resources.files("verl_videomtr") / "prompts" / f"{name_or_path}.yaml"
    if "/" not in name_or_path and shipped.is_file():
        text, source = shipped.read_text(encoding="utf-8"), f"shipped prompt set {name_or_path!r}"
    else:
        path = Path(name_or_path)
        if not path.is_file():
            names = sorted(
                item.name[:-5]
                for item in (resources.files("verl_videomtr") / "prompts").iterdir()
                if item.name.endswith(".yaml")
            )
            raise FileNotFoundError(
                f"prompt set videomtr.prompts={name_or_path!r} is neither shipped ({', '.join(names)}) nor a file; "
                "give one of those names or a path to a YAML file"
            )
        text, source = path.read_text(encoding="utf-8"), str(path)
    loaded = yaml.safe_load(text)
    if not isinstance(loaded, dict):
        raise ValueError(f"prompt set {source} holds {type(loaded).__name__}; expected a mapping of template names")
    return Prompts(loaded, source=source)
