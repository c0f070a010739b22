#!/usr/bin/env bash
# Submits the run to a Ray cluster as a job. The machine that submits needs Ray alone; every node of the cluster needs
# verl and verl_videomtr installed, and the model, videos and caches at the same paths.
#   RAY_ADDRESS=http://HEAD:8265 bash recipes/multi_node/submit.sh data.train_files=... [override ...]
# VARIABLES names further environment variables that every worker is to get: VARIABLES="HF_HOME NCCL_SOCKET_IFNAME".
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${RAY_ADDRESS:?expected the address of the cluster\'s dashboard, such as http://10.0.0.1:8265}"

# A job's runtime environment reaches every worker that the job starts, on every node.
runtime_env=$(
    python3 - <<'PYTHON'
import json, os
names = ["HF_HOME", "HF_HUB_OFFLINE", "WANDB_API_KEY", *os.environ.get("VARIABLES", "").split()]
variables = {name: os.environ[name] for name in names if name in os.environ}
variables["VERL_USE_EXTERNAL_MODULES"] = "verl_videomtr.verl_plugin.register"
print(json.dumps({"env_vars": variables}))
PYTHON
)
# The recipes travel with the job; run.sh checks the configuration on the head, then trains.
exec ray job submit --address "$RAY_ADDRESS" --working-dir "$here/.." --runtime-env-json "$runtime_env" \
    -- bash multi_node/run.sh "$@"
