# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What verl's own code behind the head holds at once, against the copies that the planner counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from verl.utils import tensordict_utils, torch_functional
from verl.utils.dataset.dataset_utils import DatasetPadMode
from verl.utils.experimental.torch_functional import FusedLinearForPPO
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl_videomtr.planner import ENTROPY_COPIES, FUSED_COPIES, FUSED_TOKENS, LOGIT_COPIES

ROWS, LENGTH, VOCAB, HIDDEN = 3, 40, 2000, 2


class Peak(TorchDispatchMode):
    """The most bytes of storages that live at one time, of those made inside."""

    def __init__(self):
        super().__init__()
        self.living: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                self.living[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.living = {key: kept for key, kept in self.living.items() if not kept[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.living.values()))
        return out


@pytest.fixture
def as_cuda_casts(monkeypatch):
    """CUDA's autocast computes these in float32."""
    for module, name in (
        (torch.nn.functional, "softmax"),
        (torch.nn.functional, "log_softmax"),
        (torch, "logsumexp"),
    ):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda x, *args, _f=function, **more: _f(x.float(), *args, **more))


def weights(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    shapes = ((ROWS, tokens // ROWS, HIDDEN), (VOCAB, HIDDEN))
    hidden, head = (torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes)
    return hidden, head


def of_the_engine(*, packed: bool, entropy: bool) -> float:
    """Copies of (tokens, vocabulary) in bf16, forward and backward, through the engine's method."""
    ids = torch.nested.nested_tensor([torch.randint(0, VOCAB, (LENGTH,)) for _ in range(ROWS)], layout=torch.jagged)
    batch = TensorDict({"input_ids": ids}, batch_size=[ROWS])
    tensordict_utils.assign_non_tensor(
        batch,
        use_remove_padding=packed,
        pad_mode=DatasetPadMode.NO_PADDING,
        use_fused_kernels=False,
        calculate_entropy=entropy,
    )
    engine = SimpleNamespace(
        engine_config=SimpleNamespace(entropy_checkpointing=False, entropy_from_logits_with_chunking=False),
        compute_entropy_from_logits=torch_functional.entropy_from_logits,
        _gather_and_unpad_packed=lambda values, pad_size: values,
    )
    arguments = {
        "temperature": torch.full((ROWS,), 0.7),
        "temperature_rmpad": torch.full((ROWS * LENGTH,), 0.7),
        "temperature_is_one": False,
        "input_ids_rmpad_rolled": torch.roll(ids.values(), -1),
        "pad_size": 0,
    }
    hidden, head = weights(ROWS * LENGTH)
    with Peak() as peak:
        output = SimpleNamespace(logits=(hidden.reshape(1, -1, HIDDEN) if packed else hidden) @ head.T)
        said = FSDPEngineWithLMHead.prepare_model_outputs(engine, output, arguments, batch, None)
        del output
        sum(values.values().float().sum() for values in said.values()).backward()
    return peak.most / (2 * ROWS * LENGTH * VOCAB)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_logits_and_entropy_take_what_the_planner_counts(as_cuda_casts, packed):
    assert of_the_engine(packed=packed, entropy=True) == pytest.approx(ENTROPY_COPIES, rel=0.05)
    # One less where rows need not be taken out of their padding.
    assert of_the_engine(packed=packed, entropy=False) == pytest.approx(LOGIT_COPIES - packed, rel=0.05)


def test_a_fused_head_takes_as_much_of_a_piece_alone():
    hidden, head = weights(ROWS * 2 * FUSED_TOKENS)
    labels = torch.randint(0, VOCAB, hidden.shape[:2])
    with Peak() as peak:
        log_probs, entropy = FusedLinearForPPO()(hidden, head, labels, 0.7)
        (log_probs.sum() - entropy.float().sum()).backward()
    assert peak.most / (2 * FUSED_TOKENS * VOCAB) == pytest.approx(FUSED_COPIES, rel=0.05)
