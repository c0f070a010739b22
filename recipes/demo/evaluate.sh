#!/usr/bin/env bash
# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
# Evaluate the demo's model, which a server has under any name, on 512 questions about videos that it has never seen:
# in up to three turns, then in one look at the same frame budget, then both compared.
#   bash recipes/demo/evaluate.sh [OUT] [options of `videomtr eval`, e.g. --base-url URL]
set -euo pipefail
out=${1:-outputs/demo/eval}
shift || true
data=.cache/demo/test
game=(+videomtr/model=tiny videomtr.episode.max_turns=3 videomtr.episode.frame_budget=22
    videomtr.episode.initial_frames=8 "videomtr.video.root=$data")

python -m data_prep.synthetic --out "$data" --seed 1000 --num-train 0 --num-val 0 --num-test 512 \
    --pool-size 64 --num-scenes 8 --num-distractors 7 --needle-frames 1 --no-random-order
videomtr eval "$data/test.parquet" --out "$out/three_turns" "$@" "${game[@]}"
videomtr eval "$data/test.parquet" --out "$out/single_turn" --single-turn "$@" "${game[@]}"
videomtr compare "$out/single_turn" "$out/three_turns"
videomtr report "$out/three_turns" "$out/single_turn" --out "$out/report.html" --video-root "$data"
