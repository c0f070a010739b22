# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The table of planted faults goes with the code: `make mutants` tries the faults themselves."""

from __future__ import annotations

import pytest
from mutants import FAULTS, PACKAGE, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_can_be_planted_and_its_tests_exist(fault):
    assert (ROOT / PACKAGE / fault.file).read_text(encoding="utf-8").count(fault.old) == 1
    assert fault.new != fault.old
    for test in fault.tests:
        assert (ROOT / "tests" / test.partition("::")[0]).is_file()


def test_faults_have_names_of_their_own():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
