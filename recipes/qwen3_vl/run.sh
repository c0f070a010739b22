#!/usr/bin/env bash
# Qwen3-VL.
#   bash recipes/qwen3_vl/run.sh data.train_files=... data.val_files=... videomtr.video.root=... [override ...]
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
launch +videomtr/recipe=qwen3_vl "$@"
