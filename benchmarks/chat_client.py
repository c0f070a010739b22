# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What playing against a served model costs the client: python benchmarks/chat_client.py

A server in a process of its own thinks a second and answers; each episode looks twice and answers, 32 frames of the
paper's size in all, and sends its pictures again with every turn. No picture is shared between episodes. Reported: CPU
of the client's process a turn, how late its event loop runs a timer, and the memory that an episode in flight adds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parent))

from videos import make_video

from verl_videomtr.evaluation.playing import Admission, Table, play_all
from verl_videomtr.evaluation.setup import compose_setup
from verl_videomtr.sample import Sample
from verl_videomtr.serving.client import Client
from verl_videomtr.serving.endpoints import Endpoint
from verl_videomtr.serving.journal import Journal, SharedJournal
from verl_videomtr.serving.pictures import PictureService
from verl_videomtr.serving.server import Server
from verl_videomtr.video.service import FrameService

REPLIES = (
    "<think>near the start</think><retrieve>10,50</retrieve>",
    "<think>near the end</think><retrieve>60,120</retrieve>",
    "<think>seen</think><answer>A</answer>",
)
CASES = (("raw", "webp"), ("raw", "png"), ("raw", "jpeg"), ("jpeg", "jpeg"))
"""(form of the frame cache, form that is sent); the last pair is passed through."""


def serve(port: int, think_seconds: float) -> None:
    """Answer by how many turns a conversation has; nothing of it is parsed."""

    async def answer(request: web.Request) -> web.Response:
        turns = 0
        async for block in request.content.iter_any():
            turns += block.count(b'"role": "assistant"')
        await asyncio.sleep(think_seconds)
        message = {"role": "assistant", "content": REPLIES[min(turns, 2)]}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 4000, "completion_tokens": 20}
        return web.json_response({"choices": [choice], "usage": usage})

    app = web.Application(client_max_size=2**30)
    app.router.add_post("/v1/chat/completions", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


async def measure(
    form: str, image_format: str, url: str, video: Path, folder: Path, arguments: argparse.Namespace
) -> str:
    cache = folder / form
    setup = compose_setup([f"videomtr.video.cache.dir={cache}", f"videomtr.video.cache.form={form}"])
    settings = setup.settings
    frames = FrameService(config=settings.video.pool, cache=settings.video.cache.open(), workers=settings.video.workers)
    await frames.read(str(video), list(range(settings.episode.pool_size)))
    # Every episode has a name of its own for the video, or those that begin together would share their pictures.
    videos = [str(folder / f"{number}.mp4") for number in range(arguments.episodes)]
    for path in videos:
        if not Path(path).exists():
            shutil.copyfile(video, path)
        await frames.pool(path)
    pictures = PictureService(frames, image_format=image_format, max_bytes=1)
    samples = [
        Sample(
            data_source="cost", sample_id=str(number), index=number, split="test", video=path, question="What?",
            options=("a", "b"), answer="A", question_type="multiple_choice",
        )
        for number, path in enumerate(videos)
    ]  # fmt: skip
    lags: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            lags.append(time.monotonic() - before - 0.01)

    process = psutil.Process()
    gc.collect()
    base_bytes, most_bytes = process.memory_info().rss, 0
    with Journal(folder / f"{form}_{image_format}.jsonl") as journal:
        async with Client(Server(base_url=url, timeout_seconds=600.0)) as client:
            table = Table(
                setup=setup, clients=[client], endpoints=[Endpoint(base_url=url, model="m", kind="vllm")],
                pictures=pictures, journal=SharedJournal(journal),
            )  # fmt: skip
            admission = Admission(max_episodes=arguments.in_flight, max_bytes=2**40)
            held = 0

            def done(line: dict) -> None:
                nonlocal most_bytes, held
                most_bytes, held = max(most_bytes, process.memory_info().rss), max(held, admission.num_bytes)

            ticker = asyncio.create_task(tick())
            began, cpu = time.monotonic(), time.process_time()
            lines = await play_all(samples, table, admission=admission, done=done)
            cpu, seconds = time.process_time() - cpu, time.monotonic() - began
            ticker.cancel()
    turns = sum(len(line["episode"]["responses"]) for line in lines)
    waits = np.array([value for line in lines for value in line["response_seconds"]])
    assert form == image_format or pictures.num_encoded == sum(
        len(shown) for line in lines for shown in line["episode"]["frames"]
    )
    pictures.close()
    frames.close()
    return (
        f"| {form} | {image_format} | {1000 * cpu / turns:.1f} | {1000 * np.percentile(lags, 50):.0f} / "
        f"{1000 * np.percentile(lags, 99):.0f} / {1000 * max(lags):.0f} | {np.percentile(waits, 50):.2f} / "
        f"{np.percentile(waits, 95):.2f} | {held / arguments.in_flight / 2**20:.2f} | "
        f"{(most_bytes - base_bytes) / arguments.in_flight / 2**20:.2f} | {turns} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=150)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--think", type=float, default=1.0)
    parser.add_argument("--port", type=int, default=8771)
    parser.add_argument("--videos", type=Path, help="folder that keeps the video for the next time")
    arguments = parser.parse_args()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(arguments.port, arguments.think), daemon=True
    )
    server.start()
    time.sleep(3)
    url = f"http://127.0.0.1:{arguments.port}/v1"
    print(f"{arguments.in_flight} in flight, {arguments.episodes} episodes, the server thinks {arguments.think:g} s")
    columns = ["cache", "sent", "CPU ms a turn", "loop late p50 / p99 / max, ms", "response p50 / p95, s"]
    columns += ["MiB held", "MiB RSS", "turns", "s"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    try:
        with tempfile.TemporaryDirectory() as name:
            video = make_video(arguments.videos or Path(name))
            for form, image_format in CASES:
                print(asyncio.run(measure(form, image_format, url, video, Path(name), arguments)), flush=True)
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
