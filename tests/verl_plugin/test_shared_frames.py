# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Frames that several rows of a trajectory show are stored once, and every row trains with all of its own."""

from __future__ import annotations

import pytest
import torch
import transfer_queue as tq
from plugin_setting import LOOK
from rollout_setting import ANSWER, MadeFrames
from tensordict import NonTensorData
from transfer_queue import KVBatchMeta
from transfer_queue.utils.serial_utils import encode
from verl.utils import transferqueue_utils

from tests.core.test_planner import make_run as planned_run
from verl_videomtr.budget import RowSize
from verl_videomtr.planner import TRAINER_FIELDS_BYTES, make_plan
from verl_videomtr.verl_plugin import device_patches
from verl_videomtr.verl_plugin.agent_loop import VideoMTRAgentLoop
from verl_videomtr.verl_plugin.device_patches import extract_multi_modal_inputs
from verl_videomtr.verl_plugin.shared_frames import FRAMES, MissingRowError, missing_rows, put_back, store_once

pytest_plugins = ["plugin_setting", "queue_setting"]

SLIDES = ["videomtr.episode.max_turns=5", "videomtr.episode.window=1", "videomtr.episode.initial_frames=6"]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(device_patches, "get_device_id", lambda: "cpu")


def test_a_frame_is_stored_with_the_last_row_that_shows_it():
    a, b, c, d = (torch.full((1, 1, 3), value, dtype=torch.uint8) for value in range(4))
    stored = store_once([[a, b, c], None, [b, c, b], [c, d]], keys=["u_0_0", "u_0_1", "u_0_2", "u_0_3"])
    assert stored[0][0] is a
    assert stored[0][1:] == [("u_0_2", 2), ("u_0_3", 0)]
    assert stored[1] is None
    assert stored[2][0] is b
    assert stored[2][2] is b
    assert stored[2][1] == ("u_0_3", 0)
    assert stored[3][0] is c
    assert stored[3][1] is d


def test_frames_come_back_from_rows_of_the_batch_and_of_others():
    a, b, c = (torch.full((1, 1, 3), value, dtype=torch.uint8) for value in range(3))
    rows = {"x": {FRAMES: [a, ["y", 1], ["z", 0]]}, "y": {FRAMES: [["z", 0], b]}, "pad": {}, "text": None}
    assert missing_rows(rows) == ["z"]
    put_back(rows, {"z": {FRAMES: [c]}})
    assert all(got is want for got, want in zip(rows["x"][FRAMES] + rows["y"][FRAMES], [a, b, c, c, b], strict=True))
    assert rows["pad"] == {}
    assert rows["text"] is None


@pytest.mark.parametrize("others", [{}, {"z": {}}])
def test_frames_whose_row_is_gone_are_an_error_that_says_whose(others):
    rows = {"x": {FRAMES: [["z", 0]]}}
    with pytest.raises(MissingRowError, match=r"row 'x' shows frames that were stored with \['z'\].*stay until"):
        put_back(rows, others)


def play_sliding(run):
    """Play one episode of five turns that slides; return its batch."""
    run.worker.llm_client.responses = [LOOK] * 4 + [ANSWER]
    run.hand_out(["/videos/good.mp4"])
    batch, _ = run.trainer.replay_buffer.sample(global_steps=1, partition_id="train", batch_size=1)
    return batch


def inputs_of(data):
    return [row.data if isinstance(row, NonTensorData) else row for row in data.get("multi_modal_inputs")]


def stored_pixels(batch):
    """Bytes of pixels that the queue holds, and that its rows show."""
    stored = inputs_of(tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["multi_modal_inputs"]))
    parts = [part for row in stored for part in row[FRAMES]]
    frame_bytes = next(part.nbytes for part in parts if isinstance(part, torch.Tensor))
    sent = sum(memoryview(part).nbytes for part in encode({"rows": stored}))
    return sum(part.nbytes for part in parts if isinstance(part, torch.Tensor)), len(parts) * frame_bytes, sent


def test_a_slid_episode_trains_as_with_patches_whichever_rows_a_worker_gets(make_run):
    old = play_sliding(make_run("video_mtr_sync", "videomtr.device_patches=false", *SLIDES))
    new = play_sliding(make_run("video_mtr_sync", *SLIDES))
    assert len(old.keys) == len(new.keys) == 4
    shown_once, shown, sent = stored_pixels(new)
    # 6 frames at first and 2 in each of four looks: the rows show 8 of them, and 4 each.
    assert shown_once * 20 == shown * 14
    assert sent < shown_once + 4 * 2500  # beside the pixels: grids, ids, the processor's settings
    for places in ([0, 1, 2, 3], [0], [1], [3], [2, 0], [3, 1]):
        got = []
        for batch in (old, new):
            keys = [batch.keys[place] for place in places]
            part = KVBatchMeta(keys=keys, tags=[{}] * len(keys), partition_id="train")
            data = transferqueue_utils._meta_to_realdata(part)
            got.append((data["input_ids"], extract_multi_modal_inputs(data.get("multi_modal_inputs"))))
        (ids, expected), (new_ids, made) = got
        assert all(map(torch.equal, ids.unbind(), new_ids.unbind()))
        assert set(made) == set(expected)
        for name in expected:
            assert torch.equal(made[name], expected[name]), name
        assert len(expected["image_grid_thw"]) >= 2


def test_a_row_of_a_trajectory_that_was_cleared_in_part_is_an_error(make_run):
    batch = play_sliding(make_run("video_mtr_sync", *SLIDES))
    tq.kv_clear(keys=batch.keys[1:], partition_id="train")
    part = KVBatchMeta(keys=batch.keys[:1], tags=[{}], partition_id="train")
    with pytest.raises(MissingRowError, match=r"_0_1.*device_patches=false"):
        transferqueue_utils._meta_to_realdata(part)


@pytest.mark.parametrize("switch", ["true", "false"])
def test_plan_foretells_what_a_slid_episode_stores_within_a_tenth(make_run, switch):
    lengths = ["data.max_prompt_length=1024", "data.max_response_length=1024"]
    lengths += ["actor_rollout_ref.rollout.max_model_len=2048"]
    run = make_run("video_mtr_sync", f"videomtr.device_patches={switch}", *SLIDES, *lengths)
    side_px = 112  # 16 visual tokens, the most that the tiny model's processor leaves as it is
    VideoMTRAgentLoop._shared.frames = MadeFrames(64, duration_seconds=64.0, side_px=side_px)
    batch = play_sliding(run)
    data = tq.kv_batch_get(keys=batch.keys, partition_id="train")
    inputs = inputs_of(data)
    tensors = {name: list(column.unbind()) for name, column in data.items() if isinstance(column, torch.Tensor)}
    stored = sum(memoryview(part).nbytes for part in encode([tensors, inputs]))
    rows = tuple(
        RowSize(prompt_tokens=len(prompt), response_tokens=len(response), num_frames=len(row["image_grid_thw"]))
        for prompt, response, row in zip(tensors["prompts"], tensors["responses"], inputs, strict=True)
    )
    plan = make_plan(planned_run(rows=rows, num_frames=14, frame_tokens=16, device_patches=switch == "true"))
    # What the trainer adds to a row later is not there yet.
    foretold = plan.bytes_per_episode - TRAINER_FIELDS_BYTES * sum(row.response_tokens for row in rows)
    assert plan.frames_per_episode == (14 if switch == "true" else 20)
    assert stored == pytest.approx(foretold, rel=0.1)
