# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Say before anything starts what this machine lacks. Standard library only: it runs before the environment exists.

python recipes/demo/preflight.py --device cpu|gpu [--installed]
"""

import argparse
import os
import platform
import shutil
import sys
from pathlib import Path

PYTHON = (3, 11)
"""The locks are resolved for this one: some of their releases have no file for others."""
INSTALL_GIB = {"cpu": 12, "gpu": 25}
"""The environment, and what the installer holds beside it while it works."""
RUN_GIB = 2
MEMORY_GIB = {"cpu": 10, "gpu": 32}
"""Peak of a run with the tiny model, with some room: see README.md for the measured figure."""


def problems(device, installed):
    """Yield one line for each thing that is missing: what, how much is needed, what to do."""
    if sys.version_info[:2] != PYTHON:
        yield (
            f"Python {platform.python_version()} ({sys.executable}); expected 3.11, which the locks are resolved for; "
            + (
                "remove .venv and run it again with PYTHON=/path/to/python3.11"
                if installed
                else "name one: make demo PYTHON=/path/to/python3.11"
            )
        )
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        yield (
            f"{platform.system()} on {platform.machine()}; expected Linux on x86_64, which the locks are resolved for; "
            "elsewhere resolve them again (make lock) with that platform's name"
        )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    needed = RUN_GIB if installed else INSTALL_GIB[device]
    if free < needed:
        yield f"{free:.1f} GiB free on the disk of {Path.cwd()}; expected {needed}; free some, or clone elsewhere"
    memory = available_memory_gib()
    if memory is not None and memory < MEMORY_GIB[device]:
        yield f"{memory:.1f} GiB of memory available; expected {MEMORY_GIB[device]}; close other programs"
    shm = Path("/dev/shm")
    if shm.is_dir() and installed and shutil.disk_usage(shm).free < 2**30:
        yield (
            f"{shutil.disk_usage(shm).free / 2**20:.0f} MiB free in /dev/shm; expected 1024, which Ray's object store "
            "needs; in a container start it with --shm-size=4g"
        )


def available_memory_gib():
    """Memory that can be had without swapping, cgroup limit included; None where the system does not say."""
    values = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                values.append(int(line.split()[1]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max")
        if limit.is_file() and limit.read_text().strip() != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            values.append(int(limit.read_text()) - used)
    except (OSError, ValueError):
        return None
    return min(values) / 2**30 if values else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "gpu"), required=True, help="where the demo is to run")
    parser.add_argument("--installed", action="store_true", help="the environment exists: only the run is ahead")
    arguments = parser.parse_args()
    found = list(problems(arguments.device, arguments.installed))
    for line in found:
        print(f"cannot start: {line}", file=sys.stderr)
    if (os.cpu_count() or 1) < 2 and not found:
        print("note: one core; the figures in README.md were measured on two", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
