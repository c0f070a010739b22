# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a test sees of a run: each step's batch behind verl's own `_compute_advantage`, written down and not changed.

Works under every trainer mode, verl's and the plugin's: all of them end in that method of PPOTrainer.
"""

import os
from pathlib import Path

from wrapt import register_post_import_hook


def _register(_module):
    import torch
    import transfer_queue as tq
    from verl.trainer.ppo.v1 import PPOTrainer

    stock = PPOTrainer._compute_advantage
    fields = ["prompts", "responses", "response_mask", "rollout_log_probs", "old_log_probs", "rm_scores"]

    def recording(self, batch, metrics):
        batch = stock(self, batch, metrics)
        names = [*fields, "advantages", "returns", "extra_fields", "multi_modal_inputs"]
        names += ["values"] if self.use_critic else []
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        extra, media = data.pop("extra_fields").tolist(), data.pop("multi_modal_inputs").tolist()
        columns = {name: data[name].unbind() for name in data.keys()}  # noqa: SIM118  # a TensorDict
        rows = [
            {
                **{name: column[i].clone() for name, column in columns.items()},
                "key": key,
                "tag": dict(batch.tags[i]),
                "is_padding": bool(batch.tags[i].get("is_padding", False)),
                "extra_fields": extra[i],
                "num_images": len(media[i].get("image_grid_thw", [])),
            }
            for i, key in enumerate(batch.keys)
        ]
        step = {
            "rows": rows,
            "metrics": dict(metrics),
            "num_actor_ranks": self.actor_rollout_wg.world_size,
            "num_critic_ranks": self.critic_wg.world_size if self.use_critic else 0,
            "num_replicas": len(self.llm_server_manager.get_replicas()),
        }
        torch.save(step, Path(os.environ["VIDEOMTR_PROBE_DIR"]) / f"step_{self.global_steps}.pt")
        return batch

    PPOTrainer._compute_advantage = recording


register_post_import_hook(_register, "verl.trainer.ppo.v1")
