# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""verl's trainer configuration, composed in this process: Hydra overrides in, what `main_ppo` would be given out.

It is the composition of `python -m verl.trainer.main_ppo <overrides>`: verl's own `ppo_trainer`, the groups of this
package and whatever else is on Hydra's search path. verl itself is not imported, so it takes about a second.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIG_NAME = "ppo_trainer"
GROUP = "videomtr"
BASES = (GROUP, f"{GROUP}/recipe")
"""Groups that set everything; the others depart from them."""


class ComposeError(ValueError):
    """The overrides do not compose to a configuration; the message names the override and what to write instead."""


def compose(overrides: Sequence[str], *, config_name: str = CONFIG_NAME) -> DictConfig:
    """Compose verl's trainer configuration with Hydra overrides, as they stand on `main_ppo`'s command line.

    Interpolations stay as they are, but all of them resolve.

    Args:
        overrides: for example ["+videomtr=paper", "+videomtr/budget=b64", "trainer.nnodes=2"].
        config_name: verl's primary configuration.
    Raises:
        ComposeError: an override cannot be read, a key or group does not exist, an interpolation does not resolve.
    """
    for override in overrides:
        _parse(override)
    check_group_order(overrides)
    try:
        config = _compose(overrides, config_name)
    except CompactHydraException as error:
        raise ComposeError(_explain(error, overrides, config_name)) from error
    check_group_names(config)
    try:
        # As verl does before its trainer starts; a copy, since a caller may want the interpolations.
        OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ComposeError(
            f"{_one_line(error)}; expected interpolations of existing keys; correct the override, or quote a literal $ "
            "as '\\$'"
        ) from error
    return config


def list_groups() -> list[str]:
    """The overrides that choose this package's groups: +videomtr=paper, +videomtr/budget=b32 and so on."""
    return sorted(_group_overrides())


def verl_config_folder() -> Path:
    """Where the installed verl keeps its configuration, found without importing it.

    Raises:
        ComposeError: verl is not installed.
    """
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise ComposeError("verl is not installed here; expected verl>=0.9.1,<0.10; pip install 'verl[vllm]==0.9.1'")
    return Path(spec.origin).parent / "trainer" / "config"


def _compose(overrides: Sequence[str], config_name: str) -> DictConfig:
    with initialize_config_dir(str(verl_config_folder()), version_base=None):
        return hydra_compose(config_name, overrides=list(overrides))


def _parse(override: str) -> Any:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ComposeError(
            f"the override {override!r} cannot be read ({_one_line(error)}); expected key=value, +new.key=value, "
            "+group=choice or ~key; "
            + (
                "write a path out in full, without ~"
                if "=~" in override
                else "quote the whole of it for the shell, and a text with special signs once more: 'key=\"a, b\"'"
            )
        ) from error


def _explain(error: Exception, overrides: Sequence[str], config_name: str) -> str:
    text = _one_line(error)
    if found := re.search(r"Could not (?:find|load) '([^']+)'", text):
        return _explain_group(found[1], text, overrides)
    if found := re.search(r"Could not override '([^']+)'\. No match in the defaults list", text):
        choices = _choices(found[1], lead="+")
        expected = f"a leading +, and one of {choices}" if choices else "a leading +"
        return f"{found[1]} is a group that nothing has chosen yet; expected {expected}; write +{found[1]}=..."
    if found := re.search(r"Multiple values for (\S+?)\.|(\S+) appears more than once in the final", text):
        return _explain_twice(found[1] or found[2], text, overrides)
    if found := re.search(r"Either remove \+ prefix: '([^']+)'", text):
        return f"{found[1].split('=')[0]} exists already; expected no leading +; write {found[1]}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return _explain_key(found[1], overrides, config_name)
    return f"{text}; expected overrides that compose with verl's {config_name}; correct the override that it names"


