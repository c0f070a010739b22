#!/usr/bin/env bash
# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
# LoRA on one GPU.
#   bash recipes/lora_1gpu/run.sh data.train_files=... data.val_files=... videomtr.video.root=... [override ...]
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
launch +videomtr/recipe=lora_1gpu "$@"
