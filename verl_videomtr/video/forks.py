# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What has threads, locks or child processes begins anew after a fork: the fork has none of them but their traces."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class BeginsAnew(Protocol):
    """Something that a fork must not share with the process that it came from."""

    def begin_after_fork(self) -> None:
        """Let go of threads, locks and children, which are the other process's. Called by the fork's only thread."""


def begin_anew_after_fork(owner: BeginsAnew) -> None:
    """Have `owner.begin_after_fork()` called in every fork, as long as it lives."""
    _owners.add(owner)


_owners: weakref.WeakSet[BeginsAnew] = weakref.WeakSet()


def _begin() -> None:
    for owner in list(_owners):
        owner.begin_after_fork()


os.register_at_fork(after_in_child=_begin)
