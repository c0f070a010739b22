# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Rows that carry frames train exactly as rows that carry patches: through verl's worker, queue and engines."""

from __future__ import annotations

import asyncio
import importlib
import itertools

import pytest
import torch
import transfer_queue as tq
from family_models import FAMILIES
from tensordict import NonTensorData
from transformers import AutoModelForImageTextToText
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.utils.tokenizer import get_processor_token_id

from tests.core.test_patches import noise
from verl_videomtr.verl_plugin import device_patches
from verl_videomtr.verl_plugin.device_patches import extract_multi_modal_inputs
from verl_videomtr.verl_plugin.frame_rows import RECIPE, FrameRows
from verl_videomtr.verl_plugin.row_inputs import image_inputs
from verl_videomtr.verl_plugin.shared_frames import FRAMES
from verl_videomtr.verl_plugin.value_heads import value_class

pytest_plugins = ["plugin_setting", "queue_setting"]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(device_patches, "get_device_id", lambda: "cpu")


class Rows:
    """One family's rows, of the old kind and of the new."""

    def __init__(self, name: str) -> None:
        self.family = FAMILIES[name]()
        self.processor = self.family.processor
        self.processor.config = self.family.config
        self.token_id = get_processor_token_id(self.processor, "image")
        self.frame_rows = FrameRows(self.processor, image_token_id=self.token_id)

    def ids(self, images):
        content = [{"type": "text", "text": "a"}] + [{"type": "image"}, {"type": "text", "text": "b"}] * len(images)
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        made = self.processor(text=[text], images=images or None, return_tensors="pt", add_special_tokens=False)
        return made["input_ids"][0]

    def old(self, images):
        return image_inputs(self.processor, images, input_ids=self.ids(images), image_token_id=self.token_id)

    def new(self, images):
        (frames,) = self.frame_rows.frames_of([images])
        return self.frame_rows.inputs(frames, input_ids=self.ids(images))

    def images(self, *widths, seed=0):
        px = self.family.frame_px
        return noise(*[(width * px, px) for width in widths], seed=seed)


def same(first, second):
    assert set(first) == set(second)
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("name", FAMILIES)
def test_a_micro_batch_is_the_same_either_way(name):
    rows = Rows(name)
    # Pixtral's pixels are padded to the largest frame of a row, so verl joins no rows whose frames differ in size.
    wide = 1 if name == "mistral3" else 2
    batches = [rows.images(1, wide, 1, seed=1), rows.images(1, seed=2)]
    old = [rows.old(images) for images in batches]
    new = [rows.new(images) for images in batches]
    assert all("pixel_values" not in row for row in new)
    expected = extract_multi_modal_inputs(old)
    same(extract_multi_modal_inputs(new), expected)
    # Rows without images, as verl's padding rows are, wrapped rows, and rows of both kinds in one micro-batch.
    same(extract_multi_modal_inputs([{}, NonTensorData(new[0]), None, new[1], {}]), expected)
    same(extract_multi_modal_inputs([old[0], new[1]]), expected)
    same(extract_multi_modal_inputs([new[1], {}, new[0]], indices=[2, 0, 7]), expected)
    assert all(FRAMES in row and RECIPE in row for row in new)  # a row is read several times a step


@pytest.mark.parametrize("batch", [[], [{}], [None, {}]])
def test_a_micro_batch_without_frames_stays_without(batch):
    assert extract_multi_modal_inputs(batch) == {}


@pytest.mark.parametrize(("name", "dtype"), [("qwen2_5_vl", torch.float32), ("qwen3_vl", torch.bfloat16)])
def test_log_probs_values_and_gradients_are_equal(name, dtype):
    rows = Rows(name)
    images = rows.images(1, 2)
    ids = rows.ids(images)[None]
    torch.manual_seed(0)
    policy = AutoModelForImageTextToText.from_config(rows.family.config).to(dtype)
    critic = value_class(type(rows.family.config))[0](rows.family.config).to(dtype)
    for model in (policy.eval(), critic.eval()):  # no dropout
        results = []
        for row in (rows.old(images), rows.new(images)):
            model.zero_grad()
            inputs = extract_multi_modal_inputs([row])
            inputs.pop("images_seqlens")
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits
            output.float().log_softmax(-1)[..., 0].sum().backward() if model is policy else output.sum().backward()
            results.append([output, *(weight.grad for weight in model.parameters())])
        assert any(part is not None and part.abs().sum() > 0 for part in results[0][1:])
        for old, new in zip(*results, strict=True):
            assert (old is None and new is None) or torch.equal(old, new)


