# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end test looks at from inside a real run: a trainer mode that records, and changes nothing.

Loaded through VERL_USE_EXTERNAL_MODULES, beside the plugin, into every process of the run. Writes into the folder
named by VIDEOMTR_PROBE_DIR: one file per step with the rows that are trained, what reached the estimator and what came
out; vLLM's weights after the last synchronisation; and one file per call of the language-model server.
"""

import os
from pathlib import Path
from uuid import uuid4

from wrapt import register_post_import_hook


def _register(_module):
    import ray
    import torch
    import transfer_queue as tq
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer

    from verl_videomtr.verl_plugin import estimators
    from verl_videomtr.verl_plugin.trainers import VideoMTRMixin

    folder = Path(os.environ["VIDEOMTR_PROBE_DIR"])
    seen = {}
    estimate = core_algos.ADV_ESTIMATOR_REGISTRY["bi_level_gae"]

    def recording_estimator(token_level_rewards, response_mask, **kwargs):
        advantages, returns = estimate(token_level_rewards=token_level_rewards, response_mask=response_mask, **kwargs)
        context = estimators._batch.get()
        seen.update(rewards=token_level_rewards.clone(), advantages=advantages, returns=returns)
        seen.update(values=context.values, bonus=context.bonus, mask_at_estimator=response_mask.clone())
        return advantages, returns

    core_algos.ADV_ESTIMATOR_REGISTRY["bi_level_gae"] = recording_estimator

    def record(trainer, batch):
        texts = ["responses", "response_mask", "rollout_log_probs", "old_log_probs", "input_ids", "position_ids"]
        optional = ["ref_log_prob", "rollout_is_weights"]
        fields = ["extra_fields", "multi_modal_inputs", "advantages", "rm_scores", *texts, *optional]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        media = data.pop("multi_modal_inputs").tolist()
        extra = data.pop("extra_fields").tolist()
        rows = []
        for i, (key, tag) in enumerate(zip(batch.keys, batch.tags, strict=True)):
            row = {name: data[name][i] for name in data.keys()}  # noqa: SIM118  # a TensorDict
            rows.append(
                {
                    "key": key,
                    "trajectory": extra[i]["videomtr"],
                    "number": extra[i]["videomtr_row"],
                    "is_padding": bool(tag.get("is_padding", False)),
                    # Rejection clears tokens in what verl calls response_mask; the record keeps what was sampled.
                    "mask": row.pop("response_mask"),
                    "num_images": len(media[i].get("image_grid_thw", [])),
                    "pixel_values": media[i].get("pixel_values"),
                    "num_frame_bytes": sum(
                        getattr(frame, "nbytes", 0) for frame in media[i].get("videomtr_frames", [])
                    ),
                    **row,
                }
            )
        torch.save({"rows": rows, **seen}, folder / f"step_{trainer.global_steps}.pt")

    def save_vllm(trainer):
        path = str(folder / f"vllm_{trainer.global_steps}.pt")
        ray.get(
            [
                server.collective_rpc.remote(method="save_weights", args=(path,))
                for replica in trainer.llm_server_manager.get_replicas()
                for server in replica.servers
            ]
        )

    class Recording:
        def _compute_advantage(self, batch, metrics):
            batch = super()._compute_advantage(batch, metrics)
            record(self, batch)
            return batch

        def on_step_end(self):
            super().on_step_end()
            save_vllm(self)

    @register_trainer("probe_sync")
    class ProbeTrainer(Recording, VideoMTRMixin, PPOTrainerSync):
        base_mode = "sync"


def _record_calls(module):
    import numpy as np
    import torch

    folder = Path(os.environ["VIDEOMTR_PROBE_DIR"]) / "calls"
    generate = module.LLMServerClient.generate

    async def recording_generate(self, request_id, *, prompt_ids, image_data=None, **kwargs):
        output = await generate(self, request_id, prompt_ids=prompt_ids, image_data=image_data, **kwargs)
        call = {
            "prompt_ids": list(prompt_ids),
            "images": [np.asarray(image) for image in image_data or []],
            "token_ids": list(output.token_ids),
        }
        folder.mkdir(exist_ok=True)
        torch.save(call, folder / f"{uuid4().hex}.pt")
        return output

    module.LLMServerClient.generate = recording_generate


register_post_import_hook(_register, "verl.trainer.ppo.v1")
register_post_import_hook(_record_calls, "verl.workers.rollout.llm_server")
