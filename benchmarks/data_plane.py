# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What an episode's frames cost on their way to the loss, rows of float32 patches against rows of frames as bytes.

    python -m benchmarks.data_plane                  # bytes and CPU seconds an episode, by stage
    python -m benchmarks.data_plane --lag            # the event loop while 64 episodes are finished at once

Frames of 224x392 and Qwen2.5-VL's image processor. Both ways run in the same process, in an order that turns round by
round; CPU seconds of one thread, medians. Serialisation is TransferQueue's own, and what comes out of both is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIZE = (224, 392)
OFFLINE = {"HF_HUB_OFFLINE": "1", "VERL_PLATFORM": "cpu", "VLLM_NO_USAGE_STATS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
WAYS = ("patches", "bytes")
PASSES = 5
"""Forward passes of a step over a row: log-probabilities, reference, values, actor's update, critic's update."""
NUM_EPISODES, NUM_FRAMES = 64, 32
"""Of the event loop's test."""


def make_frames(num_frames: int, seed: int = 0) -> list[Image.Image]:
    noise = np.random.default_rng(seed).integers(0, 256, (num_frames, *SIZE, 3), np.uint8)
    return [Image.fromarray(frame) for frame in noise]


def make_processor() -> Any:
    """Qwen2.5-VL's image processor on the study's tokenizer and template, with the config that verl's loader adds."""
    from recipes.learning_study.tiny_model import make_config
    from recipes.learning_study.tiny_model import make_processor as make

    processor = make()
    processor.image_processor.size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16384 * 28 * 28}
    processor.config = make_config(processor.tokenizer)
    return processor


class Stages:
    """One way's stages, each timed; what they hand on is kept."""

    def __init__(self, processor: Any, way: str) -> None:
        from verl.utils.tokenizer import get_processor_token_id
        from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

        from verl_videomtr.verl_plugin.frame_rows import FrameRows
        from verl_videomtr.verl_plugin.sized_images import without_pixels

        self.way, self.processor = way, processor
        self.token_id = get_processor_token_id(processor, "image")
        self.rows = FrameRows(processor, image_token_id=self.token_id)
        self.builder = create_continuous_token_builder(
            processor.tokenizer,
            hf_model_type="qwen2_5_vl",
            processor=processor if way == "patches" else without_pixels(processor),
        )
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        self.seconds[name] = time.process_time() - began
        return result

    def run(self, images: list[Image.Image]) -> torch.Tensor:
        """Take one episode from its images to a micro-batch; return its pixels."""
        from transfer_queue.utils.serial_utils import decode, encode
        from verl.utils.model import extract_multi_modal_inputs

        content = [{"type": "image", "image": image} for image in images]
        ids = self.timed(
            "token builder",
            lambda: self.builder.build_initial_tokens([{"role": "user", "content": content}], images=images),
        )
        self.timed(
            "vLLM's own, first sight", lambda: self.processor.image_processor(images=images, return_tensors="pt")
        )
        row = self.timed("training row", lambda: self._row(images, torch.tensor(ids)))
        sent = self.timed("into TransferQueue", lambda: [bytes(part) for part in encode({"rows": [row]})])
        self.bytes["row, serialised"] = sum(map(len, sent))
        stored = decode([memoryview(part) for part in sent])["rows"]
        fetched = self.timed("out of TransferQueue", lambda: [bytes(part) for part in encode({"rows": stored})])
        rows = decode([memoryview(part) for part in fetched])["rows"]
        made = {}
        for _ in range(PASSES):
            made = self.timed("micro-batch, one pass", lambda: extract_multi_modal_inputs(rows))
        return made["pixel_values"]

    def _row(self, images: list[Image.Image], ids: torch.Tensor) -> dict[str, Any]:
        from verl_videomtr.verl_plugin.row_inputs import image_inputs

        if self.way == "patches":
            return image_inputs(self.processor, images, input_ids=ids, image_token_id=self.token_id)
        (frames,) = self.rows.frames_of([images])
        assert frames is not None
        return self.rows.inputs(frames, input_ids=ids)


def stages(counts: list[int], rounds: int) -> None:
    """Print bytes and CPU milliseconds of an episode, by stage and number of frames."""
    processor = make_processor()
    ways = {way: Stages(processor, way) for way in WAYS}
    print(f"| frames | stage | {' | '.join(f'{way}, CPU ms' for way in WAYS)} |\n|---|---|---|---|")
    for count in counts:
        seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        for number in range(rounds + 1):
            images = make_frames(count, seed=number)
            order = WAYS if number % 2 else WAYS[::-1]
            made = {way: ways[way].run(images) for way in order}
            if not torch.equal(*made.values()):
                raise SystemExit(f"{count} frames: the patches of both ways differ")
            for way in WAYS if number else ():  # the first round warms up
                for stage, value in ways[way].seconds.items():
                    seconds[stage, way].append(value)
        for stage in ways["bytes"].seconds:
            cells = [f"{1e3 * statistics.median(seconds[stage, way]):.1f}" for way in WAYS]
            print(f"| {count} | {stage} | {' | '.join(cells)} |")
        pixels = count * SIZE[0] * SIZE[1] * 3
        sizes = [ways[way].bytes["row, serialised"] for way in WAYS]
        cells = [f"{size / 2**20:.2f} MiB ({size / pixels:.3f}x)" for size in sizes]
        print(f"| {count} | row, serialised; pixels {pixels / 2**20:.2f} MiB | {' | '.join(cells)} |", flush=True)


