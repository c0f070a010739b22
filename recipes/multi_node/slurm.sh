#!/usr/bin/env bash
# A Ray cluster over the nodes of a SLURM job, then the run on its first node.
#   sbatch --nodes=2 recipes/multi_node/slurm.sh data.train_files=... data.val_files=... [override ...]
# trainer.nnodes follows from the job. Raylets inherit the environment of the job (srun exports all of it), and workers
# that of their raylet: what is exported here, or before sbatch, reaches every process.
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
    echo "RECIPES=$recipes holds no multi_node/run.sh; expected the recipes folder; submit from the checkout or set RECIPES" >&2
    exit 2
fi
gpus=${SLURM_GPUS_ON_NODE:-8}
cpus=${SLURM_CPUS_ON_NODE:-$(nproc)}
port=${PORT:-6379}
export VERL_USE_EXTERNAL_MODULES=verl_videomtr.verl_plugin.register
export RAY_USAGE_STATS_ENABLED=0

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
export RAY_ADDRESS=$address:$port

start() { # node, arguments of ray start
    srun --nodes=1 --ntasks=1 --nodelist="$1" --export=ALL \
        ray start "${@:2}" --num-cpus="$cpus" --num-gpus="$gpus" --block &
}
# `ray start --head` refuses a RAY_ADDRESS.
RAY_ADDRESS='' start "$head" --head --node-ip-address="$address" --port="$port"
for node in "${nodes[@]:1}"; do
    start "$node" --address="$RAY_ADDRESS"
done

# Until every node has joined: verl fails at once where GPUs are missing.
for _ in $(seq 60); do
    alive=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
        python3 -c 'import ray; ray.init(log_to_driver=False); print(sum(n["Alive"] for n in ray.nodes()))' \
        2>/dev/null | tail -n 1) || alive=0
    [[ $alive == "${#nodes[@]}" ]] && break
    sleep 5
done
if [[ $alive != "${#nodes[@]}" ]]; then
    echo "$alive of ${#nodes[@]} nodes joined the Ray cluster at $RAY_ADDRESS; expected all within five minutes; look for the raylets' own messages above" >&2
    exit 1
fi

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" --export=ALL \
    bash "$recipes/multi_node/run.sh" "trainer.nnodes=${#nodes[@]}" "trainer.n_gpus_per_node=$gpus" "$@"