def _explain_group(name: str, text: str, overrides: Sequence[str]) -> str:
    group = name.rpartition("/")[0]
    if name.split("/")[0] == GROUP and "pkg://verl_videomtr.conf" not in text:
        return (
            f"Hydra does not find the groups of verl_videomtr (asked for {name}); expected its search path plugin "
            "hydra_plugins/videomtr_search_path.py in site-packages; install the package again: pip install "
            "--force-reinstall --no-deps verl_videomtr"
        )
    # A group that a recipe has chosen already is changed without a +.
    lead = "+" if any(override.startswith(f"+{group}=") for override in overrides) else ""
    choices = _choices(group, lead=lead)
    expected = f"one of {choices}" if choices else _one_line(text)
    return f"there is no configuration group choice {name}; expected {expected}; correct its name"


def _explain_twice(group: str, text: str, overrides: Sequence[str]) -> str:
    """A group has two choices: two overrides, or one with a + over what a recipe chose."""
    typed = [override for override in overrides if override.startswith(f"+{group}=")]
    if len(typed) == 1 and group not in BASES:
        return (
            f"{typed[0]}: the recipe has chosen of {group} already; expected no leading +; write {typed[0].lstrip('+')}"
        )
    return f"{text}; expected one choice of the group {group}; leave one of the two out"


def _choices(group: str, *, lead: str) -> str:
    """The overrides that choose of a group, as one would type them."""
    names = [choice.removeprefix("+") for choice in list_groups() if choice.startswith(f"+{group}=")]
    return ", ".join(f"{lead}{name}" for name in names)


def _explain_key(key: str, overrides: Sequence[str], config_name: str) -> str:
    others = [override for override in overrides if _parse(override).key_or_group != key]
    try:
        known = set(_keys(_compose(others, config_name)))
    except CompactHydraException:
        known = set()
    if key.split(".")[0] == GROUP and GROUP not in known:
        return f"{key} is set, but nothing has chosen the group {GROUP}; expected it first; add +videomtr=paper"
    root, leaf = key.split(".")[0], key.split(".")[-1]
    elsewhere = [name for name in known if name.split(".")[-1] == leaf]
    elsewhere.sort(key=lambda name: (name.split(".")[0] != root, name))
    close = [*elsewhere[:2], *difflib.get_close_matches(key, known, n=2, cutoff=0.85)]
    meant = f"did you mean {' or '.join(dict.fromkeys(close))}?" if close else "--cfg job at the launch lists all keys."
    return f"there is no key {key}; expected an existing one; {meant} (+{key}=... adds a key that nothing may read)"


def check_group_order(overrides: Sequence[str]) -> None:
    """Raise ComposeError where a preset or recipe stands behind a group whose settings it would take back."""
    early = None
    for override in overrides:
        name = override.lstrip("+").partition("=")[0]
        if name in BASES and override.startswith("+") and early is not None:
            raise ComposeError(
                f"{override} stands behind {early} and would take back what that sets; expected presets and recipes "
                f"before other groups; write {override} first"
            )
        if name.startswith(f"{GROUP}/") and name not in BASES and override.startswith("+"):
            early = early or override


def check_group_names(config: DictConfig) -> None:
    """A group that does not exist is no error to Hydra: `+a/b=c` then adds a key of the name `a/b`."""
    for key in map(str, config):
        if "/" in key:
            raise ComposeError(
                f"the override +{key}={config[key]} chose no configuration group; expected one of "
                f"{', '.join(list_groups())}; correct its name"
            )


def _group_overrides() -> Iterator[str]:
    folder = resources.files("verl_videomtr.conf").joinpath(GROUP)
    for entry in folder.iterdir():
        if entry.is_dir():
            for file in entry.iterdir():
                if file.name.endswith(".yaml"):
                    yield f"+{GROUP}/{entry.name}={file.name.removesuffix('.yaml')}"
        elif entry.name.endswith(".yaml"):
            yield f"+{GROUP}={entry.name.removesuffix('.yaml')}"


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, config):
        name = f"{prefix}{key}"
        yield name
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key):
            continue
        if isinstance(config[key], DictConfig):
            yield from _keys(config[key], f"{name}.")


def _one_line(error: Any) -> str:
    return " ".join(str(error).split())
