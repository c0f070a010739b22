# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The SLURM script, with stand-ins for SLURM's two commands: real raylets on this machine join into one cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

SRUN = """#!/usr/bin/env bash
# Runs here what srun would run on a node.
while [[ $1 == --* ]]; do last=$1; shift; done
[[ $last == --nodelist ]] && shift
exec "$@"
"""
SCONTROL = "#!/usr/bin/env bash\nprintf 'node0\\nnode1\\n'\n"
INTERPRETER = """#!/usr/bin/env bash
# Ray is real; the check and the trainer are only written down.
if [[ $1 == -c || $2 == ray.scripts.scripts ]]; then exec {python} "$@"; fi
echo "STARTED $RAY_ADDRESS $VERL_USE_EXTERNAL_MODULES $MINE $*"
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_slurm_script_waits_for_all_nodes_and_trains_on_them(tmp_path):
    commands = tmp_path / "bin"
    commands.mkdir()
    texts = {"srun": SRUN, "scontrol": SCONTROL, "interpreter": INTERPRETER.format(python=sys.executable)}
    for name, text in texts.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    port = free_port()
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("VERL_", "RAY_", "SLURM_"))}
    result = subprocess.run(
        ["bash", str(ROOT / "recipes" / "multi_node" / "slurm.sh"), "trainer.save_freq=3"],
        env={
            **plain,
            "PATH": f"{commands}:{plain['PATH']}",
            "PYTHON": str(commands / "interpreter"),
            # Short: a socket's path may have 107 characters. Apart: no other run may find this cluster.
            "RAY_TMPDIR": str(tmp_path.parents[1]),
            "SLURM_JOB_NODELIST": "node[0-1]",
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_GPUS_ON_NODE": "1",
            "SLURM_CPUS_ON_NODE": "2",
            "PORT": str(port),
            "WAIT_SECONDS": "400",
            "MINE": "mine",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    doctor, trainer = [line.split() for line in result.stdout.splitlines() if line.startswith("STARTED")]
    assert doctor[3:7] == ["mine", "-m", "verl_videomtr.cli", "doctor"]
    assert trainer[3:6] == ["mine", "-m", "verl.trainer.main_ppo"]
    assert trainer[6:] == [
        "+videomtr/recipe=multi_node",
        "trainer.nnodes=2",
        "trainer.n_gpus_per_node=1",
        "trainer.save_freq=3",
    ]
    assert trainer[1].endswith(f":{port}")
    assert trainer[2] == "verl_videomtr.verl_plugin.register"


def test_slurm_script_without_the_recipes_is_refused(tmp_path):
    result = subprocess.run(
        ["bash", str(ROOT / "recipes" / "multi_node" / "slurm.sh")],
        env={**os.environ, "SLURM_SUBMIT_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert "holds no multi_node/run.sh" in result.stderr
