# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Stage e: the demo's trainer for two steps, where verl, Ray and vLLM import; else it says what is missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from benchmarks.first_light.record import Record

NEEDED = ("verl", "ray", "vllm")
COMMAND = (sys.executable, "-m", "recipes.demo.main", "--device", "gpu", "--steps", "2")


def run(record: Record, *, rehearse: bool) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        record.write("not run", missing=", ".join(missing), what_to_do="carry them: benchmarks.first_light.wheels")
    elif rehearse:
        record.write("not run", why="a rehearsal starts no trainer; make demo DEVICE=cpu does")
    else:
        subprocess.run(COMMAND, check=True)
        record.write("two steps", figures="outputs/demo, the newest run's summary")