def test_an_image_that_several_rows_show_is_one_tensor():
    rows = Rows("qwen2_5_vl")
    images = rows.images(1, 2, 1, 1)
    frames = rows.frame_rows.frames_of([images[:3], images[1:], images[2:]])
    assert frames[0][1] is frames[1][0]
    assert frames[0][2] is frames[1][1] is frames[2][0]
    assert frames[1][2] is frames[2][1]


def test_a_rows_bytes_are_its_pixels():
    rows = Rows("qwen2_5_vl")
    images = rows.images(2, 2)
    row = rows.new(images)
    size = sum(part.nbytes for part in row[FRAMES])
    beside = sum(value.nbytes for value in row.values() if isinstance(value, torch.Tensor)) + len(row[RECIPE])
    assert size == sum(3 * image.width * image.height for image in images)
    assert beside < 1500
    assert rows.old(images)["pixel_values"].nbytes == 8 * size


def test_images_that_are_no_rgb_images_go_as_patches():
    rows = Rows("qwen2_5_vl")
    (image,) = rows.images(1)
    frames = rows.frame_rows.frames_of([[image.convert("L")], [image, image.convert("RGBA")], [image], [object()]])
    assert [row is None for row in frames] == [True, True, False, True]


def slow_twin(image_processor):
    """The processor of the same family and settings that computes in NumPy."""
    fast = type(image_processor)
    module = importlib.import_module(fast.__module__.replace("image_processing_", "image_processing_pil_"))
    return getattr(module, f"{fast.__name__}Pil").from_dict(image_processor.to_dict())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_processor_that_computes_in_numpy_goes_as_patches_with_one_warning(name, caplog):
    rows = Rows(name)
    rows.processor.image_processor = slow_twin(rows.processor.image_processor)
    frame_rows = FrameRows(rows.processor, image_token_id=rows.token_id)
    images = rows.images(1)
    assert frame_rows.frames_of([images, images]) == [None, None]
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"{type(rows.processor.image_processor).__name__} does not compute in torch" in line
    assert "device_patches=false" in line
    made = extract_multi_modal_inputs([rows.old(images)])
    given = rows.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(made["pixel_values"], torch.as_tensor(given))


@pytest.mark.parametrize("module", ["transformers_modules.org.model.processing", "elsewhere"])
def test_a_processor_of_unknown_code_goes_as_patches_with_one_warning(module, caplog):
    rows = Rows("qwen2_5_vl")
    known = type(rows.processor.image_processor)
    base = known if module.startswith("transformers_modules") else object
    rows.processor.image_processor = type("OwnProcessor", (base,), {"__module__": module})()
    frame_rows = FrameRows(rows.processor, image_token_id=rows.token_id)
    assert frame_rows.frames_of([rows.images(1)] * 2) == [None, None]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "OwnProcessor" in line
    assert "device_patches=false" in line


def test_a_model_whose_rows_verl_makes_says_so_once(setting, caplog):
    from verl_videomtr.verl_plugin.loop_workers import LoopWorker

    worker = object.__new__(LoopWorker)  # verl's own would open TransferQueue
    worker.config, worker.processor, worker._image_token_id = setting.config(), setting.processor, None
    caplog.clear()
    assert worker._open_frame_rows() is None
    (line,) = [record.getMessage() for record in caplog.records if "patches" in record.getMessage()]
    assert "Qwen2_5_VLConfig is no image-text-to-text model" in line
    assert "device_patches=false" in line


def test_a_size_for_which_patches_differ_goes_as_patches_with_one_warning(caplog, monkeypatch):
    rows = Rows("qwen2_5_vl")
    kind = type(rows.processor.image_processor)
    process = kind.process_image
    monkeypatch.setattr(
        kind,
        "process_image",
        lambda self, image, **kwargs: process(self, image, **kwargs) // (2 if isinstance(image, torch.Tensor) else 1),
    )
    assert rows.frame_rows.frames_of([rows.images(1), rows.images(1)]) == [None, None]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "28 x 28 px: patches made from bytes differ" in line


