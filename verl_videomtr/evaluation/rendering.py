# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Tables as Markdown, CSV and JSON: the same numbers three times."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from verl_videomtr.evaluation.statistics import Estimate
from verl_videomtr.evaluation.tables import Report
from verl_videomtr.serving.texts import one_line

MAX_LISTED = 20
"""Failures that the Markdown lists; JSON and CSV have all."""
MAX_GROUP_ROWS = 16
"""A group with more values goes to CSV and JSON, not into the Markdown."""


def percent(estimate: Estimate) -> str:
    """`59.0 [55.2, 62.7]`: per cent, with the interval where there is one."""
    value = f"{100 * estimate.value:.1f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def markdown(reports: Sequence[Report], *, line: str) -> str:
    """Everything that a reader of the result needs, for a terminal as for a page."""
    return "\n".join([*(part for report in reports for part in _sections(report)), one_line(line), ""])


def to_json(reports: Sequence[Report], *, line: str) -> str:
    """All numbers, unrounded."""
    return json.dumps({"line": line, "reports": [_plain(report) for report in reports]}, indent=2) + "\n"


def to_csv(reports: Sequence[Report]) -> str:
    """One number a row: data_source, table, value, accuracy, low, high, questions."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["data_source", "table", "value", "accuracy", "low", "high", "questions"])
    for report in reports:
        for table, value, estimate in _estimates(report):
            writer.writerow(
                [report.data_source, table, value, estimate.value, estimate.low, estimate.high, estimate.num]
            )
    return buffer.getvalue()


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up in a terminal too; the first row is the head."""
    rows = [[one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _sections(report: Report) -> Iterator[str]:
    yield f"## {one_line(report.title)}"
    yield ""
    rows = [["accuracy, % [95% by video]", "", "questions"]]
    rows.append([report.headline, percent(report.main), str(report.main.num)])
    if report.headline != "micro":
        rows.append(["micro", percent(report.micro), str(report.micro.num)])
    if report.answered is not None:
        rows.append(["micro, failed episodes left out", percent(report.answered), str(report.answered.num)])
    rows += [[f"paper: {model}, same frames", f"{value:.1f}", ""] for model, value in report.paper]
    yield from table(rows)
    yield ""
    for group in report.groups:
        if len(group.rows) > MAX_GROUP_ROWS:
            yield f"{one_line(group.group)}: {len(group.rows)} values, in the CSV; macro {percent(group.macro)}"
        else:
            head = [group.group, "accuracy, %", "questions"]
            body = [[value, percent(estimate), str(estimate.num)] for value, estimate in group.rows]
            yield from table([head, *body, ["macro", percent(group.macro), ""]])
        yield ""
    yield from _course_lines(report)
    if report.failures:
        yield f"{len(report.failures)} episodes failed; they are wrong in the main number:"
        yield from (one_line(f"- {sample_id}: {why}") for sample_id, why in report.failures[:MAX_LISTED])
        if len(report.failures) > MAX_LISTED:
            yield f"- and {len(report.failures) - MAX_LISTED} more, in the JSON"
        yield ""


def _course_lines(report: Report) -> Iterator[str]:
    shown = {name: value for name, value in report.course.items() if value is not None}
    if shown:
        yield from table([["per episode", ""], *([name.replace("_", " "), f"{v:.3g}"] for name, v in shown.items())])
        yield ""


def _estimates(report: Report) -> Iterator[tuple[str, str, Estimate]]:
    yield "headline", report.headline, report.main
    yield "overall", "micro", report.micro
    if report.answered is not None:
        yield "overall", "micro, failed episodes left out", report.answered
    for group in report.groups:
        for value, estimate in group.rows:
            yield group.group, value, estimate
        yield group.group, "macro", group.macro


def _plain(report: Report) -> dict[str, Any]:
    return {**dataclasses.asdict(report), "main": dataclasses.asdict(report.main)}
