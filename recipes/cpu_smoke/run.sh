#!/usr/bin/env bash
# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
# Two training steps on a CPU, in this directory: videos, an untaught tiny model, verl's trainer, a checkpoint.
#   bash recipes/cpu_smoke/run.sh [override ...]
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../launch.sh"
out=$PWD/cpu_smoke

export VERL_PLATFORM=cpu HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1
# vLLM in the process that serves it, nothing compiled: both save start-up time.
export VLLM_ENABLE_V1_MULTIPROCESSING=0 TORCHDYNAMO_DISABLE=1
# Ray lowers its workers' priority by 15; on a shared machine everything else then goes first.
export RAY_worker_niceness=0
export VERL_FILE_LOGGER_PATH=$out/metrics.jsonl

if [[ ! -e $out/data/train.parquet ]]; then
    "$PYTHON" -m data_prep.synthetic --out "$out/data" --pool-size 64 --num-train 16 --num-val 8 --num-test 0
fi
if [[ ! -e $out/model/config.json ]]; then
    "$PYTHON" "$here/../learning_study/tiny_model.py" --out "$out/model"
fi
launch +videomtr/recipe=cpu_smoke \
    "data.train_files=$out/data/train.parquet" "data.val_files=$out/data/val.parquet" \
    "videomtr.video.root=$out/data" "actor_rollout_ref.model.path=$out/model" "critic.model.path=$out/model" \
    "videomtr.dump.dir=$out/trajectories" "trainer.default_local_dir=$out/checkpoints" "$@"
