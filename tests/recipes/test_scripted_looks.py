# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Looks from a script show what they are to show, and the table says what a reader without fault would reach."""

import pytest

from data_prep.synthetic import NeedleConfig
from recipes.learning_study.scripted_looks import SCRIPTS, Answered, main, play_script, table
from recipes.learning_study.tiny_model import make_model, make_processor

TASKS = {"one sign": NeedleConfig(), "mixture": NeedleConfig(mixture=True, questions_per_video=2)}


@pytest.mark.parametrize("task", TASKS)
def test_finer_looks_leave_less_to_chance(task):
    processor = make_processor()
    model = make_model(processor.tokenizer, seed=0)
    expected = []
    for script in SCRIPTS.values():
        answers = play_script(model, processor, TASKS[task], script, num_cases=60, seed=0, frame_budget=22)
        assert {answer.expected for answer in answers} <= {0.25, 0.5, 1.0}
        expected.append(sum(answer.expected for answer in answers) / len(answers))
    # All 22 frames at once, one look at the scene, and one at each half of it, which no sign escapes.
    assert expected[0] < 0.7 < expected[1] < 1
    assert expected[2] == 1
    if task == "mixture":
        groups = {group for answer in answers for group in answer.groups}
        assert groups == {"single", "multi", "short", "medium", "long"}


def test_table_has_a_line_per_script_and_a_column_per_group():
    answers = [
        Answered(groups=frozenset({"single", "long"}), is_right=True, expected=1.0),
        Answered(groups=frozenset({"multi", "long"}), is_right=False, expected=0.5),
    ]
    assert list(table({"none": answers})) == [
        "| look | all | single | multi | long |",
        "|---|---|---|---|---|",
        "| none | 0.50 (0.75) | 1.00 (1.00) | 0.00 (0.50) | 0.50 (0.75) |",
    ]


def test_no_questions_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--model", str(tmp_path), "--num-cases", "0"])
    assert capsys.readouterr().err == "--num-cases=0; expected at least 1\n"
