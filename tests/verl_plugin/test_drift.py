# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""verl's inside is what the plugin was built on; where it is not, a sentence says what has changed and who minds."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from verl_videomtr.verl_plugin.drift import PLUG_POINTS, PlugPoint, find_problems, supported_range

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "verl_videomtr" / "verl_plugin"


def test_installed_verl_has_every_plug_point():
    assert len(PLUG_POINTS) > 90
    assert sum(len(point.holds) for point in PLUG_POINTS) > 100
    assert sum(point.parameters is not None for point in PLUG_POINTS) > 50
    assert find_problems() == []


def _source(file: str) -> str:
    package, rest = file.split("/", 1)
    return (Path(importlib.util.find_spec(package).origin).parent / rest).read_text(encoding="utf-8")


def _alter(point: PlugPoint, change) -> str:
    """Apply `change` to the point's node in a copy of its file; a change that returns None removes the node."""
    tree = ast.parse(_source(point.file))
    *outer, name = point.name.split(".")
    parent = tree
    for part in outer:
        parent = next(item for item in parent.body if getattr(item, "name", None) == part)
    for place, item in enumerate(parent.body):
        targets = getattr(item, "targets", None) or [getattr(item, "target", None)]
        if getattr(item, "name", None) == name or name in [getattr(target, "id", None) for target in targets]:
            changed = change(item)
            parent.body[place] = ast.Pass() if changed is None else changed
    return ast.unparse(ast.fix_missing_locations(tree))


def _ids(point: PlugPoint) -> str:
    return f"{Path(point.file).stem}:{point.name}"


@pytest.mark.parametrize("point", [point for point in PLUG_POINTS if point.name], ids=_ids)
def test_removed_part_is_found(point):
    (sentence,) = find_problems([point], replaced={point.file: _alter(point, lambda item: None)})
    assert sentence.startswith(f"{point.file}:{point.name} is not there; ")


@pytest.mark.parametrize("point", [point for point in PLUG_POINTS if point.parameters is not None], ids=_ids)
def test_changed_signature_is_found(point):
    def add_parameter(item):
        item.args.args.append(ast.arg(arg="surprise"))
        return item

    (sentence,) = find_problems([point], replaced={point.file: _alter(point, add_parameter)})
    assert "surprise" in sentence
    assert f"where it took ({', '.join(point.parameters)})" in sentence
    assert f"{point.used_by}.py is built on it" in sentence


@pytest.mark.parametrize(
    ("point", "piece"), [(point, piece) for point in PLUG_POINTS for piece in point.holds], ids=lambda value: None
)
def test_changed_inside_is_found(point, piece):
    # The point with that piece alone, against verl's file without it: other code stays as it is.
    alone = PlugPoint(file=point.file, name=point.name, used_by=point.used_by, holds=(piece,))
    word = max(re.findall(r"\w+", piece), key=len)
    text = re.sub(rf"\b{word}\b", f"{word}_renamed", _source(point.file))
    (sentence,) = find_problems([alone], replaced={point.file: text})
    assert "no longer holds" in sentence or "is not there" in sentence


def test_sentence_says_what_changed_who_minds_and_what_is_expected():
    point = PlugPoint(
        file="verl/a.py", name="Trainer.step", used_by="trainers", parameters=("self", "batch", "metrics")
    )
    altered = "class Trainer:\n    def step(self, batch, *, weights): ..."
    (sentence,) = find_problems([point], replaced={"verl/a.py": altered})
    assert sentence == (
        "verl/a.py:Trainer.step takes (self, batch, weights) where it took (self, batch, metrics); "
        "verl_videomtr/verl_plugin/trainers.py is built on it; "
        f"expected verl{supported_range()}; install a verl in that range, or adapt that module and plug_points.yaml"
    )


def test_layout_quotes_and_comments_are_no_change():
    point = PlugPoint(
        file="verl/a.py", name="f", used_by="x", parameters=("a", "*b", "c", "**d"), holds=("a['k'] + 1",)
    )
    text = 'def f(a, *b,\n      c=1, **d):\n    # why\n    return (\n        a["k"]  # this\n        + 1)\n'
    assert find_problems([point], replaced={"verl/a.py": text}) == []


def test_file_that_is_gone_is_found():
    point = PlugPoint(file="verl/no_such_file.py", name="f", used_by="x")
    assert "verl/no_such_file.py:f is not there" in find_problems([point])[0]


def _taken_from_verl() -> dict[str, str]:
    """Names that the plugin imports from verl, and functions of TransferQueue that it calls, with the file's name.

    The doctor's are called by the doctor itself, before a run.
    """
    found = {}
    for path in PLUGIN.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("verl", "transfer_queue"):
                found.update({alias.name: path.stem for alias in node.names})
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tq":
                found[node.attr] = path.stem
    return found


def test_everything_that_the_plugin_takes_from_verl_is_a_plug_point():
    known = {point.name.split(".")[0] for point in PLUG_POINTS}
    taken = _taken_from_verl()
    assert {"register_adv_est", "AgentLoopOutput", "kv_batch_get"} <= taken.keys()
    missing = {name: user for name, user in taken.items() if name not in known}
    assert missing == {}, "add them to verl_videomtr/verl_plugin/plug_points.yaml"


@pytest.mark.parametrize("user", sorted({point.used_by for point in PLUG_POINTS}))
def test_module_that_minds_is_there(user):
    assert (PLUGIN / f"{user}.py").is_file()


def _range_of_base() -> SpecifierSet:
    lines = (ROOT / "requirements/base.in").read_text(encoding="utf-8").splitlines()
    return Requirement(next(line for line in lines if line.startswith("verl"))).specifier


def test_installed_verl_is_in_the_supported_range():
    assert metadata.version("verl") in _range_of_base()
    assert SpecifierSet(supported_range()) == _range_of_base(), "install the package anew"


def test_every_other_mention_of_the_range_agrees_with_the_one_place():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    files = [
        ROOT / line for line in tracked.stdout.splitlines() if line.endswith((".py", ".md", ".in", ".toml", ".yaml"))
    ]
    own = {ROOT / "requirements/base.in", Path(__file__)}
    wanted, mentions = _range_of_base(), 0
    for path in files:
        if path in own or not path.is_file():
            continue
        for text in re.findall(r"\bverl(?:\[[\w,-]+\])?((?:[<>=!~]=?[\d.]+,?)+)", path.read_text(encoding="utf-8")):
            specifier = SpecifierSet(text.rstrip(",."))
            mentions += 1
            pinned = [item.version for item in specifier if item.operator == "=="]
            assert specifier == wanted or (all(version in wanted for version in pinned) and pinned), (
                f"{path}: verl{text}"
            )
    assert mentions >= 3


def test_locks_pin_a_verl_of_the_range():
    for name in ("cpu", "gpu"):
        text = (ROOT / f"requirements/{name}.lock").read_text(encoding="utf-8")
        (version,) = set(re.findall(r"^verl==([\d.]+)", text, re.MULTILINE))
        assert version in _range_of_base()
