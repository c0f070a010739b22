# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The reward function that a configuration or a `run.json` names, loaded without verl."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PACKAGE = "pkg://"
OWN = {"path": f"{PACKAGE}verl_videomtr.rewards", "name": "compute_score"}
"""The package's own, which a configuration that names none gets."""


def describe_reward(section: Mapping[str, Any]) -> dict[str, Any]:
    """Turn verl's `reward.custom_reward_function` into `path`, `name` and the function's own arguments."""
    named = {"path": section.get("path"), "name": section.get("name")} if section.get("path") else OWN
    return {**named, **(section.get("reward_kwargs") or {})}


def is_own(reward: Mapping[str, Any]) -> bool:
    """Whether it is the package's own function."""
    return {name: reward.get(name) for name in OWN} == OWN


def load_reward_function(reward: Mapping[str, Any]) -> Callable[..., Any]:
    """Load a function by `path` (a module behind pkg://, or a file) and `name`, with the other entries as arguments.

    Raises:
        ValueError: there is no such module, file or function.
    """
    path, name = str(reward["path"]), str(reward["name"])
    where = f"reward.custom_reward_function.path={path}"
    if path.startswith(PACKAGE):
        try:
            module = importlib.import_module(path.removeprefix(PACKAGE))
        except ModuleNotFoundError as error:
            raise ValueError(f"{where} cannot be imported ({error}); expected an installed module") from error
    else:
        spec = importlib.util.spec_from_file_location("videomtr_reward_function", path)
        if spec is None or spec.loader is None or not Path(path).is_file():
            raise ValueError(f"{where} is not there; expected a Python file; put it back, or correct the path")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{where} has no function {name!r}; expected reward.custom_reward_function.name to name one")
    arguments = {key: value for key, value in reward.items() if key not in OWN}
    return functools.partial(function, **arguments) if arguments else function
