# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""How often an episode's images are preprocessed, and what they cost between processes: python -m benchmarks.transport

An episode of 16 + 8 + 8 frames at 224x420 is put through verl's own functions in the order in which an agent-loop
worker and a vLLM server call them: the token builder for every message, vLLM's multimodal processor (with its cache, as
configured) for every response, and the row that training reads. A wrapper around the image processor counts. Then the
images of the three requests go to a Ray actor in each form. The model folder holds a processor of Qwen2.5-VL's bounds;
no weights are read.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.videos import make_video
from verl_videomtr.episode import Episode, EpisodeConfig
from verl_videomtr.prompts import Prompts
from verl_videomtr.video.pool import PoolConfig, open_pool

OFFLINE = {"HF_HUB_OFFLINE": "1", "VERL_PLATFORM": "cpu", "VLLM_NO_USAGE_STATS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
RESPONSES = (
    "<think>a</think><retrieve>9,16</retrieve>",
    "<think>a</think><retrieve>26,33</retrieve>",
    "<think>a</think><answer>A</answer>",
)
"""The ranges lie between frames of the overview, so that 32 different frames are shown."""
JPEG_QUALITY = 95


class Counter:
    """Images that went through the image processor, and the CPU seconds of that, by caller."""

    def __init__(self, processor: Any) -> None:
        self.images: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.label = ""
        cls = type(processor)
        preprocess = cls.preprocess

        def counted(this: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            result = preprocess(this, images, *args, **kwargs)
            self.seconds[self.label] = self.seconds.get(self.label, 0.0) + time.process_time() - began
            self.images[self.label] = self.images.get(self.label, 0) + len(result["image_grid_thw"])
            return result

        cls.preprocess = counted

    @contextmanager
    def at(self, label: str) -> Iterator[None]:
        """Count what happens inside under `label`."""
        self.label = label
        yield
        self.label = ""


class Pipeline:
    """verl's token builder, vLLM's processor and verl's row, on a processor of Qwen2.5-VL's bounds."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoProcessor
        from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
        from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder
        from vllm.config import ModelConfig
        from vllm.multimodal import MULTIMODAL_REGISTRY
        from vllm.multimodal.cache import MultiModalProcessorOnlyCache

        from recipes.learning_study.tiny_model import make_model, make_processor, save_checkpoint

        made = make_processor()
        save_checkpoint(folder, make_model(made.tokenizer, seed=0), made, {"kind": "untaught"})
        file = folder / "processor_config.json"
        settings = json.loads(file.read_text())
        settings["image_processor"]["size"] = {"longest_edge": 16384 * 28 * 28, "shortest_edge": 4 * 28 * 28}
        file.write_text(json.dumps(settings))
        self.processor = AutoProcessor.from_pretrained(folder)
        self.builder = create_continuous_token_builder(
            self.processor.tokenizer, hf_model_type="qwen2_5_vl", processor=self.processor
        )
        model = ModelConfig(model=str(folder), limit_mm_per_prompt={"image": 64})
        self.vllm = MULTIMODAL_REGISTRY.create_processor(model, cache=MultiModalProcessorOnlyCache(model))
        self.row: Callable[..., dict[str, torch.Tensor]] = AgentLoopWorker._compute_multi_modal_inputs

    def serve(self, ids: list[int], images: list[Any]) -> None:
        """What a vLLM server does with a request before the model runs."""
        from verl.workers.rollout.utils import qwen2_5_vl_dedup_image_tokens

        prompt = qwen2_5_vl_dedup_image_tokens(ids, self.processor)
        self.vllm(prompt, self.vllm.info.parse_mm_data({"image": images}))

    def training_row(self, ids: list[int], images: list[Image.Image]) -> dict[str, torch.Tensor]:
        """What verl's worker makes of a finished trajectory's images."""
        worker = SimpleNamespace(
            processor=self.processor,
            tokenizer=self.processor.tokenizer,
            _get_mm_processor_kwargs=lambda audios: {},
        )
        output = SimpleNamespace(multi_modal_data={"images": images}, mm_processor_kwargs=None)
        return self.row(worker, output, torch.tensor(ids))


def play(pipeline: Pipeline, counter: Counter, frames: np.ndarray) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Play one episode with scripted responses; return how many images each request carried, and the training row."""
    episode = Episode(
        config=EpisodeConfig(),
        prompts=Prompts.load("default"),
        question="What is shown?\nA. this\nB. that",
        times_seconds=[i / 2 for i in range(128)],
        duration_seconds=64.0,
    )
    builder, observation = pipeline.builder, episode.reset()
    messages: list[dict[str, Any]] = [{"role": "system", "content": episode.system_text}]
    images: list[Image.Image] = []
    ids: list[int] = []
    requests = []
    for response in RESPONSES:
        assert observation is not None
        new = [Image.fromarray(frames[i]) for i in observation.frames]
        parts = iter(new)
        content = [
            {"type": "image", "image": next(parts)} if isinstance(part, int) else {"type": "text", "text": part}
            for part in observation.parts
        ]
        before, messages, images = messages, [*messages, {"role": "user", "content": content}], images + new
        with counter.at("token builder"):
            if ids:
                ids = list(builder.merge_context_tokens(before, messages, ids).token_ids)
            else:
                ids = builder.build_initial_tokens(messages, images=images)
        requests.append(len(images))
        with counter.at("vLLM server"):
            pipeline.serve(ids, images)
        sampled = pipeline.processor.tokenizer.encode(response) + [pipeline.processor.tokenizer.eos_token_id]
        ids = list(builder.merge_assistant_tokens(ids, sampled).token_ids)
        messages.append({"role": "assistant", "content": response})
        observation = episode.step(response)
    with counter.at("training row"):
        row = pipeline.training_row(ids, images)
    return requests, row


def forms(frames: np.ndarray) -> dict[str, list[Any]]:
    """The same images as they may cross a process boundary."""

    def jpeg(frame: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
        return buffer.getvalue()

    return {
        "PIL images": [Image.fromarray(frame) for frame in frames],
        "uint8 arrays": list(frames),
        "JPEG bytes": [jpeg(frame) for frame in frames],
    }


def pickled_bytes(value: Any) -> tuple[int, int]:
    """Bytes inside the pickle, and bytes beside it, which are not copied into it."""
    beside: list[pickle.PickleBuffer] = []
    inside = pickle.dumps(value, protocol=5, buffer_callback=beside.append)
    return len(inside), sum(buffer.raw().nbytes for buffer in beside)


def time_ray(payloads: dict[str, list[list[Any]]], rounds: int) -> dict[str, float]:
    """Wall seconds of handing one episode's requests to an actor, median of the rounds, by form."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    @ray.remote(num_cpus=0)
    class Server:
        def generate(self, *, image_data: list[Any]) -> int:
            return sum(len(image) if isinstance(image, bytes) else np.asarray(image).nbytes for image in image_data)

    server = Server.remote()
    seconds: dict[str, list[float]] = {name: [] for name in payloads}
    for round_idx in range(rounds + 1):
        for name, requests in payloads.items():
            began = time.perf_counter()
            for images in requests:
                ray.get(server.generate.remote(image_data=images))
            if round_idx:
                seconds[name].append(time.perf_counter() - began)
    ray.shutdown()
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--videos",
        type=Path,
        default=Path(".cache/benchmark_videos"),
        help="folder that keeps the videos for the next time",
    )
    parser.add_argument("--rounds", type=int, default=20, help="rounds; the figures are medians (default: %(default)s)")
    arguments = parser.parse_args()
    os.environ.update(OFFLINE)
    torch.set_num_threads(1)
    frames = open_pool(make_video(arguments.videos), PoolConfig()).read(range(128))
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(Path(folder))
        counter = Counter(pipeline.processor.image_processor)
        play(pipeline, counter, 255 - frames)  # Warm, with images that vLLM's cache will not meet again.
        counter.images.clear()
        counter.seconds.clear()
        requests, row = play(pipeline, counter, frames)
    num_shown = requests[-1]
    print(f"{num_shown} frames of {frames.shape[1]}x{frames.shape[2]} shown; load {os.getloadavg()[0]:.1f}")
    print("| where | images preprocessed | times a frame | CPU ms an episode |")
    print("|---|---|---|---|")
    for label, count in counter.images.items():
        print(f"| {label} | {count} | {count / num_shown:.2f} | {counter.seconds[label] * 1e3:.0f} |")
    print(
        f"| sum | {sum(counter.images.values())} | {sum(counter.images.values()) / num_shown:.2f} "
        f"| {sum(counter.seconds.values()) * 1e3:.0f} |"
    )
    mib = row["pixel_values"].nbytes / 2**20
    print(
        f"training row: {mib:.1f} MiB of {row['pixel_values'].dtype} for {num_shown * frames[0].nbytes / 2**20:.1f} MiB"
    )
    payloads = {name: [images[:count] for count in requests] for name, images in forms(frames[:num_shown]).items()}
    seconds = time_ray(payloads, arguments.rounds)
    print(f"requests of {requests} images; {arguments.rounds} rounds")
    print("| form | MiB pickled | MiB beside the pickle | ms an episode through Ray |")
    print("|---|---|---|---|")
    for name, parts in payloads.items():
        sizes = np.array([pickled_bytes(images) for images in parts]).sum(axis=0) / 2**20
        print(f"| {name} | {sizes[0]:.2f} | {sizes[1]:.2f} | {seconds[name] * 1e3:.0f} |")


if __name__ == "__main__":
    main()
