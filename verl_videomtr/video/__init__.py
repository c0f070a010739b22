# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Frames: probing, decoding, the candidate pool, its cache and its service."""
