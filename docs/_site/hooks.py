# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Brings the pages beside the code into the site: README files of folders as pages, links to source files as text."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("recipes", "data_prep", "benchmarks")
LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie beside the code they describe."""
    pages = [page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md")]
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages]:
        name = page.relative_to(ROOT).as_posix()
        source = "about.md" if name == "README.md" else name
        files.append(File.generated(config, source, abs_src_path=str(page)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at the page's place in the site; one to a file that is no page becomes its text."""
    own = Path(page.file.abs_src_path)

    def rewrite(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = (own.parent / target).resolve()
        if (path / "README.md").exists():
            path = path / "README.md"
        name = path.relative_to(ROOT).as_posix()
        name = "about.md" if name == "README.md" else name.removeprefix("docs/")
        if files.get_file_from_path(name) is None:
            if not path.exists():
                raise ValueError(f"{page.file.src_uri} links to {target!r}; expected a file of the repository")
            return text
        return f"[{text}]({posixpath.relpath(name, posixpath.dirname(page.file.src_uri))}{anchor})"

    return LINK.sub(rewrite, markdown)
