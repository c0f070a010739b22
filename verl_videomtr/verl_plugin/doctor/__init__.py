# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr doctor`: would this configuration run, and if not, where would it stop and what corrects it?

    overrides -> compose -> Case -> one module of checks per subject -> Findings -> lines or JSON

Wherever a failure has a function of verl, of the plugin or of a library behind it, that function is called with the
configuration; the rest is arithmetic that a test holds against the code that fails.
"""