async def watch(lags: list[tuple[float, float]], period: float = 0.001) -> None:
    """Note how late the loop comes back, in wall seconds and in CPU seconds of its thread."""
    while True:
        wall, cpu = time.perf_counter(), time.thread_time()
        await asyncio.sleep(period)
        lags.append((time.perf_counter() - wall - period, time.thread_time() - cpu))


def make_worker(folder: Path, way: str) -> Any:
    """verl's agent-loop worker as the plugin has it, in this process, on the tiny model with Qwen2.5-VL's bounds."""
    import json

    from recipes.learning_study import tiny_model
    from verl_videomtr.verl_plugin.compose import compose
    from verl_videomtr.verl_plugin.loop_workers import LoopWorker

    if not (folder / "config.json").exists():
        made = tiny_model.make_processor()
        tiny_model.save_checkpoint(folder, tiny_model.make_model(made.tokenizer, seed=0), made, {"kind": "untaught"})
        file = folder / "processor_config.json"
        settings = json.loads(file.read_text())
        settings["image_processor"]["size"] = {"longest_edge": 16384 * 28 * 28, "shortest_edge": 4 * 28 * 28}
        file.write_text(json.dumps(settings))
    config = compose(
        ["+videomtr=paper", "+videomtr/device=cpu", "+videomtr/model=tiny", f"actor_rollout_ref.model.path={folder}"]
        + [f"critic.model.path={folder}", f"videomtr.device_patches={str(way == 'bytes').lower()}"]
    )
    return LoopWorker(config, None, None, None)


def make_output(worker: Any, seed: int) -> Any:
    """A finished episode as the agent loop hands it over: one row with all its frames."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics

    from verl_videomtr.verl_plugin.agent_loop import VideoMTROutput
    from verl_videomtr.verl_plugin.batch_rows import ROW_FIELD

    images = make_frames(NUM_FRAMES, seed=seed)
    content = [{"type": "image"} for _ in images]
    text = worker.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    ids = worker.processor(text=[text], images=images, return_tensors="pt")["input_ids"][0].tolist()
    answer = [7] * 200
    return VideoMTROutput(
        prompt_ids=ids, response_ids=answer, response_mask=[1] * 200, response_logprobs=[-1.0] * 200,
        multi_modal_data={"images": images}, reward_score=1.0, token_rewards=[0.0] * 199 + [1.0], num_turns=2,
        metrics=AgentLoopMetrics(), extra_fields={ROW_FIELD: 0, "reward_extra_info": {}, "min_global_steps": 1},
    )  # fmt: skip


def lag(folder: Path) -> None:
    """Print how late an agent-loop worker's event loop is while episodes are finished, rows and all."""
    import ray
    import transfer_queue as tq
    from omegaconf import OmegaConf

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    print(f"{NUM_EPISODES} episodes of {NUM_FRAMES} frames finished at once; load {os.getloadavg()[0]:.0f}")
    print("| rows of | p50 ms | p99 ms | longest ms | p99 of the loop's own CPU ms | all finished after s |")
    print("|---|---|---|---|---|---|")
    outputs = None
    for number, way in enumerate((*WAYS, *WAYS[::-1])):
        worker = make_worker(folder, way)
        outputs = outputs or [make_output(worker, seed) for seed in range(NUM_EPISODES)]
        for output in outputs:
            output.multi_modal_data = {"images": output.multi_modal_data["images"]}
        lags: list[tuple[float, float]] = []
        seconds = asyncio.run(_finish(worker, outputs, number, lags))
        wall, cpu = (sorted(part) for part in zip(*lags, strict=True))
        p99 = len(wall) * 99 // 100
        figures = (wall[len(wall) // 2], wall[p99], wall[-1], cpu[p99])
        print(f"| {way} | {' | '.join(f'{1e3 * value:.1f}' for value in figures)} | {seconds:.1f} |", flush=True)
        tq.kv_clear(keys=[f"{number}u{place}_0_0" for place in range(len(outputs))], partition_id="train")
    tq.close()
    ray.shutdown()


async def _finish(worker: Any, outputs: list[Any], number: int, lags: list[tuple[float, float]]) -> float:
    columns = {"session_id": 0, "global_steps": 1, "index": 0, "data_source": "benchmark"}
    first = {**columns, "uid": f"{number}warm"}
    await worker._agent_loop_postprocess(outputs[0], False, **first)
    outputs[0].multi_modal_data = {"images": outputs[0].multi_modal_data["images"]}
    watcher = asyncio.create_task(watch(lags))
    await asyncio.sleep(0.05)
    began = time.perf_counter()
    await asyncio.gather(
        *(
            worker._agent_loop_postprocess(output, False, **columns, uid=f"{number}u{place}")
            for place, output in enumerate(outputs)
        )
    )
    seconds = time.perf_counter() - began
    watcher.cancel()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", default="32,80,256", help="numbers of frames of an episode")
    parser.add_argument("--rounds", type=int, default=6, help="rounds; the figures are medians (default: %(default)s)")
    parser.add_argument(
        "--lag", action="store_true", help="how late the event loop is while 64 episodes are finished at once"
    )
    arguments = parser.parse_args()
    os.environ.update(OFFLINE)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        if arguments.lag:
            lag(Path(name))
        else:
            stages([int(count) for count in arguments.frames.split(",")], arguments.rounds)


if __name__ == "__main__":
    main()
