# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Options and answers as the sources write them ("A. text", inline "(A) text", 0-based numbers, the option's text)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.drops import Dropped, text_of
from verl_videomtr.answers import LETTERS

_INLINE_OPTIONS = (re.compile(r"\n\s*\(([A-Z])\)\s*"), re.compile(r"\n\s*([A-Z])[).:]\s+"))
_LETTER = re.compile(r"^\(?([A-Za-z])\)?[.:]?$")


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
    if isinstance(value, Mapping) and "".join(map(str, value)) == LETTERS[: len(value)]:
        value = list(value.values())
    texts = list_of(value, what="options")
    odd = next((text for text in texts if isinstance(text, (list, dict, bool))), None)
    if odd is not None:
        raise Dropped("options are not texts", f"{odd!r}")
    return strip_letters(texts)


def strip_letters(options: Sequence[Any]) -> tuple[str, ...]:
    """Remove "A. ", "(A) ", "A: " where every option has its own letter in order; else leave the texts alone.

    All or nothing: an option that merely begins like a letter ("A. Lincoln") stays whole.
    """
    texts = tuple(text_of(option) for option in options)
    stripped = []
    for letter, text in zip(LETTERS, texts, strict=False):
        match = re.match(rf"^(?:\({letter}\)|{letter}[.):])\s*(.*)$", text, flags=re.DOTALL)
        if match is None:
            return texts
        stripped.append(match.group(1).strip())
    return tuple(stripped)


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
    text = text_of(index)
    if not text.isdecimal() or int(text) >= len(options):
        raise Dropped("answer is not among the options", f"position {index!r} of {len(options)}")
    return LETTERS[int(text)]


def letter_of_text(answer: Any, options: Sequence[str]) -> str:
    """Return the letter of the option with exactly this text; of the last one, as MLVU scores, where several have it.

    Raises:
        Dropped: no option has this text.
    """
    text = text_of(answer)
    if text not in options:
        raise Dropped("answer is not among the options", f"{text!r} in {list(options)}")
    return LETTERS[max(position for position, option in enumerate(options) if option == text)]


def letter_of_letter(answer: Any, options: Sequence[str]) -> str:
    """Return the letter of "B", "b", "(B)", "B.".

    Raises:
        Dropped: it is not the letter of an option.
    """
    match = _LETTER.match(text_of(answer))
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
    for read, texts in ((letter_of_text, options), (letter_of_text, as_given), (letter_of_letter, options)):
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
    if not all(options):
        raise Dropped("empty option text", repr(list(options)))
    folded = [option.casefold() for option in options]
    for position, text in enumerate(folded):
        if text in folded[:position]:
            raise Dropped("duplicate option text", repr(options[position]))
