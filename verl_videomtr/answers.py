# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Whether an answer is right: predicted text and the sample's answer -> bool.

Multiple choice is decided by the one option letter that the text names, numbers by value to two decimals, free text by
a normalised match. A text that names two letters or two numbers names none: hedging never pays. Markup and articles
count for nothing, in what is predicted and in the sample's own texts alike.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections.abc import Iterable, Sequence

LETTERS = string.ascii_uppercase
QUESTION_TYPES = ("multiple_choice", "numeric", "free_text")

_MARKUP = re.compile(r"\\(?:boxed|text|mathrm|textbf|mathbf)|</?[A-Za-z]+>|[*_`$\\{}]")
_BRACKETED = re.compile(r"""(?<![A-Za-z0-9])[(\["'“‘]\s?([A-Za-z])\s?[)\]"'”’]""")
_ISOLATED = re.compile(r"(?<![A-Za-z0-9'’.-])([A-Za-z])(?![A-Za-z0-9'’-]|\.[A-Za-z](?![A-Za-z]))")
_LETTER_BEHIND = re.compile(r"\s[(\[]([A-Za-z])[)\]]\W*$")
_ARTICLE_BEFORE = re.compile(r"[ \t]+(?:([^\W\d_]{2,})|([0-9]))")
"""What follows an article: a word, or (after a small letter only, as options are given with theirs) a number."""
_AFTER_A_LETTER = frozenset(
    ("and", "or", "nor", "not", "but", "is", "was", "as", "are", "because", "since", "seems", "appears", "matches")
    + ("best", "would", "should", "option", "answer", "correct")
)
"""Words that follow "A" where it is a letter; before any other word it is the article."""
_PREAMBLE = re.compile(
    r"(?:so |thus |therefore |hence )?(?:my )?(?:final |correct |best |right )?"
    r"(?:answer|option|choice)(?: is| would be)? "
)
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])([-+]?)(?:([0-9]+(?:,[0-9]+)*)((?:\.[0-9]+)?)|(\.[0-9]+))(?![0-9]|[.][0-9])"
    r"((?:[eE][-+]?[0-9]+(?![A-Za-z0-9]))?)"
)
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")
_ARTICLES = frozenset(("a", "an", "the"))
_ARTICLE = re.compile(
    r"""(?<![\w'’.-])(?:(?:[Aa]n?|AN|[Tt]he|THE)[ \t]+(?=["'“‘(]?[^\W\d_]{2})|(?:an?|[Tt]he)[ \t]+(?=["'“‘(]?[0-9]))"""
)
_WORD = re.compile(r"[^\W_]+")
_BETWEEN_WORDS = r"\W+(?:(?:an?|the)\W+)?"


def answer_problem(answer: object, *, question_type: str, options: Sequence[str] = ()) -> str | None:
    """Say what is wrong with a sample's own answer; None if every prediction can be judged by it.

    The one rule for what a row may hold, asked when a row is made and again when it is scored.

    Args:
        answer: the option letter for "multiple_choice", else the number or the text.
        question_type: "multiple_choice", "numeric" or "free_text".
        options: option texts without letters, in order; empty leaves all 26 letters open.
    """
    if question_type not in QUESTION_TYPES:
        return f"{question_type=}; expected one of {QUESTION_TYPES}"
    text = answer if isinstance(answer, str) else ""
    if question_type == "multiple_choice":
        allowed = LETTERS[: len(options)] if options else LETTERS
        if len(text) != 1 or text not in allowed:
            return f"{answer=}; expected one option letter {allowed[0]}-{allowed[-1]} of {len(options)} options"
    elif question_type == "numeric":
        number = find_number(text)
        if number is None or not math.isfinite(number):
            return f"{answer=}; expected one number, a finite number with commas only between thousands"
    elif not normalise(text):
        return f"{answer=}; expected a text to match, of more than punctuation and markup"
    return None


def is_correct(predicted: str, sample_answer: str, *, question_type: str, options: Sequence[str] = ()) -> bool:
    """Judge one answer.

    Args:
        predicted: what the policy put between its answer tags.
        sample_answer: the option letter for "multiple_choice", else the number or the text.
        question_type: "multiple_choice", "numeric" or "free_text".
        options: option texts without letters, in order; empty leaves all 26 letters open.
    Raises:
        ValueError: the question type is unknown, or the sample's own answer does not fit it.
    """
    expected = sample_answer.strip().upper() if question_type == "multiple_choice" else sample_answer
    if problem := answer_problem(expected, question_type=question_type, options=options):
        raise ValueError(f"{problem}; the sample itself; correct it and write its row again")
    if question_type == "multiple_choice":
        return option_letter(predicted, options) == expected
    if question_type == "numeric":
        number, given = find_number(expected), find_number(predicted)
        # Two decimals, as Video-R1 compares numbers.
        return number is not None and given is not None and round(given, 2) == round(number, 2)
    return normalise(predicted) == normalise(expected)


