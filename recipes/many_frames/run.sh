#!/usr/bin/env bash
# Hundreds of frames.
#   bash recipes/many_frames/run.sh data.train_files=... data.val_files=... videomtr.video.root=... [override ...]
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
launch +videomtr/recipe=many_frames "$@"
