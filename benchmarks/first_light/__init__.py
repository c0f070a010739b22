# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""First light: what one GPU can show in a quarter of an hour, shortest check first; see `__main__`."""
