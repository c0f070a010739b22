# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr report`: trajectory lines -> one self-contained page that shows what the policy looked at and earned."""
