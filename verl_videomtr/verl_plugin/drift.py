# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Whether an installed verl still is what the plugin was built on: `plug_points.yaml` in, plain sentences out.

The files are read, not imported: so it takes a second, sees what verl ships and not what a running plugin has put in
its place, and works where verl cannot be imported.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

import yaml
from packaging.requirements import Requirement


@dataclass(frozen=True, kw_only=True)
class PlugPoint:
    """One part of verl (or of TransferQueue, which comes with it) that the plugin relies on."""

    file: str
    """Path below the packages' folder."""
    name: str
    """A function, class or variable in it, `Class.method` for a method; "" is the file itself."""
    used_by: str
    """The plugin's module, below verl_plugin/."""
    parameters: tuple[str, ...] | None = None
    """The function's parameters in order, * and ** as written; None compares none."""
    holds: tuple[str, ...] = ()
    """Pieces of code that it must hold; layout, quotes and comments do not count."""


def _read_points(text: str) -> Iterator[PlugPoint]:
    for module, files in yaml.safe_load(text).items():
        for file, parts in files.items():
            for part, pieces in parts.items():
                name, has_parameters, inside = part.partition("(")
                yield PlugPoint(
                    file=file,
                    name=name,
                    used_by=module,
                    parameters=tuple(re.findall(r"[*\w]+", inside)) if has_parameters else None,
                    holds=tuple((pieces or "").splitlines()),
                )


PLUG_POINTS = tuple(_read_points((Path(__file__).parent / "plug_points.yaml").read_text(encoding="utf-8")))


def supported_range() -> str:
    """Return the versions of verl that the installed package accepts, as requirements/base.in has them."""
    for text in metadata.requires("verl-videomtr") or ():
        requirement = Requirement(text)
        if requirement.name == "verl" and requirement.marker is None:
            return str(requirement.specifier)
    raise RuntimeError("the installed verl-videomtr names no verl among its requirements; install it again")


def find_problems(
    points: Iterable[PlugPoint] = PLUG_POINTS, *, replaced: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Compare the plug points with the installed packages.

    Args:
        replaced: source text to read in a file's place, by `PlugPoint.file`.
    Returns:
        One sentence for every point that is not what the plugin was built on.
    """
    problems = []
    for point in points:
        found = _compare(point, replaced[point.file] if point.file in replaced else _read(point.file))
        if found is not None:
            whole = f"{point.file}:{point.name}" if point.name else point.file
            problems.append(
                f"{whole} {found}; verl_videomtr/verl_plugin/{point.used_by}.py is built on it; "
                f"expected verl{_say_range()}; install a verl in that range, or adapt that module and plug_points.yaml"
            )
    return problems


def _compare(point: PlugPoint, text: str | None) -> str | None:
    """Say what is wrong with one point, or nothing."""
    if text is None:
        return "is not there"
    node = _find(_parse(text), point.name.split(".") if point.name else [])
    if node is None:
        return "is not there"
    if point.parameters is not None:
        actual = _parameters(node)
        if actual != point.parameters:
            return f"takes {_say(actual)} where it took {_say(point.parameters)}"
    code = _words(ast.unparse(node))
    for piece in point.holds:
        if _words(piece) not in code:
            return f"no longer holds `{' '.join(piece.split())}`"
    return None


@functools.lru_cache(maxsize=64)
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


def _find(node: ast.AST, names: Sequence[str]) -> ast.AST | None:
    """Walk from a module down to `Class.method` or a variable's assignment."""
    for name in names:
        body: list[ast.stmt] = getattr(node, "body", [])
        # The last of a name counts, as at import.
        node_or_none = next((item for item in reversed(body) if name in _names(item)), None)
        if node_or_none is None:
            return None
        node = node_or_none
    return node


def _names(item: ast.stmt) -> list[str]:
    if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [item.name]
    targets = item.targets if isinstance(item, ast.Assign) else [item.target] if isinstance(item, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _parameters(node: ast.AST) -> tuple[str, ...]:
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return ()
    given = node.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    names += [f"*{given.vararg.arg}"] if given.vararg else []
    names += [argument.arg for argument in given.kwonlyargs]
    names += [f"**{given.kwarg.arg}"] if given.kwarg else []
    return tuple(names)


def _words(code: str) -> str:
    """Set words and signs apart, so that layout does not count and a longer name is another one."""
    return f" {' '.join(re.findall(r'[0-9A-Za-z_]+|[^0-9A-Za-z_ ]', code.replace(chr(10), ' ')))} "


def _say(parameters: tuple[str, ...]) -> str:
    return f"({', '.join(parameters)})"


def _say_range() -> str:
    try:
        return supported_range()
    except (metadata.PackageNotFoundError, RuntimeError):
        return " as in requirements/base.in"


@functools.lru_cache(maxsize=64)
def _read(file: str) -> str | None:
    package, _, rest = file.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / rest
    return path.read_text(encoding="utf-8") if path.is_file() else None
