#!/usr/bin/env bash
# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
# A Ray cluster over the nodes of a SLURM job, then the run on its first node.
#   sbatch --nodes=2 recipes/multi_node/slurm.sh data.train_files=... data.val_files=... [override ...]
# trainer.nnodes and trainer.n_gpus_per_node follow from the job. Raylets inherit the environment of the job (srun
# exports all of it), and workers that of their raylet: what is exported before sbatch reaches every process.
#SBATCH --job-name=videomtr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --output=videomtr-%j.log
set -euo pipefail

# SLURM runs a copy of this file from a folder of its own.
recipes=${RECIPES:-$SLURM_SUBMIT_DIR/recipes}
if [[ ! -f $recipes/multi_node/run.sh ]]; then
    echo "RECIPES=$recipes holds no multi_node/run.sh; expected the recipes folder; set RECIPES or submit beside it" >&2
    exit 2
fi
export PYTHON=${PYTHON:-python3}
export VERL_USE_EXTERNAL_MODULES=verl_videomtr.verl_plugin.register
export RAY_USAGE_STATS_ENABLED=0
# One token for the nodes of this job: Ray would else take what each node has in its home directory, or none.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$("$PYTHON" -c 'import secrets; print(secrets.token_hex(32))')}
gpus=${SLURM_GPUS_ON_NODE:-8}
cpus=${SLURM_CPUS_ON_NODE:-$(nproc)}
port=${PORT:-6379}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
# Beside what runs on that node already.
on=(srun --overlap --nodes=1 --ntasks=1 --export=ALL --nodelist)
address=$("${on[@]}" "$head" "$PYTHON" -c 'import ray; print(ray.util.get_node_ip_address())' | tail -n 1)

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
raylet=("$PYTHON" -m ray.scripts.scripts start --num-cpus="$cpus" --num-gpus="$gpus" --block)
"${on[@]}" "$head" "${raylet[@]}" --head --node-ip-address="$address" --port="$port" &
for node in "${nodes[@]:1}"; do
    "${on[@]}" "$node" "${raylet[@]}" --address="$address:$port" &
done

# Until every node has joined: verl fails at once where GPUs are missing. A raylet that ends is not waited for.
export RAY_ADDRESS=$address:$port
count='import ray; ray.init(log_to_driver=False); print(sum(node["Alive"] for node in ray.nodes()))'
joined=0
until [[ $joined == "${#nodes[@]}" ]]; do
    running=$(jobs -rp | wc -l)
    if ((SECONDS > ${WAIT_SECONDS:-300} || running < ${#nodes[@]})); then
        echo "$joined of ${#nodes[@]} nodes joined the Ray cluster at $RAY_ADDRESS in $SECONDS s, $running raylets run;" \
            "expected all; their own messages are above" >&2
        exit 1
    fi
    sleep 5
    joined=$(timeout 60 "${on[@]}" "$head" "$PYTHON" -c "$count" 2>/dev/null | tail -n 1) || joined=0
done

"${on[@]}" "$head" bash "$recipes/multi_node/run.sh" "trainer.nnodes=${#nodes[@]}" "trainer.n_gpus_per_node=$gpus" "$@"
