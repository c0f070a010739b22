# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The edge: everything that touches verl. Importing this package imports nothing.

vLLM's workers import `vllm_cpu` from here before verl itself, so an import of verl at this place would re-enter it.
"""
