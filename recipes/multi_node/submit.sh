#!/usr/bin/env bash
# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
# Submits the run to a Ray cluster as a job. The machine that submits needs Ray alone; every node of the cluster needs
# verl and verl_videomtr installed, and the model, videos and caches at the same paths.
#   RAY_ADDRESS=http://HEAD:8265 bash recipes/multi_node/submit.sh data.train_files=... [override ...]
# VARIABLES names further environment variables that every worker is to get: VARIABLES="HF_HOME NCCL_SOCKET_IFNAME".
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
if [[ ${RAY_ADDRESS:-} != http* ]]; then
    echo "RAY_ADDRESS=${RAY_ADDRESS:-}; expected the cluster's dashboard, such as http://10.0.0.1:8265" >&2
    exit 2
fi

# A job's runtime environment reaches every worker that the job starts, on every node.
runtime_env=$("$PYTHON" - <<'END'
import json, os
names = ["HF_HOME", "HF_HUB_OFFLINE", *os.environ.get("VARIABLES", "").split()]
variables = {name: os.environ[name] for name in names if name in os.environ}
variables["VERL_USE_EXTERNAL_MODULES"] = "verl_videomtr.verl_plugin.register"
print(json.dumps({"env_vars": variables}))
END
)
# The scripts travel with the job; run.sh checks the configuration on the head, then trains.
exec "$PYTHON" -m ray.scripts.scripts job submit --address "$RAY_ADDRESS" --working-dir "$here/.." \
    --runtime-env-json "$runtime_env" -- bash multi_node/run.sh "$@"
