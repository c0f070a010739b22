# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The faults of verl and TransferQueue that the plugin fixes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from recipes.learning_study import tiny_model


def make_position_ids(length, offset=0):
    """(4, length) as verl makes them: the text row counts, three rope rows follow."""
    return torch.cat([torch.arange(length)[None], torch.arange(3 * length).view(3, length) + offset])


def test_rows_of_one_length_keep_their_last_dimension_ragged():
    import verl  # noqa: F401
    from transfer_queue.storage.managers.simple_storage_manager import AsyncSimpleStorageManager
    from verl.utils.tensordict_utils import get_tensordict, index_select_tensor_dict

    from verl_videomtr.verl_plugin import tensor_defects

    rows = [make_position_ids(3, offset=i) for i in range(5)]
    stock = tensor_defects._pack_stock(rows)
    assert stock.values().shape == (20, 3)  # as if each of the 4 rope rows were a token
    packed = AsyncSimpleStorageManager._pack_field_values(rows)
    assert packed.values().shape == (4, 15)
    assert all(torch.equal(a, b) for a, b in zip(packed.unbind(), rows, strict=True))
    chosen = index_select_tensor_dict(get_tensordict({"position_ids": packed}), [3, 1])["position_ids"]
    assert all(torch.equal(a, rows[i]) for a, i in zip(chosen.unbind(), [3, 1], strict=True))


def test_other_fields_are_packed_as_ever():
    import verl  # noqa: F401
    from transfer_queue.storage.managers.simple_storage_manager import AsyncSimpleStorageManager

    rows = [torch.ones(5, 3, dtype=torch.int64), torch.zeros(5, 3, dtype=torch.int64)]
    assert AsyncSimpleStorageManager._pack_field_values(rows)._ragged_idx == 1


@pytest.mark.parametrize("lengths", [[3, 3], [3, 5], [4]])
def test_packed_rows_survive_the_way_between_processes(lengths):
    import verl  # noqa: F401
    from transfer_queue.storage.managers.simple_storage_manager import AsyncSimpleStorageManager
    from transfer_queue.utils.serial_utils import MsgpackDecoder, MsgpackEncoder

    rows = [make_position_ids(length) for length in lengths]
    packed = AsyncSimpleStorageManager._pack_field_values(rows)
    arrived = MsgpackDecoder().decode(MsgpackEncoder().encode(packed))
    assert arrived.values().shape == (4, sum(lengths))
    assert all(torch.equal(a, b) for a, b in zip(arrived.unbind(), rows, strict=True))


def test_micro_batch_without_images_passes_the_vision_tower(tmp_path):
    import verl.models.transformers.qwen2_vl as patched

    import verl_videomtr.verl_plugin.verl_defects  # noqa: F401

    tiny_model.main(["--out", str(tmp_path / "tiny"), "--seed", "0"])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "tiny", dtype=torch.float32).model
    ids = torch.tensor([[5, 6, 7]])
    embeds, mask = patched._get_input_embeds(model, ids, torch.ones_like(ids))
    torch.testing.assert_close(embeds, model.get_input_embeddings()(ids))
    assert mask.shape == ids.shape
    embeds.sum().backward()
    # Every rank must hold a gradient for the tower, or FSDP waits for it forever.
    assert all(parameter.grad is not None for parameter in model.visual.parameters())
