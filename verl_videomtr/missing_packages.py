# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What to say when a package that this one needs is not there, or too old to be imported: an ImportError -> one line.

The requirement in the line is the installed distribution's own, so it is the one that pip would have followed.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata

DISTRIBUTION = "verl-videomtr"
_OWN = ("verl_videomtr", "data_prep", "recipes", "hydra_plugins")
_DISTRIBUTIONS = {"PIL": "pillow"}
"""Where the name that is imported is not the name that is installed."""


def explain(error: ImportError) -> str | None:
    """Say in one line what to install; None where the fault is in this package itself, whose traceback is wanted."""
    module = (error.name or "").partition(".")[0]
    if not module or module in _OWN or module in sys.stdlib_module_names:
        return None
    name = _DISTRIBUTIONS.get(module, module)
    wanted = _requirement(name)
    try:
        there = f"{name} {metadata.version(name)} is installed"
    except metadata.PackageNotFoundError:
        there = f"{name} is not installed"
    reason = " ".join(str(error).split())
    return f"{there}; expected {wanted} ({reason}); pip install '{wanted}'"


def _requirement(name: str) -> str:
    try:
        texts = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        texts = []
    for text in texts:
        found = re.match(r"[A-Za-z0-9._-]+", text)
        if found and found[0].lower().replace("_", "-") == name.lower().replace("_", "-") and ";" not in text:
            return text
    return name
