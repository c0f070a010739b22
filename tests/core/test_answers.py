# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Answer matching on what models really write."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_videomtr.answers import answer_problem, find_number, is_correct, normalise, option_letter

ANIMALS = ("a dog", "cat", "A man walks", "Vitamin C")
ACTIONS = (
    "He opens the door.",
    "She puts the cup on the table",
    "They walk to the car and a dog follows",
    "None of the above",
)
SIX = ("red", "green", "blue", "A yellow coat", "Both A and B", "cannot be determined")
NUMBERS = ("3", "4", "12", "0")
# As published questions have them: letters for texts, markup, signs, and articles that a model adds or leaves out.
REAL_TEXTS = (
    ("(d).", "(a)(c).", "(a)(b)(c).", "(b)(d)."),
    ("D.", "A.", "B.", "C"),
    ("He buys a $5 tree.", "He sells a *large* tree", "A sign says 5 * 3", "He finds a $20 tree and a `key`."),
    ("5 *", "hop*step", "_snake_case_", "a {brace}"),
    ("+", "-", "*", "/"),
    ("-1", "1", "-2", "2"),
    ("The red car", "a dog and the cat", "An apple", "vitamin A"),
    ("Team A", "Team B", "Team C", "Plan A"),
)
SAME_START = ("The man", "The man in the car", "A man", "I do not know")


def spellings(letter, text):
    """The ways in which a model names one option."""
    low = letter.lower()
    return [
        *(letter, low, f" {letter}\n", f"{letter}.", f"{low}.", f"{letter})", f"{low})", f"({letter})", f"({low})"),
        *(f"[{letter}]", f"{letter}:", f"{letter},", f"**{letter}**", f"*{letter}*", f"`{letter}`", f"${letter}$"),
        *(
            f"\\boxed{{{letter}}}",
            f"\\text{{{letter}}}",
            f"<b>{letter}</b>",
            f"“{letter}”",
            f'"{letter}"',
            f"'{letter}'",
        ),
        *(f"{letter}. {text}", f"{low}. {text}", f"({letter}) {text}", f"({low}) {text}", f"{low}) {text}"),
        *(f"{letter}: {text}", f"{letter} - {text}", f"{letter} {text}", f"{letter}.{text}", f"{letter}\n{text}"),
        *(f"**{letter}. {text}**", f"{letter}. {text}.", f"{letter}. {text.lower()}", f"{letter}. {text.upper()}"),
        *(f"The answer is {letter}", f"The answer is {letter}.", f"the answer is {low}", f"The answer is ({letter})"),
        *(f"Answer: {letter}", f"Answer:{letter}", f"Final answer: ({low})", f"The correct answer is {letter}. {text}"),
        *(f"Option {letter}", f"option {low}", f"Option ({letter})", f"The correct option is {letter}"),
        *(f"I think it is {letter}", f"It's {letter}.", f"I choose {letter}", f"So the answer is {letter}: {text}"),
        *(f"{letter} is correct", f"{letter} because the video shows it", f"{text} ({letter})", f"答案是{letter}"),
    ]


def cases():
    for options in (ANIMALS, ACTIONS, SIX, *REAL_TEXTS):
        for i, text in enumerate(options):
            letter = "ABCDEF"[i]
            for spelling in spellings(letter, text):
                if options in REAL_TEXTS[:2] and spelling in (f"{letter} {text}", f"{text} ({letter})"):
                    # "C B." is two letters, whatever C's text is.
                    continue
                yield pytest.param(spelling, letter, options, id=f"{options[0][:2]}-{letter}-{spelling[:40]!r}")


@pytest.mark.parametrize(("text", "letter", "options"), list(cases()))
def test_the_letter_is_found(text, letter, options):
    assert option_letter(text, options) == letter
    assert is_correct(text, letter.lower(), question_type="multiple_choice", options=options)
    other = "B" if letter == "A" else "A"
    assert not is_correct(text, other, question_type="multiple_choice", options=options)


@pytest.mark.parametrize("options", REAL_TEXTS[2:])
def test_a_text_alone_names_its_option_with_and_without_articles(options):
    for letter, text in zip("ABCD", options, strict=True):
        bare = re.sub(r"(?i)\b(?:a|an|the) ", "", text)
        assert [option_letter(said, options) for said in (text, bare, f"{letter}. {bare}")] == [letter] * 3, text


