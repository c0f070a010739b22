# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Run the staged checks, shortest first; each in a process of its own with its own time limit.

    python -m benchmarks.first_light [--rehearse] [--out DIR] [--stages a,c,b,v,d,e]

    a  bi-level GAE: CUDA against the CPU, and its time against verl's loop
    b  actor and critic of Qwen2.5-VL-3B's shape, random weights: time, memory, tokens a second
    c  patches made on the device against those made on the CPU
    v  the same updates through verl's FSDP engine, where verl and Ray import
    d  what the planner foretold for b and v beside what they measured
    e  the demo's trainer for two steps, where verl, Ray and vLLM import

DIR/results.jsonl grows while the stages run, DIR/results.md is written anew after each, so a run that is cut has said
something. `--rehearse` does the same on the CPU with tiny shapes; its times say nothing about a GPU. The exit status is
1 where a stage failed or ran out of time.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.first_light.record import LINES, Record, write_table

STAGES = {"a": "credit", "c": "patches", "b": "models", "v": "engine", "d": "planned", "e": "trainer"}
"""Letter -> module, in the order in which they run."""
LIMIT_SECONDS = {"a": 120, "c": 60, "b": 300, "v": 240, "d": 30, "e": 480}
"""A machine that has never read these packages takes four minutes to start the trainer."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/first_light"),
        help="new folder for the results (default: %(default)s)",
    )
    parser.add_argument("--stages", default=",".join(STAGES), help="letters; they run in the order a,c,b,v,d,e")
    parser.add_argument("--child", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        stage = importlib.import_module(f"benchmarks.first_light.{STAGES[arguments.child]}")
        stage.run(Record(arguments.out, arguments.child), rehearse=arguments.rehearse)
        return 0
    asked = set(arguments.stages.split(","))
    if not asked <= set(STAGES):
        parser.error(f"--stages {arguments.stages}; expected letters of {','.join(STAGES)}")
    if (arguments.out / LINES).exists():
        parser.error(f"{arguments.out / LINES} exists; expected a new folder; name another with --out")
    arguments.out.mkdir(parents=True, exist_ok=True)
    _describe(arguments.out, rehearse=arguments.rehearse)
    ends = [run_stage(name, arguments.out, rehearse=arguments.rehearse) for name in STAGES if name in asked]
    print(f"{arguments.out}/results.md: {', '.join(ends)}")
    return int(any(end != "done" for end in ends))


def run_stage(name: str, folder: Path, *, rehearse: bool, limit_seconds: float | None = None) -> str:
    """Run one stage in a process group of its own and write how it ended: "done", "failed" or "out of time"."""
    limit = limit_seconds or LIMIT_SECONDS[name]
    command = [sys.executable, "-m", "benchmarks.first_light", "--child", name, "--out", str(folder)]
    log_path, start = folder / f"{name}.log", time.monotonic()
    with log_path.open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            command + ["--rehearse"] * rehearse,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # verl does not fall back to the CPU by itself: it is told.
            env=os.environ | ({"VERL_PLATFORM": "cpu"} if rehearse else {}),
        )
        try:
            end = "failed" if child.wait(limit) else "done"
        except subprocess.TimeoutExpired:
            end = "out of time"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    fields = {"seconds": time.monotonic() - start, "limit_seconds": limit}
    if end == "failed":
        fields["last_words"] = (log_path.read_text(encoding="utf-8", errors="replace").strip() or "none")[-300:]
    Record(folder, name).write(end, **fields)
    write_table(folder)
    print(f"{name}: {end} after {fields['seconds']:.0f} s", flush=True)
    return end


def _describe(folder: Path, *, rehearse: bool) -> None:
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu and not rehearse:
        raise SystemExit("no GPU: torch.cuda.is_available() is False; expected one; --rehearse runs on the CPU")
    Record(folder, "-").write(
        "machine",
        device="cpu (rehearsal)" if rehearse else torch.cuda.get_device_name(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        python=platform.python_version(),
        cores=os.cpu_count(),
    )


if __name__ == "__main__":
    sys.exit(main())
