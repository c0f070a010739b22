"""Whether an answer is right: predicted text and the sample's answer -> bool.

Multiple choice is decided by the one option letter that the text names, numbers by value to two decimals, free text by
a normalised match. A text that names two letters or two numbers names none: hedging never pays.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

LETTERS = string.ascii_uppercase

_MARKUP = re.compile(r"\\(?:boxed|text|mathrm|textbf|mathbf)|</?[A-Za-z]+>|[*_`$\\{}]")
_BRACKETED = re.compile(r"""(?<![A-Za-z0-9])[(\["'“‘]\s?([A-Za-z])\s?[)\]"'”’]""")
_ISOLATED = re.compile(r"(?<![A-Za-z0-9'’.-])([A-Za-z])(?![A-Za-z0-9'’-]|\.[A-Za-z](?![A-Za-z]))")
_NEXT_WORD = re.compile(r"[ \t]+([A-Za-z]{2,})")
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
    if question_type == "multiple_choice":
        expected = sample_answer.strip().upper()
        allowed = LETTERS[: len(options)] if options else LETTERS
        if len(expected) != 1 or expected not in allowed:
            raise ValueError(
                f"{sample_answer=}; expected one option letter {allowed[0]}-{allowed[-1]}; question with "
                f"{len(options)} options; correct the sample"
            )
        return option_letter(predicted, options) == expected
    if question_type == "numeric":
        number = find_number(sample_answer)
        if number is None:
            raise ValueError(f"{sample_answer=}; expected one number; numeric question; correct the sample")
        given = find_number(predicted)
        # Two decimals, as Video-R1 compares numbers.
        return given is not None and round(given, 2) == round(number, 2)
    if question_type == "free_text":
        text = normalise(sample_answer)
        if not text:
            raise ValueError(f"{sample_answer=}; expected a text to match; free-text question; correct the sample")
        return normalise(predicted) == text
    raise ValueError(f"{question_type=}; expected 'multiple_choice', 'numeric' or 'free_text'; correct the sample")


def option_letter(text: str, options: Sequence[str] = ()) -> str | None:
    """Find the one option that a text names, by letter or, where it names no letter, by the option's exact text.

    Letters count where they stand alone: `B`, `b)`, `(B)`, `B. cat`, `The answer is B`. The article "A" and the
    pronoun "I" do not, nor do letters within a quoted option text.

    Returns:
        The upper-case letter; None if the text names no option, or more than one.
    """
    allowed = LETTERS[: len(options)] if options else LETTERS
    plain = _MARKUP.sub(" ", unicodedata.normalize("NFKC", text)).strip()
    letters = _named_letters(_without_option_texts(plain, options), allowed)
    if letters:
        return letters.pop() if len(letters) == 1 else None
    said = normalise(plain)
    if not said:
        return None
    preamble = _PREAMBLE.match(said)
    spellings = (said, said[preamble.end() :] if preamble else said)
    same = {letter for letter, option in zip(LETTERS, options, strict=False) if normalise(option) in spellings}
    return same.pop() if len(same) == 1 else None


def find_number(text: str) -> float | None:
    """Find the one number of a text; None if it has none, or two that differ.

    Units, signs, thousands separators and exponents are read; digits inside words (CO2) are not.
    """
    plain = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    numbers = set()
    for sign, whole, decimals, bare_decimals, exponent in _NUMBER.findall(plain):
        if "," in whole and not _THOUSANDS.fullmatch(whole):
            return None
        numbers.add(float(sign + whole.replace(",", "") + decimals + bare_decimals + exponent))
    return numbers.pop() if len(numbers) == 1 else None


def normalise(text: str) -> str:
    """Reduce a text to what a free-text match compares: lower case, no punctuation, no articles, single spaces.

    The point and comma within a number stay. A text that is nothing but articles is kept.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = [
        char if not unicodedata.category(char).startswith(("P", "C", "Z")) or _is_inside_number(folded, i) else " "
        for i, char in enumerate(folded)
    ]
    words = "".join(kept).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _named_letters(text: str, allowed: str) -> set[str]:
    """Collect the option letters that stand alone in a text."""
    if len(text) == 1 or (len(text) == 2 and text[1] in ".):,;"):
        return {text[0].upper()} & set(allowed)
    letters = {match[1].upper() for match in _BRACKETED.finditer(text)}
    for match in _ISOLATED.finditer(text):
        if match[1] in "AaIi":
            following = _NEXT_WORD.match(text, match.end())
            if following and following[1].lower() not in _AFTER_A_LETTER:
                continue
        letters.add(match[1].upper())
    return letters & set(allowed)


def _without_option_texts(text: str, options: Sequence[str]) -> str:
    """Blank out quoted option texts, longest first, so that letters inside them are not read as choices."""
    for option in sorted(options, key=len, reverse=True):
        quoted = unicodedata.normalize("NFKC", option).strip().rstrip(".")
        if len(quoted) > 1:
            text = re.sub(rf"(?<!\w){re.escape(quoted)}(?!\w)", " ", text, flags=re.IGNORECASE)
    return text.strip()


def _is_inside_number(text: str, idx: int) -> bool:
    return text[idx] in ".," and 0 < idx < len(text) - 1 and text[idx - 1].isdigit() and text[idx + 1].isdigit()
