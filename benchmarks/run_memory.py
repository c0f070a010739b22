# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Host memory of a whole run, and hits of vLLM's caches over the turns of its episodes: python -m benchmarks.run_memory

verl's own trainer on the CPU with a tiny model and frames of the real size, once with rows of float32 patches and once
with rows of frames as bytes. All processes of a run are looked at every second, Ray's own too: the memory that is
theirs alone (USS). vLLM's counters are read from its servers as Prometheus would.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections import defaultdict
from pathlib import Path

import psutil

WAYS = {"patches": "videomtr.device_patches=false", "bytes": "videomtr.device_patches=true"}
COUNTERS = ("prefix_cache_queries", "prefix_cache_hits", "mm_cache_queries", "mm_cache_hits")
SECONDS_BETWEEN_LOOKS = 1.0
SIZE = (224, 392)
LENGTHS = (
    "videomtr.episode.frame_budget=32",
    "data.max_prompt_length=2560",
    "data.max_response_length=2560",
    "actor_rollout_ref.rollout.max_model_len=5120",
    "actor_rollout_ref.rollout.max_num_batched_tokens=8192",
)
"""Of 32 frames of 112 visual tokens."""


class Watch:
    """Looks at a run's processes until it is told to stop."""

    def __init__(self, run: Path) -> None:
        self.peak_bytes = 0
        self.peak_of: dict[str, int] = {}
        """Kind of process -> its bytes when all together were at their peak."""
        self.counters: dict[str, float] = {}
        self._folder = run
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_LOOKS):
            self._look()

    def _look(self) -> None:
        from trainer_runs import processes_of

        found: dict[str, int] = defaultdict(int)
        for process in processes_of(self._folder):
            try:
                name = process.name()
                found[name.split()[0] if name else "?"] += process.memory_full_info().uss
                if "vLLMHttp" in name or "EngineCore" in name:
                    self._read_counters(process)
            except psutil.Error:
                continue
        total = sum(found.values())
        if total > self.peak_bytes:
            self.peak_bytes, self.peak_of = total, dict(found)

    def _read_counters(self, process: psutil.Process) -> None:
        for connection in process.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN:
                continue
            address = f"http://{connection.laddr.ip}:{connection.laddr.port}/metrics"
            try:
                with urllib.request.urlopen(address, timeout=0.5) as answer:
                    text = answer.read().decode()
            except (OSError, ValueError, http.client.HTTPException):  # ports of other services
                continue
            for name in COUNTERS:
                values = re.findall(rf"^vllm:{name}_total{{[^}}]*}} ([0-9.e+]+)$", text, re.MULTILINE)
                if values:
                    self.counters[name] = sum(map(float, values))


def make_checkpoint(target: Path) -> Path:
    """Copy the tests' base model, with the bounds of Qwen2.5-VL on a frame's size, and room for such rows."""
    from trainer_runs import build_model

    shutil.copytree(build_model(), target)
    bounds = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16384 * 28 * 28}
    for name, part, change in (
        ("processor_config.json", "image_processor", {"size": bounds}),
        ("config.json", "text_config", {"max_position_embeddings": 8192}),
    ):
        settings = json.loads((target / name).read_text())
        settings[part].update(change)
        (target / name).write_text(json.dumps(settings))
    return target


def run(folder: Path, way: str, *, data: Path, model: Path, steps: int, episodes: int) -> Watch:
    """Train; return what was seen."""
    from trainer_runs import command_of, environment_of

    folder.mkdir()
    num_tokens = SIZE[0] * SIZE[1] // 28**2
    command = command_of(
        folder, *LENGTHS, WAYS[way], f"trainer.total_training_steps={steps}", f"data.train_batch_size={episodes}",
        f"videomtr.video.pool.size=[{SIZE[0]},{SIZE[1]}]", f"videomtr.video.pool.max_tokens={num_tokens}",
        "actor_rollout_ref.rollout.disable_log_stats=false", data=data, model=model, probe=None,
    )  # fmt: skip
    watch = Watch(folder)
    try:
        with (folder / "log").open("wb") as log:
            subprocess.run(command, env=environment_of(folder, None), stdout=log, stderr=subprocess.STDOUT, check=True)
    except subprocess.CalledProcessError as error:
        tail = "\n".join((folder / "log").read_text(errors="replace").splitlines()[-40:])
        raise SystemExit(f"the trainer exited with {error.returncode}:\n{tail}") from None
    finally:
        watch.stop()
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=1, help="training steps of each run (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=8, help="prompts of a step (default: %(default)s)")
    parser.add_argument("--ways", default=",".join(WAYS), help="what rows carry, one run for each (default: both)")
    arguments = parser.parse_args()
    print("| rows of | peak GiB of all processes | of which | " + " | ".join(COUNTERS) + " |")
    print("|---" * (3 + len(COUNTERS)) + "|")
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from trainer_runs import make_data

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        data = make_data(Path(name), num_train=arguments.episodes)
        model = make_checkpoint(Path(name) / "model")
        for way in arguments.ways.split(","):
            seen = run(
                Path(name) / way, way, data=data, model=model, steps=arguments.steps, episodes=arguments.episodes
            )
            parts = ", ".join(
                f"{kind} {size / 2**30:.2f}"
                for kind, size in sorted(seen.peak_of.items(), key=lambda part: -part[1])[:9]
            )
            cells = [
                way,
                f"{seen.peak_bytes / 2**30:.2f}",
                parts,
                *(f"{seen.counters.get(c, 0):.0f}" for c in COUNTERS),
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
