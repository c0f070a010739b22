# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the whole suite."""

from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine may take any time for an example; how fast things are is for benchmarks/ to say.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SERVERS = ("e2e", "ray.init", "served", "trainer_runs", "e2e_trainer", "chromium")
"""Words of a test file that starts Ray, vLLM, the trainer or a browser: each takes the whole machine."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests `make test JOBS=N` keeps in one process: a file's, and all those that start servers."""
    groups: dict[Path, str] = {}
    for item in items:
        if item.path not in groups:
            text = item.path.read_text(encoding="utf-8")
            groups[item.path] = "servers" if any(word in text for word in SERVERS) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(groups[item.path]))
