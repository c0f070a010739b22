"""What the end-to-end test looks at from inside a real run: a trainer mode that records, and changes nothing.

Loaded through VERL_USE_EXTERNAL_MODULES, beside the plugin, into every process of the run. Writes into the folder
named by VIDEOMTR_PROBE_DIR: one file per step with what reached the estimator and what came out, and vLLM's weights
after the last synchronisation.
"""

import os
from pathlib import Path

from wrapt import register_post_import_hook


def _register(_module):
    import ray
    import torch
    import transfer_queue as tq
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer

    from verl_videomtr.verl_plugin.trainers import VideoMTRMixin

    folder = Path(os.environ["VIDEOMTR_PROBE_DIR"])
    seen = {}
    estimate = core_algos.ADV_ESTIMATOR_REGISTRY["bi_level_gae"]

    def recording_estimator(token_level_rewards, response_mask, **kwargs):
        advantages, returns = estimate(token_level_rewards=token_level_rewards, response_mask=response_mask, **kwargs)
        seen.update(rewards=token_level_rewards.clone(), advantages=advantages, returns=returns)
        return advantages, returns

    core_algos.ADV_ESTIMATOR_REGISTRY["bi_level_gae"] = recording_estimator

    @register_trainer("probe_sync")
    class ProbeTrainer(VideoMTRMixin, PPOTrainerSync):
        base_mode = "sync"

        def _compute_advantage(self, batch, metrics):
            batch = super()._compute_advantage(batch, metrics)
            fields = ["extra_fields", "response_mask", "rollout_log_probs", "old_log_probs", "multi_modal_inputs"]
            data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
            media = data.pop("multi_modal_inputs").tolist()
            extra = data.pop("extra_fields").tolist()
            rows = [
                {
                    "trajectory": extra[i]["videomtr"],
                    "is_padding": bool(batch.tags[i].get("is_padding", False)),
                    "mask": mask,
                    "rollout_log_probs": rollout,
                    "old_log_probs": old,
                    "num_images": len(media[i].get("image_grid_thw", [])),
                }
                for i, (mask, rollout, old) in enumerate(
                    zip(
                        data["response_mask"].unbind(),
                        data["rollout_log_probs"].unbind(),
                        data["old_log_probs"].unbind(),
                        strict=True,
                    )
                )
            ]
            torch.save({"rows": rows, **seen}, folder / f"step_{self.global_steps}.pt")
            return batch

        def on_step_end(self):
            super().on_step_end()
            path = str(folder / f"vllm_{self.global_steps}.pt")
            ray.get(
                [
                    server.collective_rpc.remote(method="save_weights", args=(path,))
                    for replica in self.llm_server_manager.get_replicas()
                    for server in replica.servers
                ]
            )


register_post_import_hook(_register, "verl.trainer.ppo.v1")
