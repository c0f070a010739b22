# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""How rewards become advantages: the forms by name and their constants, without torch. `gae` computes them."""

from __future__ import annotations

import dataclasses
import enum


class Credit(str, enum.Enum):
    """How rewards become advantages."""

    BI_LEVEL = "bi_level"
    LITERAL = "literal"
    PLAIN = "plain"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CreditConfig:
    """How rewards become advantages."""

    form: Credit = Credit.BI_LEVEL
    """bi_level, or for comparison literal (the paper's sentence) or plain (one GAE over all tokens)."""
    gamma_turn: float = 0.95
    """Discount between turns."""
    gamma_token: float = 1.0
    """Discount between the tokens of a turn."""
    lam_turn: float = 1.0
    """GAE's lambda between turns."""
    lam_token: float = 1.0
    """GAE's lambda between the tokens of a turn."""

    def __post_init__(self) -> None:
        names = [form.value for form in Credit]
        if self.form not in names:
            raise ValueError(f"videomtr.credit.form={self.form!r}; expected one of {names}")
        object.__setattr__(self, "form", Credit(self.form))
        for name in ("gamma_turn", "gamma_token", "lam_turn", "lam_token"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"videomtr.credit.{name}={value}; expected 0 to 1")
