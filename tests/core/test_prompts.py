# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Prompt sets: what a template may name, and how a message is put together."""

from __future__ import annotations

import pytest
import yaml

from verl_videomtr.prompts import TEMPLATES, Prompts


def make_templates(**changes):
    templates = dict.fromkeys(TEMPLATES, "")
    templates.update(
        frame="[{index}@{time_seconds:.1f}]{image};",
        overview="see {frames} {question} {next}",
        retrieved="{start}-{end}: {frames} {question}",
        invalid="no: {reason}",
        choose="{retrievals_left} left",
        answer_now="answer",
        system="up to {max_turns}: {retrieve_form}",
        retrieve_form_index="0..{last_index}",
    )
    return {**templates, **changes}


def make_message(prompts, kind="overview", frames=((3, 1.5), (7, 3.25)), last_turn=False, **values):
    common = {
        "question": "why?",
        "last_index": 9,
        "duration_seconds": 5.0,
        "max_frames": 2,
        "turns_left": 3,
        "retrievals_left": 2,
        "unit": "index",
    }
    return prompts.message(kind, frames=frames, last_turn=last_turn, **{**common, **values})


def test_images_stand_where_the_frame_template_puts_them():
    parts = make_message(Prompts(make_templates()))
    assert parts == ["see [3@1.5]", 3, ";[7@3.2]", 7, "; why? 2 left"]


def test_last_turn_asks_for_an_answer():
    assert make_message(Prompts(make_templates()), last_turn=True)[-1].endswith("answer")


def test_braces_and_marks_in_a_question_are_text():
    parts = make_message(Prompts(make_templates()), question="{index} {{x}} \x00image\x00?")
    assert parts[-1] == "; {index} {{x}}  ? 2 left"
    assert [part for part in parts if isinstance(part, int)] == [3, 7]


def test_system_holds_the_form_of_the_unit():
    values = {"last_index": 9, "duration_seconds": 5.0, "max_frames": 2, "max_turns": 3}
    assert Prompts(make_templates()).system(single_turn=False, unit="index", **values) == "up to 3: 0..9"


@pytest.mark.parametrize("name", ["default", "tiny", "tool_calls"])
def test_shipped_sets_load(name):
    assert Prompts.load(name).templates.keys() == TEMPLATES.keys()


def test_default_set_explains_both_actions_and_announces_each_frame():
    prompts = Prompts.load("default")
    values = {"last_index": 127, "duration_seconds": 600.0, "max_frames": 8, "max_turns": 3}
    for unit in ("index", "seconds"):
        text = prompts.system(single_turn=False, unit=unit, **values)
        assert all(tag in text for tag in ("<think>", "</think>", "<retrieve>", "</retrieve>", "<answer>", "</answer>"))
    alone = prompts.system(single_turn=True, unit="index", **values)
    assert "<answer>" in alone
    assert "retrieve" not in alone
    text = "".join(part for part in make_message(prompts) if isinstance(part, str))
    assert "Frame 3 (1.5 s)" in text
    assert "Frame 7 (3.2 s)" in text


def test_own_file_is_loaded_by_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(make_templates(answer_now="now!")))
    assert make_message(Prompts.load(path), last_turn=True)[-1].endswith("now!")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overview": "{frames} {questoin}"}, r"'overview' uses \['questoin'\]"),
        ({"extra": ""}, r"unknown=\['extra'\]"),
        ({"frame": "{index}"}, r"expected \{image\} exactly once"),
        ({"retrieved": "{question}"}, r"'retrieved' must hold \{frames\} exactly once"),
        ({"choose": 3}, r"'choose' is 3; expected a text"),
    ],
)
def test_faulty_template_names_itself_and_its_file(tmp_path, changes, message):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(make_templates(**changes)))
    with pytest.raises(ValueError, match=message) as error:
        Prompts.load(path)
    assert "mine.yaml" in str(error.value)


def test_missing_template_and_missing_file():
    templates = make_templates()
    del templates["invalid"]
    with pytest.raises(ValueError, match=r"missing=\['invalid'\]"):
        Prompts(templates)
    with pytest.raises(FileNotFoundError, match="default, tiny"):
        Prompts.load("nothing")
