# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's CPU build as a rollout engine whose weights are replaced after every step.

Named in `actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls` by the `cpu` group.
"""

from typing import Any

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """verl's worker extension, with vLLM's packing of weights off.

    The CPU build packs every linear weight for oneDNN when it loads and drops the original, and experts' weights in
    place, so that later weights could not be loaded or would be read as packed ones; without packing it computes with
    the plain weight.
    """

    def __new__(cls, **kwargs: Any) -> "CPUWorkerExtension":
        import vllm._custom_ops as ops
        from vllm.model_executor.layers.activation import SiluAndMul
        from vllm.model_executor.layers.fused_moe.activation import MoEActivation
        from vllm.model_executor.layers.fused_moe.cpu_fused_moe import _CPU_MOE_ACT_FN, CPUFusedMOE

        ops._supports_onednn = False
        # vLLM 0.24 makes the layer anew in every pass, where its configuration is not set: an assertion.
        _CPU_MOE_ACT_FN[MoEActivation.SILU] = SiluAndMul.forward_native
        CPUFusedMOE.check_grouped_gemm = lambda _moe, _layer: (False, "none")  # type: ignore[method-assign,assignment]
        return super().__new__(cls, **kwargs)