@pytest.mark.parametrize(
    ("text", "letter", "options"),
    [
        # The letter is the letter, whatever the options are made of.
        ("(D)", "D", REAL_TEXTS[0]),
        ("The answer is (D).", "D", REAL_TEXTS[0]),
        ("I think it is (D) because of the cup", "D", REAL_TEXTS[0]),
        ("C. B.", "C", REAL_TEXTS[1]),
        ("I think it is C. B.", "C", REAL_TEXTS[1]),
        ("(a)(c)", "B", REAL_TEXTS[0]),
        ("(a)(c). (B)", "B", REAL_TEXTS[0]),
        ("M*A*S*H", "B", ("Cheers", "M*A*S*H", "A")),
        ("B. M*A*S*H", "B", ("Cheers", "M*A*S*H", "A")),
        # The letter of a name or of a label within an option is no article, and no second choice.
        ("B. A. Smith", "B", ("J. Smith", "A. Smith", "B. Franklin")),
        ("(B) A. Smith", "B", ("J. Smith", "A. Smith", "B. Franklin")),
        ("The answer is C: B. Franklin", "C", ("J. Smith", "A. Smith", "B. Franklin")),
        ("A. Smith", "B", ("J. Smith", "A. Smith", "B. Franklin")),
        ("C. Exhibit A: the hat", "C", ("a cat", "a dog", "Exhibit A: the hat")),
        ("D) It is A, then it is D.", "D", ("a cat", "a dog", "a bird", "It is A, then it is D.")),
        # A letter that is not the quoted text's: the letter decides, also where it could be an article.
        ("A. cat", "A", ("dog", "cat", "fish")),
        ("The answer is A. cat", "A", ("dog", "cat", "fish")),
        ("a cat", "B", ("dog", "cat", "fish")),
        ("D. A man buys a 20 dollar tree", "D", REAL_TEXTS[2]),
        ("A cat", "B", ("dog", "cat", "fish")),
        # Equal texts are told apart by the letter alone.
        ("A. cat", "A", ("cat", "dog", "the cat")),
        ("C) the cat", "C", ("cat", "dog", "the cat")),
        ("the cat", None, ("cat", "dog", "the cat")),
        # Still two letters.
        ("C, D", None, REAL_TEXTS[1]),
        ("A D.", None, REAL_TEXTS[1]),
        ("(A) (B)", None, REAL_TEXTS[1]),
        ("(a) or (b)", None, REAL_TEXTS[0]),
        ("D. (a)(c).", None, REAL_TEXTS[0]),
        # An empty option is named by nothing but its letter.
        ("", None, ("dog", "", "cat")),
        ("B", "B", ("dog", "", "cat")),
    ],
)
def test_letters_texts_and_articles_on_real_options(text, letter, options):
    assert option_letter(text, options) == letter


@pytest.mark.parametrize("letter", "ABCD")
def test_the_letter_is_found_without_the_option_texts(letter):
    for spelling in spellings(letter, "something else entirely"):
        is_article = spelling == "A something else entirely"
        assert option_letter(spelling) == (None if is_article else letter), spelling


@pytest.mark.parametrize(
    ("text", "letter", "options"),
    [
        # By text alone, and with an article or a full stop more or less.
        ("cat", "B", ANIMALS),
        ("The cat.", "B", ANIMALS),
        ("a dog", "A", ANIMALS),
        ("A dog", "A", ANIMALS),
        ("dog", "A", ANIMALS),
        ("the answer is cat", "B", ANIMALS),
        ("he opens the door", "A", ACTIONS),
        ("None of the above.", "D", ACTIONS),
        ("blue", "C", SIX),
        # Letters inside an option's text are not choices.
        ("A man walks", "C", ANIMALS),
        ("C. A man walks", "C", ANIMALS),
        ("Vitamin C", "D", ANIMALS),
        ("D. Vitamin C", "D", ANIMALS),
        ("The answer is D: Vitamin C.", "D", ANIMALS),
        ("Both A and B", "E", SIX),
        ("E. Both A and B", "E", SIX),
        ("A yellow coat", "D", SIX),
        # Six letters, the last two as good as the others.
        ("F", "F", SIX),
        ("(e)", "E", SIX),
        # The article and the pronoun are words.
        ("B. A woman with I think a hat", "B", ANIMALS),
        ("B) a person walking a pet", "B", ANIMALS),
        ("I believe it is (b).", "B", ANIMALS),
        ("A\\n\\nThe man is seen at the start.".replace("\\n", "\n"), "A", ANIMALS),
        ("A, because the man opens it", "A", ANIMALS),
        # Numbers as options: the letter decides, and the number names its option.
        ("B. 4", "B", NUMBERS),
        ("4", "B", NUMBERS),
        ("A. 3", "A", NUMBERS),
        # One option's text inside another's.
        ("The man in the car", "B", SAME_START),
        ("B. The man in the car", "B", SAME_START),
        ("A man", "C", SAME_START),
        ("I do not know", "D", SAME_START),
        # Full-width and circled letters.
        ("Ｂ", "B", ANIMALS),
        ("（Ｂ）", "B", ANIMALS),
        ("Ⓑ", "B", ANIMALS),
        # The same letter twice is one letter.
        ("B. The answer is B.", "B", ANIMALS),
    ],
)
def test_texts_and_words(text, letter, options):
    if options is SAME_START and letter == "C":
        # "The man" and "A man" are one text without articles: no option is named by it.
        assert option_letter(text, options) is None
    else:
        assert option_letter(text, options) == letter


