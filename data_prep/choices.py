# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Options and answers as the sources write them ("A. text", inline "(A) text", 0-based numbers, the option's text)."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.drops import Dropped, number_of, text_of
from verl_videomtr.answers import LETTERS
from verl_videomtr.sample import is_blank

_INLINE_OPTIONS = (re.compile(r"\n\s*\(([A-Z])\)\s*"), re.compile(r"\n\s*([A-Z])[).:]\s+"))
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_LABELLED = re.compile(
    r"(?:[(（]([A-ZＡ-Ｚ])[)）](?![(（])|([A-ZＡ-Ｚ])[.):．）：、])\s*(.*)", re.IGNORECASE | re.DOTALL
)
"""A letter of its own and a text; "(a)(c)" is a text that names two."""


def list_of(value: Any, *, what: str) -> list[Any]:
    """Return a list that is given as one, or as JSON text (as in a CSV cell); nothing given is an empty list.

    Raises:
        Dropped: it is something else. Text is never taken apart into characters.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Dropped(f"{what} are not JSON", f"{value[:200]!r}; expected a JSON list") from None
    if value is None or value == "" or value != value:
        return []
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise Dropped(f"{what} are not a list", f"{value!r}")
    return list(value)


def read_options(value: Any) -> tuple[str, ...]:
    """Return the option texts of a list, of its JSON text, or of an object by letter, without letters in front.

    Raises:
        Dropped: they are given as something else.
    """
    if isinstance(value, Mapping) and "".join(map(str, value)).upper() == LETTERS[: len(value)]:
        value = list(value.values())
    texts = list_of(value, what="options")
    odd = next((text for text in texts if isinstance(text, (list, tuple, dict, bool, bytes))), None)
    if odd is not None:
        raise Dropped("options are not texts", f"{odd!r}")
    return strip_letters(texts)


def strip_letters(options: Sequence[Any]) -> tuple[str, ...]:
    """Remove "A. ", "(a) ", "A：" where every option has its own letter in order; else leave the texts alone.

    All or nothing: an option that merely begins like a letter ("A. Lincoln") stays whole.
    """
    texts = tuple(text_of(option) for option in options)
    parts = [_labelled(text) for text in texts]
    if "".join(letter for letter, _ in parts) != LETTERS[: len(texts)] or len(texts) > len(LETTERS):
        return texts
    return tuple(text for _, text in parts)


def _labelled(text: str) -> tuple[str, str]:
    """Split "b) tea" into the upper-case letter and the text; ("", text) where there is no letter."""
    match = _LABELLED.fullmatch(text)
    if match is None:
        return "", text
    return unicodedata.normalize("NFKC", match[1] or match[2]).upper(), match[3].strip()


def _spelling(text: str) -> str:
    """Return a text such that two which look the same are equal: accents in one character, any blanks one blank."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def split_inline_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Split "question\\n(A) one\\n(B) two" into the question and its options; no options if they are not A, B, ..."""
    for pattern in _INLINE_OPTIONS:
        parts = pattern.split(text)
        letters, texts = parts[1::2], parts[2::2]
        if len(letters) >= 2 and "".join(letters) == LETTERS[: len(letters)]:
            return parts[0].strip(), tuple(option.strip() for option in texts)
    return text.strip(), ()


def letter_of_index(index: Any, options: Sequence[str]) -> str:
    """Return the letter of a 0-based position.

    Raises:
        Dropped: it is not a position among the options.
    """
    # A column with gaps holds 3.0 in place of 3, and a CSV its text.
    position = number_of(index)
    if position is None or position not in range(min(len(options), len(LETTERS))):
        raise Dropped("answer is not among the options", f"position {index!r:.100} of {len(options)}")
    return LETTERS[int(position)]


def letter_of_text(answer: Any, options: Sequence[str]) -> str:
    """Return the letter of the option with exactly this text; of the last one, as MLVU scores, where several have it.

    Raises:
        Dropped: no option has this text.
    """
    text = _spelling(text_of(answer))
    positions = [position for position, option in enumerate(options) if _spelling(option) == text]
    if not positions:
        raise Dropped("answer is not among the options", f"{text!r} in {list(options)}")
    return LETTERS[positions[-1]]


def letter_of_labelled_text(answer: Any, options: Sequence[str]) -> str:
    """Return the letter of "B. tea" where the second of the options is "tea".

    Raises:
        Dropped: it is not an option behind its own letter.
    """
    letter, text = _labelled(text_of(answer))
    if not letter or letter not in LETTERS[: len(options)] or letter_of_text(text, options) != letter:
        raise Dropped("answer is not among the options", f"{answer!r} in {list(options)}")
    return letter


def letter_of_letter(answer: Any, options: Sequence[str]) -> str:
    """Return the letter of "B", "b", "(B)", "B.".

    Raises:
        Dropped: it is not the letter of an option.
    """
    match = _LETTER.fullmatch(unicodedata.normalize("NFKC", text_of(answer)))
    if match is None or match.group(1).upper() not in LETTERS[: len(options)]:
        raise Dropped("answer is not among the options", f"{answer!r} with {len(options)} options")
    return match.group(1).upper()


def letter_of_either(answer: Any, options: Sequence[str], *, as_given: Sequence[str] = ()) -> str:
    """Return the letter of an answer given as an option's text or as a letter, wherever that is one meaning only.

    Args:
        as_given: the options before letters were removed from them; an answer may repeat one as it stands there.
    Raises:
        Dropped: it is neither, or it is the text of one option and the letter of another.
    """
    found = set()
    readings = (letter_of_text, options), (letter_of_text, as_given), (letter_of_labelled_text, options)
    for read, texts in (*readings, (letter_of_letter, options)):
        try:
            found.add(read(answer, texts))
        except Dropped:
            continue
    if len(found) > 1:
        raise Dropped("answer has two meanings", f"{answer!r} is an option's text and another option's letter")
    if not found:
        raise Dropped("answer is not among the options", f"{answer!r} in {list(options)}")
    return found.pop()


def check_distinct(options: Sequence[str]) -> None:
    """Raise Dropped where an option is empty, or two read the same and no answer can be told right from wrong.

    For questions to train on. Benchmarks have such options, and count the questions.
    """
    if any(map(is_blank, options)):
        raise Dropped("empty option text", repr(list(options)))
    folded = [_spelling(option).casefold() for option in options]
    for position, text in enumerate(folded):
        if text in folded[:position]:
            raise Dropped("duplicate option text", repr(options[position]))
