# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Options and answers in the ways that sources write them."""

import pytest

from data_prep.choices import (
    check_distinct,
    letter_of_either,
    letter_of_index,
    letter_of_letter,
    letter_of_text,
    split_inline_options,
    strip_letters,
)
from data_prep.drops import Dropped, text_of


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["A. tea", "B. milk"], ("tea", "milk")),
        (["(A) tea", "(B) milk"], ("tea", "milk")),
        (["A: tea", "B) milk"], ("tea", "milk")),
        (["A. Lincoln", "a hat"], ("A. Lincoln", "a hat")),
        (["B. tea", "A. milk"], ("B. tea", "A. milk")),
        (["a. tea", "b. milk"], ("tea", "milk")),
        (["a) tea", "(b) milk"], ("tea", "milk")),
        (["Ａ．tea", "Ｂ．milk"], ("tea", "milk")),
        (["A、茶", "B：牛奶", "（C）水"], ("茶", "牛奶", "水")),
        (["A. A.", "B. C.", "C. B."], ("A.", "C.", "B.")),
        (["(a)(c).", "(b)(d)."], ("(a)(c).", "(b)(d).")),
        (["A. (a)(c).", "B. (b)(d)."], ("(a)(c).", "(b)(d).")),
        (["1. tea", "2. milk"], ("1. tea", "2. milk")),
        (["A. tea", "B. "], ("tea", "")),
        (letters := [f"{char}. x" for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"] + ["27"], tuple(letters)),
        ([1, 2.0, " 3 "], ("1", "2", "3")),
        ([], ()),
    ],
)
def test_letters_are_stripped_only_where_all_options_have_their_own(options, expected):
    assert strip_letters(options) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who?\n(A) he\n(B) she", ("Who?", ("he", "she"))),
        ("Who?\nA. he\nB. she", ("Who?", ("he", "she"))),
        ("He says:\nA: well\nWho?\n(A) he\n(B) she", ("He says:\nA: well\nWho?", ("he", "she"))),
        ("Who?\n(A) he\n(C) she", ("Who?\n(A) he\n(C) she", ())),
        ("Who (A) or (B)?", ("Who (A) or (B)?", ())),
    ],
)
def test_inline_options_are_split_off(text, expected):
    assert split_inline_options(text) == expected


def test_letters_of_positions_texts_and_letters():
    options = ("tea", "milk", "tea")
    assert [letter_of_index(index, options) for index in (0, "1", 2.0)] == ["A", "B", "C"]
    assert letter_of_text(" tea ", options) == "C"
    assert [letter_of_letter(text, options) for text in ("b", "(B)", "B.", "B")] == ["B"] * 4
    assert letter_of_either("milk", options) == letter_of_either("b", options) == "B"
    assert [letter_of_letter(text, options) for text in ("Ｂ", "（b）")] == ["B"] * 2


def test_answer_may_stand_behind_its_letter_where_both_agree():
    assert [letter_of_either(text, ("tea", "milk")) for text in ("B. milk", "(b) milk", "B) milk")] == ["B"] * 3
    for text in ("A. milk", "B. water", "C. milk", "B milk"):
        with pytest.raises(Dropped, match="answer is not among the options"):
            letter_of_either(text, ("tea", "milk"))
    with pytest.raises(Dropped, match="two meanings"):
        letter_of_either("A. milk", ("milk", "A. milk"))


def test_texts_that_look_the_same_are_the_same():
    assert letter_of_text("caf\u00e9", ("tea", "cafe\u0301")) == "B"
    assert letter_of_text("hot tea", ("hot\u00a0 tea", "milk")) == "A"
    for first, second in (("caf\u00e9", "cafe\u0301"), ("hot tea", "hot\u00a0tea"), ("hot tea", "Hot  tea")):
        with pytest.raises(Dropped, match="duplicate option text"):
            check_distinct((first, second))
    with pytest.raises(Dropped, match="empty option text"):
        check_distinct(("tea", "\u200b"))
    check_distinct(("C", "C#", "C++", "-5", "5"))


@pytest.mark.parametrize(
    ("read", "answer"),
    [
        (letter_of_index, 3),
        (letter_of_index, -1),
        (letter_of_index, None),
        (letter_of_text, "Tea"),
        (letter_of_letter, "D"),
        (letter_of_letter, "AB"),
        (letter_of_letter, ""),
        (letter_of_either, "coffee"),
    ],
)
def test_answer_that_is_no_option_is_dropped(read, answer):
    with pytest.raises(Dropped, match="answer is not among the options"):
        read(answer, ("tea", "milk", "water"))


def test_answer_with_two_meanings_is_dropped():
    with pytest.raises(Dropped, match="two meanings"):
        letter_of_either("A", ("B", "A"))
    assert letter_of_either("A", ("A", "B")) == "A"


def test_options_that_differ_in_case_only_are_not_distinct():
    check_distinct(("tea", "milk"))
    with pytest.raises(Dropped, match="duplicate option text: 'Tea'"):
        check_distinct(("tea", "milk", "Tea"))


@pytest.mark.parametrize(("value", "text"), [(None, ""), (float("nan"), ""), (3.0, "3"), (3.5, "3.5"), (" a ", "a")])
def test_text_of(value, text):
    assert text_of(value) == text
