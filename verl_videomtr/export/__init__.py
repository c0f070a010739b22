# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""From a training checkpoint to a model that any server loads: shards in, the hub's layout out."""
