#!/usr/bin/env bash
# The paper's run.
#   bash recipes/paper/run.sh data.train_files=... data.val_files=... videomtr.video.root=... [override ...]
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
launch +videomtr/recipe=paper "$@"
