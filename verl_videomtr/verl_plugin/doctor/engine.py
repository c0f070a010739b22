# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Would vLLM take its arguments and the sampling parameters? Asked of vLLM itself, in a process of its own.

The parent makes the questions (`questions`), the fresh process answers them (`answer`): there vLLM's own command line,
which verl's server goes through, and its SamplingParams judge. No GPU is touched and no model loaded.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, error, note, ok
from verl_videomtr.verl_plugin.doctor.model import find_files

ROLLOUT = "actor_rollout_ref.rollout"
PACKAGES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt_llm"}
"""verl's rollout engines, and the package of each."""
HANDED_ON = {
    "dtype": "dtype",
    "load_format": "load_format",
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "logprobs_mode": "logprobs_mode",
    "scheduling_policy": "scheduling_policy",
    "tensor_model_parallel_size": "tensor_parallel_size",
    "quantization": "quantization",
}
"""Keys of the rollout, and the arguments of `vllm serve` that verl makes of them (vLLMHttpServer.launch_server)."""


def check_engine(case: Case) -> Iterator[Finding]:
    """The engine is one that verl knows, and is installed."""
    name = str(case.rollout.name)
    if name not in PACKAGES:
        yield error(
            "engine.name",
            f"{ROLLOUT}.name={name}; expected one of {', '.join(PACKAGES)}",
            why="verl finds no rollout of that name when it builds the actor",
            fix=f"{ROLLOUT}.name=vllm",
        )
    elif case.elsewhere:
        return
    elif name != "vllm" and importlib.util.find_spec(PACKAGES[name]) is None:
        yield error(
            "engine.name",
            f"{ROLLOUT}.name={name}, and the package {PACKAGES[name]} is not installed",
            why="verl's workers import it when they build the actor",
            fix=f"{ROLLOUT}.name=vllm",
        )
    elif name != "vllm":
        yield note("engine.name", f"{name} is one of verl's engines; this package is tested with vllm alone")


def questions(case: Case) -> dict[str, Any]:
    """What the fresh process is to judge; empty where vLLM is not the engine, or not here."""
    if str(case.rollout.name) != "vllm" or case.elsewhere or importlib.util.find_spec("vllm") is None:
        return {}
    rollout = case.rollout
    given = {argument: rollout.get(key) for key, argument in HANDED_ON.items()}
    extra = OmegaConf.select(rollout, "engine_kwargs.vllm")
    if isinstance(extra, DictConfig):
        given |= {str(key): value for key, value in OmegaConf.to_container(extra, resolve=True).items()}  # type: ignore[union-attr]
    given |= {"model": find_files(str(case.get("actor_rollout_ref.model.path"))), "worker_extension_cls": None}

    def sampling(section: DictConfig) -> dict[str, Any]:
        return {name: section.get(name) for name in ("temperature", "top_p", "top_k")}

    return {
        # Without the model's files vLLM would look for them on the hub.
        "arguments": {key: value for key, value in given.items() if value is not None} if given["model"] else {},
        "sampling": {ROLLOUT: sampling(rollout), f"{ROLLOUT}.val_kwargs": sampling(rollout.val_kwargs)},
    }


def answer(asked: dict[str, Any]) -> list[list[str]]:
    """Let vLLM judge; one [subject, complaint] each. Runs in the fresh process."""
    if not asked:
        return []
    from verl.workers.rollout.vllm_rollout.utils import build_cli_args_from_config
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    def start_server() -> None:
        parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(prog="vllm"))
        AsyncEngineArgs.from_cli_args(parser.parse_args(build_cli_args_from_config(asked["arguments"])))

    calls = {"arguments": start_server} if asked["arguments"] else {}
    calls |= {name: functools.partial(SamplingParams, **given) for name, given in asked["sampling"].items()}
    complaints = []
    for subject, call in calls.items():
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                call()
        except SystemExit:  # of the command line, which has said why
            complaints.append([subject, said.getvalue().strip().splitlines()[-1]])
        except Exception as refusal:  # pydantic's, or vLLM's own
            complaints.append([subject, " ".join(str(refusal).split())])
    return complaints


def judge(complaints: list[list[str]]) -> Iterator[Finding]:
    """Turn the fresh process's answers into findings."""
    for subject, complaint in complaints:
        of_arguments = subject == "arguments"
        yield error(
            "engine.arguments" if of_arguments else "engine.sampling",
            complaint if of_arguments else f"{subject}: {complaint}",
            why="vLLM's server refuses it at its start" if of_arguments else "vLLM refuses every request",
            fix=f"correct the key below {ROLLOUT} (or its engine_kwargs.vllm) that it names",
        )
    if not complaints:
        yield ok("engine.arguments", "vLLM accepts its arguments and the sampling parameters")