@pytest.mark.parametrize(
    "text",
    [
        *("A, B", "A B", "A or B", "A and B", "AB", "A/B", "A & B", "(A)(B)", "(A) or (B)", "A. B.", "A.B", "b, c"),
        *(
            "Either A or C",
            "The answer is A or D",
            "B, not A",
            "A but maybe B",
            "A. dog B. cat",
            "a or b",
            "A;B",
            "A|B",
        ),
        *("B. cat C. A man walks", "All of A, B, C and D", "A-B", "**A** **B**", "\\boxed{A} \\boxed{B}", "A\nB"),
    ],
)
def test_two_letters_name_no_option(text):
    assert option_letter(text, ANIMALS) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "?", "...", "E", "(F)", "Z.", "1", "A woman runs", "a woman runs", "I think so", "It's a bird"),
        *("bird", "The T-shirt is red", "U.S.", "Washington D.C.", "don't know", "he's gone", "cats and dogs", "ABCD"),
        *("dog cat", "cat or a dog", "X-ray", "the", "B2", "2B", "C3PO", "é", "٣"),
    ],
)
def test_no_letter_names_no_option(text):
    assert option_letter(text, ANIMALS) is None


def test_a_letter_beyond_the_options_is_no_choice_and_no_hedge():
    assert option_letter("E", ANIMALS) is None
    assert option_letter("E", SIX) == "E"
    assert option_letter("A or E", ANIMALS) == "A"
    assert option_letter("A or E", SIX) is None


def test_equal_option_texts_name_no_option():
    options = ("cat", "dog", "Cat.", "bird")
    assert option_letter("cat", options) is None
    assert option_letter("C. cat", options) == "C"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("12", 12), (" 12 ", 12), ("12.", 12), ("12.0", 12), ("-3", -3), ("+3", 3), (".5", 0.5), ("−4", -4)),
        *(("12 cm", 12), ("12cm", 12), ("12%", 12), ("$3.50", 3.5), ("€ 7", 7), ("5 m2", 5), ("1,234", 1234)),
        *(("1,234,567.5 people", 1234567.5), ("about 7 people", 7), ("There are 7.", 7), ("the answer is: 7", 7)),
        *(("1e3", 1000), ("2.5E-1", 0.25), ("7 (7)", 7), ("3.0 or 3", 3), ("CO2: 4", 4), ("３", 3), ("**8**", 8)),
        *(("3x", 3), ("007", 7)),
    ],
)
def test_one_number_is_found(text, number):
    assert find_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "none", "2 or 3", "3-5", "1:30", "1/2", "CO2", "1,2345", "1,2", "1.2.3", "three", "٣", "nan", "inf"]
)
def test_no_number_or_two_are_none(text):
    assert find_number(text) is None


@pytest.mark.parametrize(
    ("given_text", "answer", "expected"),
    [
        ("3", "3", True),
        ("3.001", "3", True),
        ("3.004 m", "3.00", True),
        ("3.01", "3", False),
        ("-3", "3", False),
        ("1,000", "1000", True),
        ("50%", "0.5", False),
        ("2 or 3", "3", False),
        ("nothing", "0", False),
    ],
)
def test_numbers_count_to_two_decimals(given_text, answer, expected):
    assert is_correct(given_text, answer, question_type="numeric") is expected


