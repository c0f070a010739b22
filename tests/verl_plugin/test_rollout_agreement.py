# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A run whose engine and actor read different contexts ends at its first step."""

from __future__ import annotations

import math

import pytest

from verl_videomtr.verl_plugin.rollout_agreement import METRIC, AgreementCheck, RolloutMismatchError


@pytest.mark.parametrize("difference", [0.051, 0.6, math.nan])
def test_a_difference_above_the_bound_ends_the_run(difference):
    with pytest.raises(RolloutMismatchError, match="step 7: the inference engine and the actor"):
        AgreementCheck(0.05).look({METRIC: difference}, step=7)


def test_only_the_first_step_is_looked_at():
    check = AgreementCheck(0.05)
    check.look({METRIC: 0.001}, step=1)
    check.look({METRIC: 0.9}, step=2)


def test_a_step_without_the_number_is_said(caplog):
    AgreementCheck(0.05).look({}, step=1)
    assert "nobody has checked" in caplog.text


def test_null_checks_nothing(caplog):
    AgreementCheck(None).look({METRIC: 1.0}, step=1)
    assert not caplog.text
