# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Models behind OpenAI-compatible endpoints: how they are asked, what their answers are, and how they play."""
