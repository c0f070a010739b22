# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One module per benchmark: its files in the shapes they are published in -> samples to evaluate on."""
