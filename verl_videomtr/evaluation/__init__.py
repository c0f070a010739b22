# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy on benchmarks that people can trust: episodes played against a served model, tables, comparisons."""
