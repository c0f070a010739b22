#!/usr/bin/env bash
# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
# Many nodes: runs on the head of a Ray cluster that is already up. submit.sh and slurm.sh call it.
#   bash recipes/multi_node/run.sh data.train_files=... data.val_files=... videomtr.video.root=... [override ...]
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
# Join that cluster; without this Ray would start one of its own on this node alone.
export RAY_ADDRESS=${RAY_ADDRESS:-auto}
launch +videomtr/recipe=multi_node "$@"
