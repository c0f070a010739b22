# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Does this machine have what the configuration asks for? GPUs and their memory, flash-attn, shared memory."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from verl_videomtr.planner import GIB, make_plan
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, error, note, ok, warning
from verl_videomtr.verl_plugin.doctor.places import existing

SHARED_MEMORY = Path("/dev/shm")
SOCKET = "ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""How Ray names a socket below its temporary folder."""
SOCKET_BYTES = 107
"""Most bytes of a socket's path on Linux."""
FULL_SHARE = 0.95
"""A disk fuller than this is one that Ray writes no objects to (RAY_local_fs_capacity_threshold)."""
BUCKET = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
STORE_MIB = 1024
"""Shared memory below which Ray's object store moves to the disk."""
RESOURCES = ("ray_kwargs.ray_init.num_cpus", "ray_kwargs.ray_init.num_gpus")
STATES = ("weights", "gradients", "optimizer", "the other model, idle")
"""Parts of an update, by the planner's names, that no episode makes smaller."""


def check_machine(case: Case) -> Iterator[Finding]:
    """Look at this machine, unless the run starts on another one."""
    if case.elsewhere:
        yield note("machine", "GPUs, flash-attn and shared memory are those of another machine: not looked at")
        return
    yield from _attention(case)
    yield from _cluster(case)
    yield from _cpus(case)
    yield from _gpus(case)
    yield from _shared_memory(case)
    yield from _temporary_files(case)


def _attention(case: Case) -> Iterator[Finding]:
    """flash-attn is asked for by verl's defaults, and no requirement of verl's brings it."""
    sections = ["actor_rollout_ref.model"] + (["critic.model"] if case.has_critic else [])
    wants, fixes = [], []
    for section in sections:
        attention = case.get(f"{section}.override_config.attn_implementation", "flash_attention_2")
        if str(attention).startswith("flash_attention"):
            wants.append(f"{section}.override_config.attn_implementation={attention}")
            fixes.append(case.override(f"{section}.override_config.attn_implementation", "sdpa"))
        packed_by_flash = case.model is None or case.model.hf_config.model_type in _families_packed_by_flash()
        if case.get(f"{section}.use_remove_padding") and packed_by_flash:
            wants.append(f"{section}.use_remove_padding=true")
            fixes.append(f"{section}.use_remove_padding=false")
    if not wants:
        yield ok("machine.attention", "no flash-attn needed")
        return
    device = "cpu" if case.is_cpu else "gpu"
    if importlib.util.find_spec("flash_attn") is None:
        yield error(
            "machine.attention",
            f"flash-attn is not installed; it is asked for by {', '.join(wants)} (verl's defaults)",
            why="transformers refuses to build the model, or its first packed batch fails",
            overrides=fixes,
            advice=f"as +videomtr/device={device} does, or install flash-attn",
        )
    elif case.is_cpu:
        yield error(
            "machine.attention",
            f"{', '.join(wants)} with trainer.device=cpu",
            why="flash-attn has no CPU form",
            overrides=["+videomtr/device=cpu"],
        )
    else:
        yield ok("machine.attention", "flash-attn is installed")


@cache
def _families_packed_by_flash() -> frozenset[str]:
    """Ask verl's source for the families whose attention it replaces by flash-attn's wherever padding is removed.

    In `apply_monkey_patch`, a branch on `model.config.model_type` in which `if use_remove_padding ...:` replaces the
    forward of a class. A class that is flash-attn's own is in use only where flash-attn is.
    """
    package = importlib.util.find_spec("verl")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("verl is not installed")
    source = Path(package.origin).parent / "models/transformers/monkey_patch.py"
    families: set[str] = set()
    for branch in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(branch, ast.If) and "model.config.model_type" in ast.unparse(branch.test):
            inner = [line for line in branch.body if isinstance(line, ast.If)]
            packing = [line for item in inner if "use_remove_padding" in ast.unparse(item.test) for line in item.body]
            if any(re.match(r"\w+\.forward = ", ast.unparse(line)) for line in packing):
                families.update(re.findall(r"'(\w+)'", ast.unparse(branch.test)))
    return frozenset(families)


