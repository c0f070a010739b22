# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Trajectory lines on disk: nothing announced is lost, a cut line is read around, another form is refused."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from verl_videomtr.trajectory_files import (
    TrajectoryFileError,
    append_to_file,
    list_files,
    lost_record,
    read_file,
    read_run,
    step_file,
    write_file,
    write_run,
)

LINE = {"schema_version": 2, "status": "played", "sample_id": "s", "episode": {"responses": ["ä\ud800\n\u2028"]}}
"""A line need not say all: the reader completes it."""
LOST = lost_record(sample_id="b", kind="unreadable", error="no\n such  file", uid="u", session=0, step=3)


def written(read) -> list[dict]:
    """The records of a file, with no more than what was written."""
    return [record if record["status"] == "lost" else {name: record[name] for name in LINE} for record in read.records]


def test_what_is_written_is_read(tmp_path):
    path = step_file(tmp_path, 3)
    write_file(path, [LINE, LOST])
    append_to_file(path, [LINE])
    read = read_file(path)
    assert written(read) == [LINE, LOST, LINE]
    assert (len(read.played), read.lost, read.num_cut) == (2, [LOST], 0)
    assert LOST["error"] == "no such file"
    assert [item.name for item in tmp_path.iterdir()] == ["step_000003.jsonl"]


def test_step_that_is_written_again_replaces_its_lines(tmp_path):
    write_file(tmp_path / "a.jsonl", [LINE, LINE])
    write_file(tmp_path / "a.jsonl", [LOST])
    assert read_file(tmp_path / "a.jsonl").records == [LOST]


@pytest.mark.parametrize("num_bytes", [1, 40])
def test_cut_line_is_counted_and_taken_off_by_the_next_writer(tmp_path, num_bytes):
    path = tmp_path / "a.jsonl"
    write_file(path, [LINE, LOST])
    path.write_bytes(path.read_bytes()[:-num_bytes])
    read = read_file(path)
    if num_bytes == 1:  # the line is whole but for its end
        assert (len(read.records), read.num_cut) == (2, 0)
    else:
        assert (written(read), read.num_cut) == ([LINE], 1)
    append_to_file(path, [LINE])
    assert read_file(path).num_cut == 0
    assert written(read_file(path))[-1] == written(read_file(path))[0] == LINE


def test_failed_write_leaves_the_old_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    write_file(path, [LINE])
    with pytest.raises(TypeError):
        write_file(path, [LOST, {"not": object()}])
    assert written(read_file(path)) == [LINE]
    assert [item.name for item in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("write", [write_file, append_to_file])
def test_full_disk_names_the_file_and_leaves_the_old_lines(tmp_path, write):
    """The system takes a part of the lines, and refuses the rest."""
    path = tmp_path / "a.jsonl"
    write_file(path, [LINE])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) * 5 // 2, hard))
    try:
        with pytest.raises(OSError, match=r"cannot be written \(File too large\); expected room .*a\.jsonl; make room"):
            write(path, [LINE] * 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    append_to_file(path, [LINE])
    assert path.read_bytes() == before * 2
    assert [item.name for item in tmp_path.iterdir()] == ["a.jsonl"]


def test_packed_files_are_not_left_out(tmp_path):
    write_file(step_file(tmp_path, 2), [LINE])
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "step_000001.jsonl.gz").touch()
    with pytest.raises(TrajectoryFileError, match=r"1 packed files; .*step_000001\.jsonl\.gz; unpack them first"):
        list_files(tmp_path)


def test_killed_writer_loses_no_line_that_it_announced(tmp_path):
    program = (
        "import sys\nfrom verl_videomtr.trajectory_files import append_to_file\n"
        "line = {'schema_version': 2, 'status': 'played', 'x': 'y' * 4096}\n"
        "for i in range(10**6):\n"
        "    append_to_file(sys.argv[1], [{**line, 'sample_id': str(i)}])\n"
        "    print(i, flush=True)\n"
    )
    path = tmp_path / "a.jsonl"
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    announced = [int(next(process.stdout)) for _ in range(20)][-1]
    os.kill(process.pid, signal.SIGKILL)
    announced = max([announced, *map(int, process.stdout.read().split())])
    process.wait()
    ids = [int(record["sample_id"]) for record in read_file(path).records]
    assert ids[: announced + 1] == list(range(announced + 1))


def test_older_line_is_completed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"step": 1, "sample_id": "s", "turn_rewards": [1.1]}) + "\n")
    (record,) = read_file(path).records
    assert (record["schema_version"], record["status"], record["step"], record["uid"]) == (1, "played", 1, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"sample_id": "s", "schema_version": 3}\n', r"schema_version=3; expected 1 or 2; .*line 1"),
        (b'{"input": "a", "output": "b"}\n', r"without a sample_id.*verl's own dumps are of another form"),
        (b"[1]\n", "without a sample_id"),
        (b'{"sample_id": "s"}\nnot json\n{"sample_id": "t"}\n', r"no JSON .*line 2"),
        (b"not json\n", r"no JSON .*line 1"),
    ],
)
def test_other_forms_are_refused(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(TrajectoryFileError, match=message):
        read_file(tmp_path / "a.jsonl")


def test_files_of_a_folder_and_its_validation(tmp_path):
    for path in (step_file(tmp_path, 2), step_file(tmp_path, 10), step_file(tmp_path / "val", 0)):
        write_file(path, [LINE])
    write_run(tmp_path, {"kind": "train"})
    names = [str(path.relative_to(tmp_path)) for path in list_files(tmp_path)]
    assert names == ["step_000002.jsonl", "step_000010.jsonl", "val/step_000000.jsonl"]
    assert read_run(tmp_path) == read_run(tmp_path / "val") == {"kind": "train"}
    assert read_run(tmp_path / "elsewhere") is None
    with pytest.raises(TrajectoryFileError, match="no trajectory lines"):
        list_files(tmp_path / "elsewhere")
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(TrajectoryFileError, match="expected a JSON object that describes a run"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", ["trajectories/step_000001.jsonl", "three_turns/trajectories.jsonl"])
def test_the_folder_above_is_told_which_one_has_the_lines(tmp_path, name):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).touch()
    with pytest.raises(TrajectoryFileError, match=f", such as {(tmp_path / name).parent}$"):
        list_files(tmp_path)
