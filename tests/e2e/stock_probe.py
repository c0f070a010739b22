"""What a test sees of a run of verl's stock trainer: each step's batch is written down, and nothing changed."""

import os
from pathlib import Path

from wrapt import register_post_import_hook


def _register(_module):
    import torch
    import transfer_queue as tq
    from verl.trainer.ppo.v1 import PPOTrainerSync

    stock = PPOTrainerSync._compute_advantage
    fields = ["prompts", "responses", "response_mask", "rollout_log_probs", "old_log_probs"]

    def recording(self, batch, metrics):
        batch = stock(self, batch, metrics)
        names = [*fields, "advantages", "rm_scores", "extra_fields", "multi_modal_inputs"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        extra, media = data.pop("extra_fields").tolist(), data.pop("multi_modal_inputs").tolist()
        columns = {name: data[name].unbind() for name in data.keys()}  # noqa: SIM118  # a TensorDict
        rows = [
            {
                **{name: column[i].clone() for name, column in columns.items()},
                "key": key,
                "is_padding": bool(batch.tags[i].get("is_padding", False)),
                "record": extra[i].get("retrieve_frames"),
                "reward": extra[i].get("reward_extra_info"),
                "num_images": len(media[i].get("image_grid_thw", [])),
            }
            for i, key in enumerate(batch.keys)
        ]
        torch.save(rows, Path(os.environ["VIDEOMTR_PROBE_DIR"]) / f"step_{self.global_steps}.pt")
        return batch

    PPOTrainerSync._compute_advantage = recording


register_post_import_hook(_register, "verl.trainer.ppo.v1")
