# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the whole suite."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine may take any time for an example; how fast things are is for benchmarks/ to say. Every run has the same
# examples, so that no build fails by chance; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("search", deadline=None)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

SERVERS = (
    "mark.e2e",
    "from served import",
    "queue_setting",
    "ray.init(",
    '"--ray"',
    '"recipes.learning_study.run"',
    "chromium.launch(",
)
"""Code of a test file that starts Ray, vLLM, the trainer or a browser: each takes the whole machine."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where `make test JOBS=N` runs several processes, keep a file in one, and all that start servers in the same one.

    xdist's own groups are a suffix of a test's id, which this pytest does not take.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByServers(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(config.rootpath / nodeid.partition("::")[0])

    return ByServers(config, log)


@cache
def group_of(path: Path) -> str:
    """The group of a file's tests: the file's own, or that of all files which start servers."""
    text = path.read_text(encoding="utf-8")
    return "servers" if any(word in text for word in SERVERS) else str(path)
