# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes, curves and tables -> the page: one HTML file that loads nothing, or a folder for very many episodes.

The page's data are JSON in script blocks that the browser does not run. Its Content-Security-Policy names the one
script and the one style sheet by their hashes, so nothing that a model, a question or a file name says can run or load.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from verl_videomtr.serving.texts import clean

CHUNK_EPISODES = 40
"""Episodes whose turns are read together when one of them is opened."""
SCRIPTS = (
    "base.js",
    "data.js",
    "state.js",
    "timeline.js",
    "gallery.js",
    "episode.js",
    "charts.js",
    "runs.js",
    "main.js",
)
STYLE = "page.css"


@dataclass(frozen=True, kw_only=True)
class Block:
    """One piece of the page's data, read by its name when it is needed."""

    name: str
    json: str


def block(name: str, data: Any) -> Block:
    """Write `data` as JSON that stands safely in an HTML script block.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Block(name=name, json=text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def chunk_blocks(prefix: str, items: Sequence[Any], size: int) -> Iterator[Block]:
    """Write `items` in blocks of `size`, named `<prefix><number>`."""
    for number, start in enumerate(range(0, len(items), size)):
        yield block(f"{prefix}{number}", items[start : start + size])


def write_page(out: Path, blocks: Sequence[Block], *, title: str) -> int:
    """Write one self-contained page, whole or not at all; return its bytes."""
    text = _render(blocks, title=title, loads="")
    _write(out, text)
    return len(text.encode())


def write_folder(out: Path, blocks: Sequence[Block], *, title: str) -> int:
    """Write `out`/index.html, and the blocks beside it as files that it reads when needed; return the bytes.

    Each writing has a folder of its own below `out`/data, so that a page that is open reads what belongs to it; the
    last but one is kept for it.
    """
    digest = hashlib.sha256("".join(item.json for item in blocks).encode()).hexdigest()[:16]
    data = out / "data" / digest
    size = 0
    # The index comes with the page; the others hand themselves over by calling the page's one global function.
    for item in blocks[1:]:
        text = f"videomtrBlock({json.dumps(item.name)},{item.json})"
        _write(data / f"{item.name}.js", text)
        size += len(text)
    text = _render(blocks[:1], title=title, loads=f"data/{digest}/")
    _write(out / "index.html", text)
    os.utime(data)
    folders = [folder for folder in data.parent.iterdir() if re.fullmatch("[0-9a-f]{16}", folder.name)]
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime_ns)[:-2]:
        shutil.rmtree(folder)
    return size + len(text.encode())


def _render(blocks: Sequence[Block], *, title: str, loads: str) -> str:
    script, style = _source(SCRIPTS), _source((STYLE,))
    return _template().render(
        title=clean(title),
        policy=_policy(script, style, loads=bool(loads)),
        script=script,
        style=style,
        blocks=blocks,
        loads=loads,
    )


def _policy(script: str, style: str, *, loads: bool) -> str:
    """Write the Content-Security-Policy: this script, this style sheet, pictures that stand in the page."""
    # A page opened as a file has no origin that 'self' could name.
    beside = " 'self' file:" if loads else ""
    rules: Mapping[str, str] = {
        "default-src": "'none'",
        "script-src": f"'sha256-{_sha256(script)}'{beside}",
        "style-src": f"'sha256-{_sha256(style)}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "videomtr" if loads else "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@functools.cache
def _source(names: tuple[str, ...]) -> str:
    folder = resources.files("verl_videomtr.report") / "template"
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
    return f'"use strict";\n(() => {{\n{text}\n}})();' if names != (STYLE,) else text


@functools.cache
def _template() -> jinja2.Template:
    folder = resources.files("verl_videomtr.report") / "template"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))


def _write(path: Path, text: str) -> None:
    """Replace `path` in one step: a reader of a page that is followed never sees half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(text, encoding="utf-8")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"the report could not be written ({error.strerror or error}); expected a place for {len(text) / 1e6:.1f} "
            f"MB; {path}; free some space, or give another --out"
        ) from error
