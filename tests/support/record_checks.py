# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the lines of a real run must hold, whichever of verl's trainers wrote them: see docs/records.md."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from verl_videomtr import cli
from verl_videomtr.sample import read_rows
from verl_videomtr.trajectory import SCHEMA_VERSION, Trajectory
from verl_videomtr.trajectory_files import list_files, read_file, read_run, step_file

OF_EACH_TURN = ("turn_rows", "turn_spans", "turn_rewards", "turn_components", "finish_reasons", "prompt_tokens",
                "response_tokens")  # fmt: skip
CREDIT = ("advantages", "returns", "values")


def check_line(line: Mapping[str, Any], *, step: int) -> None:
    """Hold what every played line says, trained or not."""
    assert set(line) == {field.name for field in dataclasses.fields(Trajectory)}
    assert (line["schema_version"], line["status"], line["step"]) == (SCHEMA_VERSION, "played", step)
    assert line["uid"]
    assert line["session"] >= 0
    num_turns = len(line["episode"]["responses"])
    assert num_turns > 0
    assert {name: len(line[name]) for name in OF_EACH_TURN} == dict.fromkeys(OF_EACH_TURN, num_turns)
    assert line["response_tokens"] == [end - start for start, end in line["turn_spans"]]
    assert all(reason in ("stop", "length") for reason in line["finish_reasons"])
    for reward, parts in zip(line["turn_rewards"], line["turn_components"], strict=True):
        assert set(parts) == {"acc", "fms", "format"}
        assert math.fsum(parts.values()) == pytest.approx(reward)
    assert 0 <= line["policy_version"]["min"] <= line["policy_version"]["max"] <= step
    assert len(line["episode"]["times_seconds"]) == line["episode"]["pool_size"]


def check_credit(lines: Iterable[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> int:
    """Compare lines with the rows of the update that they were trained in.

    Args:
        rows: as a probe saw them behind verl's own `_compute_advantage`, with `key` and what the trainer has of CREDIT.
    Returns:
        How many turns were compared.
    """
    by_key = {row["key"]: row for row in rows}
    num_compared = 0
    for line in lines:
        for turn, (number, (start, end)) in enumerate(zip(line["turn_rows"], line["turn_spans"], strict=True)):
            row = by_key.get(f"{line['uid']}_{line['session']}_{number}")
            for name in CREDIT:
                if end == start:
                    assert line[name] is None or line[name][turn] is None
                elif row is not None and name in row:
                    assert line[name][turn] == float(row[name][end - 1]), (line["sample_id"], name, turn)
                    num_compared += name == "advantages"
    return num_compared


def check_validation(folder: Path, data: Path, *, step: int) -> None:
    """Hold that a validation has one line of every row, complete but for credit."""
    played = read_file(step_file(folder / "val", step)).played
    assert sorted(line["sample_id"] for line in played) == sorted(row.sample_id for row in read_rows(data))
    for line in played:
        check_line(line, step=step)
        assert [line[name] for name in CREDIT] == [None] * len(CREDIT)
        assert line["bonus"] == []
        assert line["policy_version"] == {"min": step, "max": step}


def check_rescore(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hold that scoring a run's lines anew gives every one again."""
    run = read_run(folder)
    assert run is not None
    assert run["kind"] == "train"
    assert cli.main(["rescore", str(folder), "--out", str(out)]) == 0
    files = list_files(folder)
    num_played = sum(len(read_file(path).played) for path in files)
    said = capsys.readouterr().out
    assert f"replayed to the stored record: {num_played} of {num_played}" in said
    assert f"score changed: 0 of {num_played}\n" in said
    for path in files:
        assert read_file(out / path.relative_to(folder)).records == read_file(path).records
