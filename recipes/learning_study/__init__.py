# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The learning study: a tiny policy learns to look for needles in real video files, on two CPU cores."""

import os

# Before anything loads an OpenMP runtime: by default its threads spin while they wait, and on a machine with two busy
# cores that makes small matrix products up to six times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
