"""vLLM's worker extension of the end-to-end test: the plugin's, and a way to see the weights that vLLM holds."""

import torch

from verl_videomtr.verl_plugin.vllm_cpu import CPUWorkerExtension


class ProbeWorkerExtension(CPUWorkerExtension):
    def save_weights(self, path):
        torch.save({name: value.detach().clone() for name, value in self.model_runner.model.named_parameters()}, path)