def test_engines_take_the_replaced_function():
    import verl.utils.model
    import verl.workers.engine.fsdp.transformer_impl as engine

    assert engine.extract_multi_modal_inputs is verl.utils.model.extract_multi_modal_inputs
    assert engine.extract_multi_modal_inputs is extract_multi_modal_inputs


@pytest.mark.parametrize("switch", ["true", "false"])
def test_rows_of_an_episode_that_went_through_the_queue_train_alike(make_run, setting, switch):
    run = make_run("video_mtr_sync", f"videomtr.device_patches={switch}")
    run.hand_out(["/videos/good.mp4"] * 2)
    batch, _ = run.trainer.replay_buffer.sample(global_steps=1, partition_id="train", batch_size=2)
    data = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["multi_modal_inputs", "input_ids"])
    tq.kv_clear(keys=batch.keys, partition_id="train")
    rows = list(data.get("multi_modal_inputs"))
    rows = [row.data if isinstance(row, NonTensorData) else row for row in rows]
    assert all((FRAMES in row) == (switch == "true") for row in rows)
    made = extract_multi_modal_inputs(data.get("multi_modal_inputs"))
    # Frame i of the setting's videos is grey, of brightness i; the overview is every eighth of 64, or so.
    num_images = len(made["image_grid_thw"])
    assert num_images > 2
    patches = made["pixel_values"].view(num_images, -1, made["pixel_values"].shape[1])
    assert len({float(one[0, 0]) for one in patches}) == num_images // 2
    assert torch.equal(patches[: num_images // 2], patches[num_images // 2 :])


def test_training_workers_get_tensors_and_images_alone(make_run):
    from verl.utils import transferqueue_utils

    run = make_run("video_mtr_sync")
    run.hand_out(["/videos/good.mp4"] * 2)
    batch, _ = run.trainer.replay_buffer.sample(global_steps=1, partition_id="train", batch_size=2)
    batch.extra_info["temperature"] = 0.7
    whole = tq.kv_batch_get(keys=batch.keys, partition_id="train")
    fetched = transferqueue_utils._meta_to_realdata(batch)
    tq.kv_clear(keys=batch.keys, partition_id="train")
    assert fetched["temperature"] == 0.7
    left_out = set(whole.keys()) - set(fetched.keys())
    assert {"extra_fields", "extra_info", "raw_prompt", "reward_model", "data_source"} <= left_out
    assert not any(isinstance(whole[name], torch.Tensor) for name in left_out)
    needed = {"input_ids", "position_ids", "responses", "response_mask", "loss_mask", "rollout_log_probs", "rm_scores"}
    assert needed | {"multi_modal_inputs"} <= set(fetched.keys())
    rows = [row.data if isinstance(row, NonTensorData) else row for row in fetched.get("multi_modal_inputs")]
    assert all(row[FRAMES] for row in rows)


def test_padding_rows_as_verl_makes_them_have_no_frames():
    rows = Rows("qwen2_5_vl")
    batch = list_of_dict_to_tensordict(
        [
            {"input_ids": torch.arange(4), "multi_modal_inputs": rows.new(rows.images(1))},
            {"input_ids": torch.arange(5), "multi_modal_inputs": {}},
        ]
    )
    for_device = batch.to("cpu")
    same(
        extract_multi_modal_inputs(for_device.get("multi_modal_inputs")),
        extract_multi_modal_inputs([rows.old(rows.images(1))]),
    )


def test_the_event_loop_answers_between_trajectories_that_are_ready_together(monkeypatch):
    from verl_videomtr.verl_plugin import loop_workers

    ticks, made_at = 0, []

    async def make_rows(self, output, validate, **kwargs):
        made_at.append(ticks)

    async def tick():
        nonlocal ticks
        while len(made_at) < 8:
            ticks += 1
            await asyncio.sleep(0)

    async def finish(worker):
        ready = [worker._agent_loop_postprocess([output], False, uid="u", session_id=i) for i in range(8)]
        await asyncio.gather(tick(), *ready)

    worker = object.__new__(loop_workers.LoopWorker)
    worker._turn, worker._frame_rows = asyncio.Lock(), None  # no threads: all are ready at once
    monkeypatch.setattr(loop_workers._VerlWorker, "_agent_loop_postprocess", make_rows)
    output = object()
    asyncio.run(finish(worker))
    assert all(later > earlier for earlier, later in itertools.pairwise(made_at))