def _cluster(case: Case) -> Iterator[Finding]:
    """A cluster that is up already knows its resources, and Ray takes no word on them from who joins it."""
    address = cluster_address(case)
    given = [key for key in RESOURCES if case.get(key) is not None]
    if address and given:
        yield error(
            "machine.cluster",
            f"the run joins the Ray cluster at {address} with {', '.join(f'{key}={case.get(key)}' for key in given)}",
            why="ray.init refuses them where it joins a cluster, as the run's first act",
            overrides=[f"{key}=null" for key in given],
        )


def cluster_address(case: Case) -> str:
    """Find the Ray cluster that is up and that the run joins, as `ray.init` does; "" where the run starts its own."""
    from ray._private.utils import read_ray_address

    address = case.get("ray_kwargs.ray_init.address")
    if address in (None, "", "auto"):
        # Last, the cluster that `ray start` left word of on this machine.
        address = os.environ.get("RAY_ADDRESS") or read_ray_address(case.get("ray_kwargs.ray_init._temp_dir"))
    return "" if address in (None, "", "local") else str(address)


def reserved_cpus(case: Case) -> int:
    """CPUs that Ray must have before verl's workers are placed: those that stay reserved, and one for who comes last.

    verl reserves some for each GPU (ResourcePoolManager.max_colocate_count), TransferQueue one a storage unit and one
    for its controller.
    """
    from verl.single_controller.ray.base import ResourcePoolManager

    gpus = case.num_gpus
    if str(case.get("trainer.v1.trainer_mode")).endswith("separate_async"):
        gpus += int(case.rollout.nnodes) * int(case.rollout.n_gpus_per_node)
    units = int(case.get("transfer_queue.backend.SimpleStorage.num_data_storage_units", 0))
    return int(ResourcePoolManager.max_colocate_count) * gpus + units + 2


def _cpus(case: Case) -> Iterator[Finding]:
    if cluster_address(case) or int(case.config.trainer.nnodes) > 1:
        return
    given = case.get("ray_kwargs.ray_init.num_cpus")
    have, need = int(given) if given is not None else os.cpu_count() or 1, reserved_cpus(case)
    if have < need:
        yield error(
            "machine.cpus",
            f"Ray will count {have} CPUs" + (" (ray_kwargs.ray_init.num_cpus)" if given is not None else " here")
            + f", verl and TransferQueue reserve {need - 1}",
            why="the run waits for ever for the rest, without a word",
            overrides=[f"ray_kwargs.ray_init.num_cpus={need + 6}"],
            advice="which are reserved, not used",
        )  # fmt: skip


def _gpus(case: Case) -> Iterator[Finding]:
    if case.is_cpu:
        return
    import torch

    asked = int(case.config.trainer.n_gpus_per_node)
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if here < asked:
        if cluster_address(case) or int(case.config.trainer.nnodes) > 1:
            yield note("machine.gpus", f"{here} GPUs here; the cluster's are not looked at")
            return
        yield error(
            "machine.gpus",
            f"trainer.n_gpus_per_node={asked}, {here} GPUs are here",
            why="verl finds too few in the Ray cluster that it starts here ('Total available GPUs ...')",
            overrides=[f"trainer.n_gpus_per_node={here}"] if here else [],
            advice="" if here else "run it where the GPUs are, or +videomtr/device=cpu",
        )
        return
    yield ok("machine.gpus", f"{here} x {torch.cuda.get_device_name(0)}")
    yield from _memory(case, torch.cuda.get_device_properties(0).total_memory / 2**30)


