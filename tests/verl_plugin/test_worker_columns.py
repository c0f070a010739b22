# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Which columns of a row a training worker fetches, of TransferQueue's own description of them."""

from __future__ import annotations

import torch
from transfer_queue.metadata import extract_field_schema
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_videomtr.verl_plugin.worker_columns import read_columns


def test_tensors_of_any_shape_and_images_go_and_texts_and_records_stay():
    rows = [
        {
            "input_ids": torch.arange(3 + number),
            "advantages": torch.ones(2),
            "multi_modal_inputs": {} if number else {"videomtr_frames": [torch.zeros(2, 2, 3, dtype=torch.uint8)]},
            "extra_fields": {"videomtr": {"turns": [1, 2]}},
            "raw_prompt": [{"role": "user", "content": "?"}],
            "extra_info": {"sample_id": "s"},
            "uid": "u",
        }
        for number in range(2)
    ]
    schema = extract_field_schema(list_of_dict_to_tensordict(rows))
    assert set(schema) == set(rows[0])
    assert set(read_columns(schema)) == {"input_ids", "advantages", "multi_modal_inputs"}
