# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the whole suite."""

from hypothesis import settings

# A busy machine may take any time for an example; how fast things are is for benchmarks/ to say.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