def _memory(case: Case, gib: float) -> Iterator[Finding]:
    """What an update holds for certain; `videomtr plan` works out the rest, which depends on the episodes."""
    if case.planned is None:
        return
    plan = make_plan(case.planned)
    updates = (plan.actor_update, plan.critic_update)
    states = max(sum(parts.get(name, 0.0) for name in STATES) for parts in updates) / GIB
    if states > gib:
        yield warning(
            "machine.memory",
            f"weights, gradients and optimizer states take about {states:.0f} GiB of each GPU's {gib:.0f}",
            why="the first update runs out of memory (without activations; `videomtr plan` counts them)",
            overrides=[
                f"{section}.{what}_offload=true"
                for section in ("actor_rollout_ref.actor.fsdp_config", "critic.fsdp")
                for what in ("param", "optimizer")
            ],
            advice="or more GPUs",
        )
        return
    logits = plan.actor_update.get("logits", 0.0) / GIB
    if states + logits > gib:
        fused = "actor_rollout_ref.model.use_fused_kernels"
        fewer = "fewer tokens: actor_rollout_ref.actor.ppo_max_token_len_per_gpu, at least the longest row's"
        yield warning(
            "machine.memory",
            f"the actor's states and the logits of a micro-batch take about {states:.0f} + {logits:.0f} GiB of each "
            f"GPU's {gib:.0f}",
            why="the first update runs out of memory (without activations; `videomtr plan` counts them)",
            overrides=[] if case.get(fused) else [f"{fused}=true"],
            advice=f"{fewer}; or more GPUs" if case.get(fused) else f"or {fewer}",
        )


def _bucket(case: Case) -> Iterator[Finding]:
    """Without CUDA IPC verl sends no weight that is larger than its bucket."""
    if not case.is_cpu or case.model is None:
        return
    config = getattr(case.model.hf_config, "text_config", None) or case.model.hf_config
    largest = config.vocab_size * config.hidden_size * 4 / 2**20
    bucket = int(case.get(BUCKET, 0))
    if largest > bucket:
        yield error(
            "machine.bucket",
            f"the model's embedding takes {largest:.0f} MiB, the weights' bucket is of {bucket}",
            why="verl asserts that every weight fits when it first hands them to vLLM",
            overrides=[f"{BUCKET}={int(largest) + 1}"],
        )


def _shared_memory(case: Case) -> Iterator[Finding]:
    yield from _bucket(case)
    if not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free / 2**20
    # Without CUDA IPC verl hands the weights to vLLM through a bucket in shared memory.
    bucket = int(case.get(BUCKET, 0))
    if case.is_cpu and bucket > free:
        yield warning(
            "machine.shm",
            f"{free:.0f} MiB free in {SHARED_MEMORY}, the weights' bucket takes {bucket}",
            why="verl's workers die with a bus error when they hand the weights to vLLM",
            overrides=[f"{BUCKET}=16"],
            advice="or a container with --shm-size=4g",
        )
    elif free < STORE_MIB:
        yield warning(
            "machine.shm",
            f"{free:.0f} MiB free in {SHARED_MEMORY}",
            why="Ray's object store moves to the disk, and everything between workers becomes slow",
            advice="start the container with --shm-size=4g or more",
        )
    else:
        yield ok("machine.shm", f"{free / 1024:.1f} GiB free in {SHARED_MEMORY}")


def _temporary_files(case: Case) -> Iterator[Finding]:
    """Ray keeps sockets, logs and spilled objects below one folder."""
    if cluster_address(case):
        return
    folder = str(case.get("ray_kwargs.ray_init._temp_dir") or "")
    path = f"{folder}/{SOCKET.removeprefix('ray/')}" if folder else f"{os.environ.get('RAY_TMPDIR', '/tmp')}/{SOCKET}"
    if len(path.encode()) > SOCKET_BYTES:
        yield error(
            "machine.tmp",
            f"Ray's sockets would have names like {path}, of {len(path.encode())} bytes",
            why=f"Ray refuses more than {SOCKET_BYTES} at its start",
            advice="export RAY_TMPDIR=/tmp, or another short folder",
        )
        return
    place = existing(Path(folder or os.environ.get("RAY_TMPDIR", "/tmp")))
    usage = shutil.disk_usage(place)
    if usage.used / usage.total > FULL_SHARE:
        yield warning(
            "machine.tmp",
            f"the disk of {place} is {usage.used / usage.total:.0%} full, {usage.free / 2**30:.0f} GiB are free",
            why="Ray spills no objects to a disk that is over 95% full, and stops where it would have to",
            advice="export RAY_TMPDIR=<a folder on another disk>",
        )
