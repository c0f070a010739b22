# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints count, which go and what is resumed from, over any number of processes; real folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_videomtr.checkpoints import (
    SAVING_MARK,
    TRACKER,
    list_complete,
    mark_complete,
    mark_saving,
    plan_removal,
    remove,
    repair_tracker,
    say_how_to_resume,
    set_aside,
    step_folder,
)

PARTS = ("actor", "critic")


def make_checkpoint(root: Path, step: int, *, parts=PARTS, finished: bool = True) -> None:
    """What verl leaves of a save: all of it, or the models only where it ended before data.pt."""
    folder = mark_saving(root, step)
    for part in parts:
        (folder / part).mkdir()
        (folder / part / "model.pt").write_bytes(b"weights")
    if finished:
        (folder / "data.pt").write_bytes(b"position")
        mark_complete(root, step)


def steps_of(root: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("global_step_")) for path in root.glob("global_step_*"))


def test_three_processes_leave_as_many_as_one_would(tmp_path):
    # Each process saves two checkpoints and starts with no memory of those before it.
    for step in range(1, 7):
        make_checkpoint(tmp_path, step)
        remove(plan_removal(tmp_path, step, keep={"actor": 2, "critic": 2}))
    assert steps_of(tmp_path) == [5, 6]
    assert repair_tracker(tmp_path, PARTS) == 6


def test_parts_are_kept_by_their_own_numbers(tmp_path):
    for step in (1, 2, 3, 4):
        make_checkpoint(tmp_path, step)
    remove(plan_removal(tmp_path, 4, keep={"actor": 3, "critic": 1}))
    assert steps_of(tmp_path) == [2, 3, 4]
    assert [step for step in steps_of(tmp_path) if (step_folder(tmp_path, step) / "critic").is_dir()] == [4]
    assert list_complete(tmp_path, PARTS) == [4]
    assert list_complete(tmp_path, ["actor"]) == [2, 3, 4]


@pytest.mark.parametrize("keep", [{"actor": None, "critic": None}, {"actor": 0, "critic": -1}])
def test_without_a_number_only_unfinished_leftovers_go(tmp_path, keep):
    make_checkpoint(tmp_path, 1)
    make_checkpoint(tmp_path, 2, finished=False)
    make_checkpoint(tmp_path, 3)
    remove(plan_removal(tmp_path, 3, keep=keep))
    assert steps_of(tmp_path) == [1, 3]


def test_an_unfinished_checkpoint_is_not_counted_among_those_to_keep(tmp_path):
    make_checkpoint(tmp_path, 1)
    make_checkpoint(tmp_path, 2, finished=False)
    make_checkpoint(tmp_path, 3)
    remove(plan_removal(tmp_path, 3, keep={"actor": 2, "critic": 2}))
    assert list_complete(tmp_path, PARTS) == [1, 3]


def test_steps_behind_the_newest_are_another_runs(tmp_path):
    for step in (1, 2, 3):
        make_checkpoint(tmp_path, step)
    make_checkpoint(tmp_path, 20)
    assert plan_removal(tmp_path, 3, keep={"actor": 3, "critic": 3}) == []


def test_where_nodes_share_no_disk_the_parts_are_named_for_all_of_them(tmp_path):
    # The trainer's own node has no model beside data.pt.
    for step in (1, 2, 3):
        make_checkpoint(tmp_path, step, parts=())
    assert list_complete(tmp_path, PARTS) == [1, 2, 3]
    assert plan_removal(tmp_path, 3, keep={"actor": 2, "critic": None}) == [step_folder(tmp_path, 1) / "actor"]
    assert plan_removal(tmp_path, 3, keep={"actor": 2, "critic": 2}) == [step_folder(tmp_path, 1)]


def test_leftovers_of_verls_own_removal_go_too(tmp_path):
    for step in (1, 2, 3):
        make_checkpoint(tmp_path, step)
    for part in PARTS:
        remove([step_folder(tmp_path, 1) / part])
    remove(plan_removal(tmp_path, 3, keep={"actor": 5, "critic": 5}))
    assert steps_of(tmp_path) == [2, 3]


@pytest.mark.parametrize("text", ["", "3", "x"], ids=["emptied", "half-written step", "garbage"])
def test_a_run_resumes_from_the_newest_complete_checkpoint(tmp_path, text, caplog):
    make_checkpoint(tmp_path, 1)
    make_checkpoint(tmp_path, 2)
    make_checkpoint(tmp_path, 3, finished=False)
    (tmp_path / TRACKER).write_text(text)
    assert repair_tracker(tmp_path, PARTS) == 2
    assert (tmp_path / TRACKER).read_text() == "2"
    assert "step 2 is the newest" in caplog.text


def test_a_complete_checkpoint_that_is_being_overwritten_is_not_resumed_from(tmp_path):
    make_checkpoint(tmp_path, 1)
    make_checkpoint(tmp_path, 2)
    mark_saving(tmp_path, 2)
    assert repair_tracker(tmp_path, PARTS) == 1


def test_going_back_in_time_is_left_to_the_tracker(tmp_path):
    for step in (1, 2, 3):
        make_checkpoint(tmp_path, step)
    (tmp_path / TRACKER).write_text("2")
    assert repair_tracker(tmp_path, PARTS) == 2
    (step_folder(tmp_path, 2) / SAVING_MARK).touch()
    assert repair_tracker(tmp_path, PARTS) == 1


def test_nothing_complete_starts_anew_and_nothing_at_all_is_no_error(tmp_path):
    assert repair_tracker(tmp_path / "missing", PARTS) is None
    make_checkpoint(tmp_path, 1, finished=False)
    (tmp_path / TRACKER).write_text("1")
    assert repair_tracker(tmp_path, PARTS) is None
    assert not (tmp_path / TRACKER).exists()


def test_a_checkpoint_of_another_make_is_left_to_verl(tmp_path):
    # No mark, no data.pt: whoever wrote it, verl reads it and warns.
    (step_folder(tmp_path, 7) / "actor").mkdir(parents=True)
    (tmp_path / TRACKER).write_text("7")
    assert repair_tracker(tmp_path, PARTS) == 7
    assert (tmp_path / TRACKER).read_text() == "7"


def test_the_metrics_of_earlier_processes_are_kept_beside(tmp_path):
    path = tmp_path / "run.jsonl"
    assert set_aside(path, 4) is None
    for text in ("first", "second"):
        path.write_text(text)
        set_aside(path, 4)
    assert sorted((found.name, found.read_text()) for found in tmp_path.iterdir()) == [
        ("run.until_step_4.jsonl", "first"),
        ("run.until_step_4_2.jsonl", "second"),
    ]


def test_how_to_resume_is_told_by_the_tracker(tmp_path):
    assert say_how_to_resume(tmp_path / "none") == "no checkpoint has been saved; start the run again"
    (tmp_path / TRACKER).write_text("120\n")
    expected = f"the last checkpoint is step 120 in {tmp_path}; start the run again with trainer.resume_mode=auto"
    assert say_how_to_resume(tmp_path) == expected