@pytest.mark.parametrize(
    ("given_text", "answer", "expected"),
    [
        ("a red car", "Red car", True),
        ("The red car.", "red car", True),
        ("red   car!", "a red car", True),
        ("“Red-car”", "red car", True),
        ("3.5", "35", False),
        ("3.5 m", "3.5 m.", True),
        ("red", "red car", False),
        ("car red", "red car", False),
        ("STRASSE", "straße", True),
        ("ｃａｆé", "café", True),
        ("猫", "猫。", True),
        ("हिंदी", "हिदी", False),
        ("the", "The", True),
        ("the", "a", False),
        ("", "cat", False),
        ("C++", "C", False),
        ("vitamin", "vitamin A", False),
        ("a Team A", "team A", True),
        ("-3 degrees", "3 degrees", False),
        ("\\boxed{red car}", "**the red** car", True),
        ("five dollars, $5", "five dollars, 5", True),
    ],
)
def test_free_text_is_matched_normalised(given_text, answer, expected):
    assert is_correct(given_text, answer, question_type="free_text") is expected


@given(text=st.text())
def test_any_text_is_judged_and_matches_itself(text):
    assert option_letter(text, ANIMALS) in (None, "A", "B", "C", "D")
    find_number(text)
    assert normalise(normalise(text)) == normalise(text)
    if normalise(text):
        assert is_correct(text, text, question_type="free_text")


@given(text=st.text(), sample_answer=st.sampled_from("ABCD"))
def test_at_most_one_option_is_right(text, sample_answer):
    right = [letter for letter in "ABCD" if is_correct(text, letter, question_type="multiple_choice", options=ANIMALS)]
    assert len(right) <= 1


@pytest.mark.parametrize(
    ("question_type", "good", "bad"),
    [
        ("multiple_choice", ("A", "D"), ("a", " A", "E", "", "AB", None, 1)),
        (
            "numeric",
            ("3", "-3.5", "1,234", "12 apples", "1e3"),
            ("1,5", "1_000", "٣", "1e400", "nan", "2 or 3", "", None),
        ),
        ("free_text", ("the", "C++", "猫", "1,5"), ("?", "...", "**", "$", "", None, 3)),
    ],
)
def test_a_sample_passes_exactly_where_every_answer_can_be_judged_by_it(question_type, good, bad):
    options = ANIMALS if question_type == "multiple_choice" else ()
    for answer in good:
        assert answer_problem(answer, question_type=question_type, options=options) is None
        assert is_correct(answer, answer, question_type=question_type, options=options)
    for answer in bad:
        assert f"answer={answer!r}; expected" in answer_problem(answer, question_type=question_type, options=options)


@given(answer=st.text(), predicted=st.text(), question_type=st.sampled_from(["numeric", "free_text"]))
def test_an_answer_that_passes_never_makes_the_scorer_raise(answer, predicted, question_type):
    if answer_problem(answer, question_type=question_type) is None:
        assert is_correct(answer, answer, question_type=question_type)
        is_correct(predicted, answer, question_type=question_type)
    else:
        with pytest.raises(ValueError, match="correct it and write its row again"):
            is_correct(predicted, answer, question_type=question_type)


@pytest.mark.parametrize(
    "unit",
    [
        "A",
        "A ",
        "a",
        "(",
        "1",
        "1,",
        "1,234",
        ".",
        " ",
        "*",
        "\\",
        "<b",
        "the answer is ",
        "-",
        "B ",
        "A.",
        "a dog ",
        "A) ",
    ],
)
def test_long_texts_are_read_in_linear_time(unit):
    text = unit * (400_000 // len(unit))
    start = time.process_time()
    option_letter(text, ANIMALS)
    find_number(text)
    normalise(text)
    assert time.process_time() - start < 4.0


@pytest.mark.parametrize("answer", ["E", "", "cat", "AB", "3"])
def test_a_sample_whose_answer_is_no_option_letter_is_an_error(answer):
    with pytest.raises(ValueError, match="expected one option letter A-D"):
        is_correct("A", answer, question_type="multiple_choice", options=ANIMALS)


def test_other_faulty_samples_are_errors():
    with pytest.raises(ValueError, match="expected one number"):
        is_correct("3", "three", question_type="numeric")
    with pytest.raises(ValueError, match="question_type='mcq'"):
        is_correct("A", "A", question_type="mcq")
    with pytest.raises(ValueError, match="expected a text to match"):
        is_correct("A", "...", question_type="free_text")
