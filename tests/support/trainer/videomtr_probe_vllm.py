# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's worker extension of the end-to-end test: the plugin's, and a way to see what vLLM holds.

Its weights on request; and one file per prompt with the position ids that it computes for the prompt's tokens.
"""

import os
from pathlib import Path
from uuid import uuid4

import torch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from verl_videomtr.verl_plugin.vllm_cpu import CPUWorkerExtension


class ProbeWorkerExtension(CPUWorkerExtension):
    def save_weights(self, path):
        torch.save({name: value.detach().clone() for name, value in self.model_runner.model.named_parameters()}, path)


_init_positions = GPUModelRunner._init_mrope_positions


def _recording_init_positions(self, req_state):
    _init_positions(self, req_state)
    folder = Path(os.environ["VIDEOMTR_PROBE_DIR"]) / "positions"
    folder.mkdir(exist_ok=True)
    record = {"prompt_ids": list(req_state.prompt_token_ids), "positions": req_state.mrope_positions.clone()}
    torch.save(record, folder / f"{uuid4().hex}.pt")


GPUModelRunner._init_mrope_positions = _recording_init_positions
