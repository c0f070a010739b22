#!/usr/bin/env bash
# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
# The paper's run with one thing changed.
#   bash recipes/ablations/run.sh ABLATION data.train_files=... data.val_files=... videomtr.video.root=... [override ...]
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
if [[ $# -eq 0 || $1 == *=* ]]; then
    echo "the first argument is ${1:-missing}; expected an ablation, such as no_gate; README.md beside this file lists them" >&2
    exit 2
fi
name=$1
shift
launch +videomtr/recipe=paper "+videomtr/ablation=$name" "trainer.experiment_name=$name" "$@"
