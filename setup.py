# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""For tools that call `setup.py`; everything it needs stands in pyproject.toml."""

from setuptools import setup

setup()
