# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of frames and rows of patches through verl's own FSDP engine, in one process or in ranks that share a sequence.

python tests/support/engine_batches.py FOLDER KIND RANKS RANK OUT

FOLDER is a checkpoint of a tiny Qwen2.5-VL. KIND is language_model, value_model, or fused: a language model whose head
is computed in pieces, which under FSDP 2 must share its weights with the embedding. With RANKS processes the engine
cuts packed sequences among them (Ulysses). Packed sequences need flash-attn's kernel, which no CPU has: attention over
the sequences that verl tells apart is computed with torch in its place, and everything around it is verl's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import verl_videomtr.verl_plugin.register  # noqa: F401  isort: skip  before verl: it hooks verl's imports
import verl.workers.engine_workers  # noqa: F401  as the trainer's worker does
from tensordict import TensorDict
from torch.nn.functional import scaled_dot_product_attention
from verl.models.transformers import qwen2_vl
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry

from tests.verl_plugin.test_device_patches import Rows

WIDTHS = ((1, 2), (1,), (2, 1, 1), (), (1, 1), (2,))
"""Frames of each row, as multiples of a frame's width; one row is padding and shows none."""


def varlen(q, k, v, cu_seqlens_q, causal, **_):
    parts = [part.split(cu_seqlens_q.diff().tolist()) for part in (q, k, v)]
    return torch.cat([_attend(*sequence, causal) for sequence in zip(*parts, strict=True)])


def _attend(q, k, v, causal):
    return scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q, k, v)), is_causal=causal).transpose(0, 1)


def one_sequence(q, k, v, mask, length, *, is_causal, **_):
    return _attend(q[0], k[0], v[0], is_causal)[None]


def all_to_all(outputs, inputs, group=None, async_op=False):
    """Exchange parts through a gather: gloo has no exchange of its own."""
    sent = torch.stack(inputs)
    gathered = [torch.empty_like(sent) for _ in outputs]
    torch.distributed.all_gather(gathered, sent, group=group)
    for output, parts in zip(outputs, gathered, strict=True):
        output.copy_(parts[torch.distributed.get_rank(group)])


def build(folder: str, kind: str, num_ranks: int):
    packed = {"use_remove_padding": True, "use_fused_kernels": kind == "fused"}
    model_type = "language_model" if kind == "fused" else kind
    model = HFModelConfig(
        path=folder,
        load_tokenizer=False,
        model_type=model_type,
        override_config={"attn_implementation": "sdpa"},
        fused_kernel_options={"impl_backend": "torch"},
        **packed,
    )
    engine = EngineRegistry.new(
        model_type=model_type,
        backend="fsdp2",
        model_config=model,
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            use_torch_compile=False,
            ulysses_sequence_parallel_size=num_ranks,
            mixed_precision={"param_dtype": "fp32"},
            **packed,
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-6, total_training_steps=10),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


def batch(rows: Rows, way: str, *, fused: bool) -> TensorDict:
    """Rows as a training worker gets them: of unequal lengths, several micro-batches by their number of tokens."""
    made = []
    for number, widths in enumerate(WIDTHS):
        images = rows.images(*widths, seed=number)
        ids = rows.ids(images)
        positions = torch.arange(len(ids)).expand(4, -1)
        made.append(
            {
                "input_ids": ids,
                "position_ids": positions.contiguous(),
                "loss_mask": torch.ones(len(ids)),
                "multi_modal_inputs": getattr(rows, way)(images) if images else {},
            }
        )
    data = tensordict_utils.list_of_dict_to_tensordict(made)
    longest = max(len(row["input_ids"]) for row in made)
    tensordict_utils.assign_non_tensor(
        data,
        use_remove_padding=True,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=2 * longest,
        temperature=0.7,
        calculate_entropy=True,
        use_fused_kernels=fused,
        global_batch_size=len(made),
    )
    return data


def loss(model_output, data, dp_group=None):
    values = model_output.get("values", model_output.get("log_probs"))
    entropy = model_output["entropy"].values().sum() if "entropy" in model_output else 0.0
    return (values.values() - 1.0).square().sum() - entropy, {}


def results(engine, data: TensorDict) -> dict[str, torch.Tensor]:
    """What the engine says of the rows, and their gradient."""
    with engine.eval_mode():
        said = engine.infer_batch(data.copy())["model_output"]
    found = {name: said[name].values() for name in ("log_probs", "entropy", "values") if name in said}
    with engine.train_mode():
        engine.optimizer_zero_grad()
        engine.forward_backward_batch(data.copy(), loss)
        for name, weight in engine.module.named_parameters():
            if weight.grad is not None:
                found[name] = weight.grad.full_tensor().clone()
    return found


def main(folder: str, kind: str, num_ranks: str, rank: str, out: str) -> None:
    torch.set_num_threads(1)
    store = Path(out).with_name("store")
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=int(rank), world_size=int(num_ranks))
    torch.distributed.all_to_all = all_to_all
    qwen2_vl.flash_attn_varlen_func, qwen2_vl._flash_attention_forward = varlen, one_sequence
    qwen2_vl.fa_peft_integration_check = lambda *states, **_: states  # it casts to what flash-attn takes
    qwen2_vl._flash_use_top_left_mask = qwen2_vl._flash_supports_deterministic = False
    qwen2_vl._flash_supports_window_size = False
    rows = Rows("qwen2_5_vl")
    # As in a process in which verl changes no model.
    batches = {way: batch(rows, way, fused=kind == "fused") for way in ("old", "new")}
    engine = build(folder, kind, int(num_ranks))
    torch.save({way: results(engine, data) for way, data in batches.items()}, f"{out}.{rank}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
