# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Would vLLM take its arguments? Asked of vLLM itself, in a process of its own.

The parent collects them (`arguments`), in the fresh process vLLM's own command line, which verl's server goes through,
judges them (`answer`). No GPU is touched and no model loaded.
"""

from __future__ import annotations

import contextlib
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
    "enable_chunked_prefill": "enable_chunked_prefill",
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
            overrides=[f"{ROLLOUT}.name=vllm"],
        )
    elif case.elsewhere:
        return
    elif name != "vllm" and importlib.util.find_spec(PACKAGES[name]) is None:
        yield error(
            "engine.name",
            f"{ROLLOUT}.name={name}, and the package {PACKAGES[name]} is not installed",
            why="verl's workers import it when they build the actor",
            overrides=[f"{ROLLOUT}.name=vllm"],
        )
    elif name != "vllm":
        yield note("engine.name", f"{name} is one of verl's engines; this package is tested with vllm alone")


def arguments(case: Case) -> dict[str, Any]:
    """What vLLM's server would be started with; empty where vLLM is not the engine, or not here."""
    if str(case.rollout.name) != "vllm" or case.elsewhere or importlib.util.find_spec("vllm") is None:
        return {}
    rollout = case.rollout
    given = {argument: rollout.get(key) for key, argument in HANDED_ON.items()}
    extra = OmegaConf.select(rollout, "engine_kwargs.vllm")
    if isinstance(extra, DictConfig):
        given |= {str(key): value for key, value in OmegaConf.to_container(extra, resolve=True).items()}  # type: ignore[union-attr]
    given |= {"model": find_files(str(case.get("actor_rollout_ref.model.path"))), "worker_extension_cls": None}

    # Without the model's files vLLM would look for them on the hub.
    return {key: value for key, value in given.items() if value is not None} if given["model"] else {}


def answer(arguments: dict[str, Any]) -> str:
    """Let vLLM judge; its complaint, or nothing. Runs in the fresh process."""
    if not arguments:
        return ""
    from verl.workers.rollout.vllm_rollout.utils import build_cli_args_from_config
    from vllm.config import LoadConfig, SchedulerConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.model_executor.model_loader import get_model_loader
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(prog="vllm"))
            engine = AsyncEngineArgs.from_cli_args(parser.parse_args(build_cli_args_from_config(arguments)))
            # What vLLM asks behind its command line, and can without a device.
            get_model_loader(LoadConfig(load_format=engine.load_format))
            names = ("max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill")
            limits = {name: getattr(engine, name) for name in names}
            SchedulerConfig(
                max_model_len=engine.max_model_len or 1,
                is_encoder_decoder=False,
                **{name: value for name, value in limits.items() if value is not None},
            )
    except SystemExit:  # of the command line, which has said why
        return said.getvalue().strip().splitlines()[-1]
    except Exception as refusal:  # pydantic's, or vLLM's own
        return " ".join(str(refusal).partition(" [type=")[0].split())
    return ""


def judge(complaint: str) -> Iterator[Finding]:
    """Turn the fresh process's answer into a finding."""
    if complaint:
        yield error(
            "engine.arguments",
            complaint,
            why="vLLM's server refuses it at its start",
            advice=f"correct the key below {ROLLOUT} (or its engine_kwargs.vllm) that it names",
        )
    else:
        yield ok("engine.arguments", "vLLM accepts its arguments")
