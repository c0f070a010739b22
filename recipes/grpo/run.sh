#!/usr/bin/env bash
# GRPO: no critic, verl's own trainer.
#   bash recipes/grpo/run.sh data.train_files=... data.val_files=... videomtr.video.root=... [override ...]
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
launch +videomtr/recipe=grpo "$@"
