# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Frames on their way to the inference server: arrays travel uncopied and give the same inputs as images do."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

SIZES = [(224, 420), (420, 224), (112, 28), (28, 28)]
"""The last is below the processor's least size: it is enlarged, and so must be the same again."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A Qwen2.5-VL folder with the bounds that published checkpoints have; its weights are not used."""
    from recipes.learning_study.tiny_model import make_model, make_processor, save_checkpoint

    folder = tmp_path_factory.mktemp("tiny") / "model"
    processor = make_processor()
    processor.image_processor.size = {"longest_edge": 16384 * 784, "shortest_edge": 4 * 784}
    save_checkpoint(folder, make_model(processor.tokenizer, seed=0), processor, {"kind": "untaught"})
    return folder


def _frames(size, count=3):
    return np.random.default_rng(sum(size)).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def _sent(frames):
    """What arrives in another process: arrays that share read-only memory; and the bytes inside the pickle."""
    beside = []
    inside = pickle.dumps(list(frames), protocol=5, buffer_callback=beside.append)
    buffers = [bytes(buffer.raw()) for buffer in beside]
    assert sum(map(len, buffers)) == frames.nbytes
    return pickle.loads(inside, buffers=buffers), len(inside)


def test_arrays_travel_beside_the_pickle_and_images_inside_it():
    frames = _frames((224, 420))
    arrived, num_bytes = _sent(frames)
    assert num_bytes < 2000
    assert not arrived[0].flags.writeable
    assert all(np.array_equal(sent, frame) for sent, frame in zip(arrived, frames, strict=True))
    assert len(pickle.dumps([Image.fromarray(frame) for frame in frames], protocol=5)) > frames.nbytes


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("size", SIZES)
def test_the_image_processor_makes_the_same_of_arrays_and_images(checkpoint, size):
    from transformers import AutoProcessor

    process = AutoProcessor.from_pretrained(checkpoint).image_processor
    frames = _frames(size)
    of_images = process(images=[Image.fromarray(frame) for frame in frames], return_tensors="pt")
    of_arrays = process(images=_sent(frames)[0], return_tensors="pt")
    height, width = (56, 56) if size == (28, 28) else size
    assert of_images["image_grid_thw"].tolist() == [[1, height // 14, width // 14]] * len(frames)
    assert torch.equal(of_images["pixel_values"], of_arrays["pixel_values"])
    assert torch.equal(of_images["image_grid_thw"], of_arrays["image_grid_thw"])


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_vllm_makes_the_same_request_of_arrays_and_images(checkpoint, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = pytest.importorskip("vllm.config")
    from transformers import AutoProcessor
    from vllm.multimodal import MULTIMODAL_REGISTRY

    model = config.ModelConfig(model=str(checkpoint), limit_mm_per_prompt={"image": 8}, dtype="float32")
    process = MULTIMODAL_REGISTRY.create_processor(model)
    theirs = AutoProcessor.from_pretrained(checkpoint)
    tokenizer = theirs.tokenizer
    for size in SIZES:
        frames = _frames(size)
        prompt = tokenizer.encode("<|vision_start|><|image_pad|><|vision_end|>" * len(frames) + "What?")
        images = [Image.fromarray(frame) for frame in frames]
        requests = [
            process(list(prompt), process.info.parse_mm_data({"image": data})) for data in (images, _sent(frames)[0])
        ]
        of_images, of_arrays = requests
        assert of_images["prompt_token_ids"] == of_arrays["prompt_token_ids"]
        assert of_images["mm_placeholders"] == of_arrays["mm_placeholders"]
        values = [
            torch.cat([item["pixel_values"].data for item in request["mm_kwargs"]["image"]]) for request in requests
        ]
        assert torch.equal(values[0], values[1])
        # What training reads is made by the same processor from the images.
        row = theirs(text=["<|image_pad|>" * len(frames)], images=images, return_tensors="pt")
        assert torch.equal(values[1], row["pixel_values"])
        # Equal frames are known again, so that a turn's earlier frames are not processed twice.
        assert (
            process(list(prompt), process.info.parse_mm_data({"image": list(frames)}))["mm_hashes"]
            == (of_arrays["mm_hashes"])
        )
