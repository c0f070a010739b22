# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor says: one finding is one line."""

from __future__ import annotations

import dataclasses
import enum
import json
import shlex
import traceback
from collections.abc import Sequence

from verl_videomtr.verl_plugin.checks import ContradictionError


class Level(str, enum.Enum):
    """How bad a finding is."""

    ERROR = "error"
    """The run would stop, or train on nothing."""
    WARNING = "warning"
    """The run would go on, worse than it should."""
    NOTE = "note"
    """Something that could not be checked here, and why."""
    OK = "ok"
    """Checked, nothing wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    level: Level
    check: str
    """Which check found it, e.g. `lengths.prompt`; docs/appendix/doctor_checks.md lists them."""
    what: str
    """What is so, with its value."""
    why: str = ""
    """What would happen, and where; empty for `ok`."""
    overrides: tuple[str, ...] = ()
    """Those that correct it, as Hydra reads them; empty where none does, or nothing is wrong."""
    advice: str = ""
    """What else corrects it, or goes with the overrides."""

    @property
    def fix(self) -> str:
        """What corrects it, as one types it into a shell."""
        return ", ".join(filter(None, [shlex.join(self.overrides), self.advice]))

    def line(self) -> str:
        """The finding as text, on one line."""
        parts = [f"{self.level.value:<7} {self.check:<19} {self.what}"]
        parts += [self.why] if self.why else []
        parts += [f"fix: {self.fix}"] if self.fix else []
        return " ".join("; ".join(parts).split("\n"))


def error(check: str, what: str, *, why: str, overrides: Sequence[str] = (), advice: str = "") -> Finding:
    return Finding(level=Level.ERROR, check=check, what=what, why=why, overrides=tuple(overrides), advice=advice)


def warning(check: str, what: str, *, why: str, overrides: Sequence[str] = (), advice: str = "") -> Finding:
    return Finding(level=Level.WARNING, check=check, what=what, why=why, overrides=tuple(overrides), advice=advice)


def note(check: str, what: str, *, advice: str = "") -> Finding:
    return Finding(level=Level.NOTE, check=check, what=what, advice=advice)


def ok(check: str, what: str) -> Finding:
    return Finding(level=Level.OK, check=check, what=what)


def refused(check: str, refusal: Exception, *, why: str, is_own: bool) -> Finding:
    """The finding that an exception makes.

    Args:
        is_own: it is one of this package, whose messages end with what is expected or what to do.
    """
    why = f"{why} ({type(refusal).__name__})"
    if isinstance(refusal, ContradictionError):
        return error(check, refusal.what, why=why, overrides=refusal.overrides, advice=refusal.advice)
    text = " ".join(str(refusal).split())
    bottom: BaseException = refusal
    while bottom.__cause__ is not None:
        bottom = bottom.__cause__
    if isinstance(bottom, KeyError):
        text = f"no entry {bottom} at `{_line_of(bottom)}`"
    elif said := " ".join(str(bottom).split()):
        text = text if said in text else f"{text}: {said}"
    else:  # a bare assertion: the line says more than its name
        text = f"{text or type(bottom).__name__} at `{_line_of(bottom)}`"
    what, _, last = text.rpartition("; ")
    if not what or not is_own:
        what, last = text, "correct the value that the message names"
    elif last.startswith("expected "):
        last = f"correct it: {last}"
    return error(check, what, why=why, advice=last)


def _line_of(refusal: BaseException) -> str:
    """The line of code that raised it."""
    frames = traceback.extract_tb(refusal.__traceback__)
    return " ".join((frames[-1].line or frames[-1].name).split()) if frames else type(refusal).__name__


def exit_code(findings: Sequence[Finding]) -> int:
    """0 without errors, 1 with."""
    return int(any(finding.level is Level.ERROR for finding in findings))


def as_json(findings: Sequence[Finding], *, seconds: float) -> str:
    """The report for programs: {"ok", "errors", "warnings", "seconds", "findings": [...]}."""
    count = {level: sum(finding.level is level for finding in findings) for level in Level}
    shown = ("check", "what", "why", "fix", "overrides")
    report = {
        "ok": not count[Level.ERROR],
        "errors": count[Level.ERROR],
        "warnings": count[Level.WARNING],
        "seconds": round(seconds, 1),
        "findings": [
            {"level": finding.level.value} | {name: getattr(finding, name) for name in shown} for finding in findings
        ],
    }
    return json.dumps(report, indent=2, ensure_ascii=False)


def summary(findings: Sequence[Finding], *, seconds: float) -> str:
    """The last line of the report."""
    count = {level: sum(finding.level is level for finding in findings) for level in Level}
    verdict = "this configuration would not run" if count[Level.ERROR] else "nothing found that would stop it"
    return (
        f"{verdict}: {counted(count[Level.ERROR], 'error')}, {counted(count[Level.WARNING], 'warning')}, "
        f"{counted(count[Level.OK], 'check')} passed ({seconds:.1f} s)"
    )


def remedies(findings: Sequence[Finding]) -> str:
    """The overrides of all errors and warnings, in one line to copy into a shell; "" where there are none."""
    chosen: dict[str, str] = {}
    for finding in findings:
        if finding.level in (Level.ERROR, Level.WARNING):
            for override in finding.overrides:
                chosen.setdefault(override.partition("=")[0].lstrip("+~"), override)
    return f"add: {shlex.join(chosen.values())}" if chosen else ""


def counted(number: int, noun: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
