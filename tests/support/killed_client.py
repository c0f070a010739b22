# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A `videomtr eval` in a process of its own that is killed midway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def kill_midway(arguments: Sequence[str], out: Path, *, num_answers: int, limit_seconds: float) -> set[str]:
    """Start an evaluation into `out`, SIGKILL it once it keeps so many answers; return the keys of those it kept."""
    command = [sys.executable, "-m", "verl_videomtr.cli", "eval", *arguments, "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = out / "journal.jsonl"
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline and (not journal.exists() or journal.read_bytes().count(b"\n") < num_answers):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    return {json.loads(line)["key"] for line in journal.read_bytes().split(b"\n")[:-1]}