def option_letter(text: str, options: Sequence[str] = ()) -> str | None:
    """Find the one option that a text names, by letter or, where it names no letter, by the option's exact text.

    Letters count where they stand alone: `B`, `b)`, `(B)`, `B. cat`, `The answer is B`. The article "A" and the
    pronoun "I" do not, nor do letters within a quoted option text. A text that is one letter and nothing else is that
    letter, whatever the options say.

    Returns:
        The upper-case letter; None if the text names no option, or more than one.
    """
    allowed = LETTERS[: len(options)] if options else LETTERS
    plain = _without_markup(text)
    said = _option_words(plain)
    preamble = _PREAMBLE.match(said)
    core = said[preamble.end() :] if preamble else said
    if len(core) == 1 and core.upper() in allowed:
        return core.upper()
    behind = _LETTER_BEHIND.search(plain)
    before = _option_words(plain[: behind.start()]) if behind else ""
    named = []
    for letter, option in zip(LETTERS, options, strict=False):
        words = _option_words(_without_markup(option))
        is_said = words in (said, core) if words else bool(option.strip()) and option.strip() == text.strip()
        is_said_before_its_letter = behind and behind[1].upper() == letter and " " in before and before == words
        if is_said or is_said_before_its_letter:
            named.append(letter)
    if named:
        return named[0] if len(named) == 1 else None
    letters = _named_letters(_without_option_texts(plain, options), allowed)
    return letters.pop() if len(letters) == 1 else None


def find_number(text: str) -> float | None:
    """Find the one number of a text; None if it has none, or two that differ.

    Units, signs, thousands separators and exponents are read; digits inside words (CO2) are not.
    """
    plain = _without_markup(text).replace("\u2212", "-")
    numbers = set()
    for sign, whole, decimals, bare_decimals, exponent in _NUMBER.findall(plain):
        if "," in whole and not _THOUSANDS.fullmatch(whole):
            return None
        numbers.add(float(sign + whole.replace(",", "") + decimals + bare_decimals + exponent))
    return numbers.pop() if len(numbers) == 1 else None


def normalise(text: str) -> str:
    """Reduce a text to what a free-text match compares: lower case, no markup, no punctuation, single spaces.

    An article goes where a word follows that it can belong to: "vitamin A" keeps its letter, and "A, B" both of them.
    The point and comma within a number stay, and the sign before one.
    """
    return " ".join(_without_articles(_fold(_without_markup(text)).split()))


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text.casefold()).replace("\u2212", "-")
    kept = [
        char if not unicodedata.category(char).startswith(("P", "C", "Z")) or _is_of_number(folded, i) else " "
        for i, char in enumerate(folded)
    ]
    return " ".join("".join(kept).split())


def _option_words(plain: str) -> str:
    """Reduce a text like `normalise`, except that the letter of "A. cat" is no article."""
    return _fold(_ARTICLE.sub("", plain))


def _without_markup(text: str) -> str:
    return _MARKUP.sub(" ", unicodedata.normalize("NFKC", text)).strip()


def _without_articles(words: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for word in reversed(list(words)):
        belongs = bool(kept) and not (word.casefold() == "a" and len(kept[-1]) == 1 and kept[-1].isalpha())
        if not (belongs and word.casefold() in _ARTICLES):
            kept.append(word)
    return kept[::-1]


def _named_letters(text: str, allowed: str) -> set[str]:
    """Collect the option letters that stand alone in a text."""
    if len(text) == 1 or (len(text) == 2 and text[1] in ".):,;"):
        return {text[0].upper()} & set(allowed)
    letters = {match[1].upper() for match in _BRACKETED.finditer(text)}
    for match in _ISOLATED.finditer(text):
        following = _ARTICLE_BEFORE.match(text, match.end()) if match[1] in "AaIi" else None
        if following and following[1] and following[1].lower() not in _AFTER_A_LETTER:
            continue
        if following and following[2] and match[1] == "a":
            continue
        letters.add(match[1].upper())
    return letters & set(allowed)


def _without_option_texts(text: str, options: Sequence[str]) -> str:
    """Blank out quoted option texts, longest first, so that letters inside them are not read as choices.

    Texts that are letters themselves ("B.", "(a)(c).") are blanked behind their own letter only: elsewhere they choose.
    """
    for letter, option in sorted(zip(LETTERS, options, strict=False), key=lambda item: len(item[1]), reverse=True):
        words = _WORD.findall(_ARTICLE.sub("", _without_markup(option)))
        if not words:
            continue
        quoted = rf"(?:(?:an?|the)[ \t]+)?{_BETWEEN_WORDS.join(words)}(?!\w)"
        label = rf"(?<![A-Za-z0-9])[(\[]?{letter}(?:\s?[)\].:]+\s*| - |\s*\n\s*)[(\[\"'“‘]?"
        text = re.sub(label + quoted, f"{letter}.", text, flags=re.IGNORECASE)
        if any(len(word) > 1 for word in words):
            text = re.sub(rf"(?<!\w){quoted}", " ", text, flags=re.IGNORECASE)
    return text.strip()


def _is_of_number(text: str, idx: int) -> bool:
    if not (idx < len(text) - 1 and text[idx + 1].isdigit()):
        return False
    before = text[idx - 1] if idx else " "
    return (text[idx] in ".," and before.isdigit()) or (text[idx] == "-" and not before.isalnum())
