"""Answer matching on what models really write."""

from __future__ import annotations

import pytest

from verl_videomtr.answers import is_correct, option_letter

OPTIONS = ("a dog", "cat", "A man walks", "Vitamin C")


@pytest.mark.parametrize("text", ["B", "b", "(B)", "B.", "b) cat", "The answer is B", "**B**", "B. cat", "cat", "Ｂ"])
def test_letter_b_in_many_forms(text):
    assert option_letter(text, OPTIONS) == "B"
    assert is_correct(text, "B", question_type="multiple_choice", options=OPTIONS)


@pytest.mark.parametrize("text", ["A, B", "A or B", "AB", "B/C", "b, c", "A woman runs", "E", "", "?"])
def test_two_letters_or_none_name_no_option(text):
    assert option_letter(text, OPTIONS) is None
