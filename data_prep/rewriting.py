# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One declarative query -> a request to a language model -> a four-option question, or the reason why not.

The paper's conversion (its second source): a suitability check and a rewrite in one request, the answer constrained to
a schema and then checked again here.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.choices import check_distinct, letter_of_either, strip_letters
from data_prep.drops import Dropped
from verl_videomtr.answers import LETTERS

NUM_OPTIONS = 4
INSTRUCTIONS = """\
You write exam questions about video clips. You get one sentence that describes a moment of a clip. The people who \
take the exam watch the clip and never see the sentence.

First decide whether the sentence can carry a question with exactly one right answer out of four. It cannot if it is \
too short or too general, or if it names nothing distinctive from which three wrong but believable answers could be \
made up. If it cannot, set "suitable" to false and leave the other fields empty.

If it can, set "suitable" to true and write:
- "question": asks about one detail that the sentence states. It says enough about the scene to find the moment in a \
longer clip, does not give its own answer away, and does not mention the sentence.
- "options": four short texts of one kind and of similar length, without letters or numbers in front. One is right \
according to the sentence; the other three are believable in such a scene and clearly wrong. Never "all of these" or \
"none of these".
- "answer": the right option, word for word."""


class Rewrite(BaseModel):
    """What the model is asked to return."""

    model_config = ConfigDict(extra="forbid", strict=True)

    suitable: bool
    question: str
    options: list[str]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A checked question with its options in their final places."""

    question: str
    options: tuple[str, ...]
    answer: str
    """Letter of the right option."""


def request_body(query: str, *, model: str, max_tokens: int) -> dict[str, Any]:
    """Return the chat-completion request for one query; it holds no key and no address."""
    schema = {"name": "rewrite", "strict": True, "schema": Rewrite.model_json_schema()}
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": f"Sentence: {query}"},
        ],
        "response_format": {"type": "json_schema", "json_schema": schema},
        "max_completion_tokens": max_tokens,
    }


def request_key(body: dict[str, Any]) -> str:
    """Return a text that is the same for the same question and differs if the model or the instructions change.

    How long the answer may become is no part of the question: answers that were paid for hold with any limit.
    """
    asked = {name: value for name, value in body.items() if name != "max_completion_tokens"}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def read_rewrite(content: str, *, seed: str) -> Choice:
    """Check a model's answer and put its right option in a place that the seed decides.

    Args:
        content: the answer's text.
        seed: the same seed and answer give the same places.
    Raises:
        Dropped: the model found the query unsuitable, or its answer breaks a rule.
    """
    try:
        rewrite = Rewrite.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Dropped("malformed answer", f"{where}: {first['msg']}" if where else first["msg"]) from None
    if not rewrite.suitable:
        raise Dropped("judged unsuitable")
    if not rewrite.question.strip():
        raise Dropped("malformed answer", "suitable, but no question")
    options = strip_letters(rewrite.options)
    if len(options) != NUM_OPTIONS or not all(options):
        raise Dropped("malformed answer", f"{len(options)} options {list(options)}; expected {NUM_OPTIONS} texts")
    check_distinct(options)
    right = options[LETTERS.index(letter_of_either(rewrite.answer, options))]
    placed = list(options)
    random.Random(seed).shuffle(placed)
    return Choice(question=rewrite.question.strip(), options=tuple(placed), answer=LETTERS[placed.index(right)])
