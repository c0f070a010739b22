# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Hydra groups, and what they interpolate: `${videomtr_file:NAME}` is the path of a file of this package.

Hydra imports this when it reads a group. verl takes a tool's file by path only, relative to where it was started.
"""

from importlib import resources

from omegaconf import OmegaConf

OmegaConf.register_new_resolver(
    "videomtr_file", lambda name: str(resources.files("verl_videomtr").joinpath(name)), replace=True
)
