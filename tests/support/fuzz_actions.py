# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of `parse_action`: random bytes -> any broken promise ends the run.

    python tests/support/fuzz_actions.py [-runs=200000] [libFuzzer options]

The promises are checked by `check_parse`, which the bounded tests use too.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POOL_TIMES = [0.25, 0.75, 1.3, 1.75, 2.25, 40.0, 40.5, 60.0]
FRAGMENTS = [
    *(f"<{slash}{name}>" for slash in ("", "/") for name in ("think", "retrieve", "answer")),
    *(
        "0,7",
        "3,1",
        "7",
        "8",
        "1.25,2",
        "٣",
        "９",
        ",",
        ".",
        "-",
        "1e3",
        " ",
        "\n",
        "<",
        ">",
        "</",
        "<<think>",
        "A",
        "B. cat",
    ),
    *("<Think>", "<answer >", "</ answer>", "\x00", "\ud800", "9" * 70, "x" * 30),
]
RANGES = [*"0123456789", ",", ".", " ", "0,", ",7", "40.4", "60", "\t", "-", "٣"]
MAX_ANSWER_CHARS = 20


def check_parse(text: str) -> None:
    """Hold `parse_action` to its promises on one text."""
    from verl_videomtr.actions import Answer, Invalid, Retrieve, parse_action

    tags = re.findall("</?(?:think|retrieve|answer)>", text)
    is_shaped = tags in (
        ["<think>", "</think>", "<retrieve>", "</retrieve>"],
        ["<think>", "</think>", "<answer>", "</answer>"],
    )
    for unit in ("index", "seconds"):
        for last_turn in (False, True):
            action = parse_action(
                text,
                pool_size=len(POOL_TIMES),
                last_turn=last_turn,
                unit=unit,
                frame_times_seconds=POOL_TIMES,
                max_answer_chars=MAX_ANSWER_CHARS,
            )
            if isinstance(action, Retrieve):
                assert is_shaped
                assert not last_turn
                assert 0 <= action.start <= action.end < len(POOL_TIMES)
            elif isinstance(action, Answer):
                assert is_shaped
                assert 0 < len(action.text) <= MAX_ANSWER_CHARS
                assert action.text == action.text.strip()
                assert action.text in text
            else:
                assert isinstance(action, Invalid)
                assert 0 < len(action.reason) < 200
                assert action.reason.endswith(".")


def main() -> None:
    sys.path.insert(0, str(ROOT))
    import atheris

    with atheris.instrument_imports(include=["verl_videomtr.actions"]):
        import verl_videomtr.actions  # noqa: F401

    def fragments(provider: atheris.FuzzedDataProvider, choices: list[str]) -> str:
        text = ""
        for _ in range(provider.ConsumeIntInRange(0, 12)):
            if provider.ConsumeBool():
                text += choices[provider.ConsumeIntInRange(0, len(choices) - 1)]
            else:
                text += provider.ConsumeUnicode(provider.ConsumeIntInRange(0, 8))
        return text

    def run(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        shape = provider.ConsumeIntInRange(0, 2)
        if shape == 0:
            check_parse(fragments(provider, FRAGMENTS))
            return
        tag, choices = ("retrieve", RANGES) if shape == 1 else ("answer", FRAGMENTS[6:])
        content = fragments(provider, choices)
        thought, between = fragments(provider, FRAGMENTS), fragments(provider, FRAGMENTS)
        check_parse(f"<think>{thought}</think>{between}<{tag}>{content}</{tag}>{fragments(provider, FRAGMENTS)}")

    atheris.Setup(sys.argv, run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
