# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What playing against a served model costs the client: python benchmarks/chat_client.py

A server in a process of its own thinks a second and answers, with token ids as vLLM gives them; each episode looks
twice and answers, 32 frames of the paper's size in all, and sends its pictures again with every turn. No picture is
shared between episodes. Reported: CPU of the client's process a turn, how late its event loop runs a timer, what an
episode in flight keeps on the disk, and the memory that it adds.

    python benchmarks/chat_client.py --in-flight 2000 --episodes 2500 --case jpeg:jpeg
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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
CASES = ("raw:webp", "raw:png", "raw:jpeg", "jpeg:jpeg")
"""Form of the frame cache, and form that is sent; the last is passed through."""
PROMPT_TOKENS, MORE_TOKENS = 4000, 1000
"""Of the first turn, and what each further one adds."""


def serve(port: int, think_seconds: float) -> None:
    """Answer by how many turns a conversation has; nothing of it is parsed."""
    answers = [json.dumps(_answer(turn, reply)).encode() for turn, reply in enumerate(REPLIES)]

    async def answer(request: web.Request) -> web.Response:
        turns = 0
        async for block in request.content.iter_any():
            turns += block.count(b'"role": "assistant"')
        await asyncio.sleep(think_seconds)
        return web.Response(body=answers[min(turns, 2)], content_type="application/json")

    app = web.Application(client_max_size=2**30)
    app.router.add_post("/v1/chat/completions", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def _answer(turn: int, reply: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "token_ids": [70_000] * 20}
    prompt = [70_000] * (PROMPT_TOKENS + turn * MORE_TOKENS)
    usage = {"prompt_tokens": len(prompt), "completion_tokens": 20}
    return {"choices": [choice], "usage": usage, "prompt_token_ids": prompt}


async def measure(
    form: str, image_format: str, url: str, video: Path, folder: Path, arguments: argparse.Namespace
) -> str:
    cache = folder / form
    setup = compose_setup([f"videomtr.video.cache.dir={cache}", f"videomtr.video.cache.form={form}"])
    settings = setup.settings
    frames = FrameService(
        config=settings.video.pool,
        cache=settings.video.cache.open(),
        workers=settings.video.workers,
        max_open_pools=arguments.episodes + 1,
    )
    await frames.read(str(video), list(range(settings.episode.pool_size)))
    # Every episode has a name of its own for the video, or those that begin together would share their pictures.
    videos = [str(folder / f"{number}.mp4") for number in range(arguments.episodes)]
    for path in videos:
        if not Path(path).exists():
            os.link(video, path)
        await frames.pool(path)
    pictures = PictureService(frames, image_format=image_format, max_bytes=1)
    samples = [
        Sample(
            data_source="cost", sample_id=str(number), index=number, split="test", video=path, question="What?",
            options=("a", "b"), answer="A", question_type="multiple_choice",
        )
        for number, path in enumerate(videos)
    ]  # fmt: skip
    process = psutil.Process()
    gc.collect()
    gc.freeze()
    base_bytes = most_bytes = process.memory_info().rss
    late: list[float] = []
    busy: list[float] = []

    async def tick() -> None:
        nonlocal most_bytes
        while True:
            before, cpu = time.monotonic(), time.thread_time()
            await asyncio.sleep(0.01)
            late.append(time.monotonic() - before - 0.01)
            busy.append(time.thread_time() - cpu)
            most_bytes = max(most_bytes, process.memory_info().rss)

    with Journal(folder / f"{form}_{image_format}.jsonl") as journal:
        async with Client(Server(base_url=url, timeout_seconds=600.0)) as client:
            table = Table(
                setup=setup, clients=[client], endpoints=[Endpoint(base_url=url, model="m", kind="vllm")],
                pictures=pictures, journal=SharedJournal(journal),
            )  # fmt: skip
            admission = Admission(max_episodes=arguments.in_flight, max_bytes=2**40)
            ticker = asyncio.create_task(tick())
            began, cpu = time.monotonic(), time.process_time()
            lines = await play_all(samples, table, admission=admission, done=lambda line: None)
            cpu, seconds = time.process_time() - cpu, time.monotonic() - began
            ticker.cancel()
    lost = [line["error"] for line in lines if line["status"] != "played"]
    assert not lost, f"{len(lost)} episodes were not played, such as: {lost[0]}"
    turns = sum(len(line["episode"]["responses"]) for line in lines)
    assert turns == 3 * arguments.episodes
    assert all(entry["drift"] in (None, {"at": None}) for entry in journal.entries.values())
    waits = np.array([value for line in lines for value in line["response_seconds"]])
    assert form == image_format or pictures.num_encoded == sum(
        len(shown) for line in lines for shown in line["episode"]["frames"]
    )
    pictures.close()
    frames.close()
    return (
        f"| {form} | {image_format} | {1000 * cpu / turns:.1f} | {1000 * np.percentile(late, 50):.0f} / "
        f"{1000 * np.percentile(late, 99):.0f} / {1000 * max(late):.0f} | {1000 * np.percentile(busy, 99):.0f} / "
        f"{1000 * max(busy):.0f} | {np.percentile(waits, 50):.2f} / "
        f"{np.percentile(waits, 95):.2f} | {admission.largest_bytes / 2**20:.2f} | "
        f"{(most_bytes - base_bytes) / admission.most_episodes / 2**20:.2f} | {turns} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=150, help="episodes of each case (default: %(default)s)")
    parser.add_argument("--in-flight", type=int, default=100, help="episodes at the same time (default: %(default)s)")
    parser.add_argument("--think", type=float, default=1.0, help="seconds that the server takes (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8771, help="of the server, on the loopback (default: %(default)s)")
    parser.add_argument("--case", action="append", choices=CASES, help="form of the cache and form sent (default: all)")
    parser.add_argument("--videos", type=Path, help="folder that keeps the video for the next time")
    arguments = parser.parse_args()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(arguments.port, arguments.think), daemon=True
    )
    server.start()
    time.sleep(3)
    url = f"http://127.0.0.1:{arguments.port}/v1"
    print(f"{arguments.in_flight} in flight, {arguments.episodes} episodes, the server thinks {arguments.think:g} s")
    columns = [
        "cache",
        "sent",
        "CPU ms a turn",
        "loop late p50 / p99 / max, ms",
        "loop busy p99 / max, CPU ms",
        "response p50 / p95, s",
    ]
    columns += ["MiB on the disk an episode", "MiB of memory an episode", "turns", "s"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    try:
        with tempfile.TemporaryDirectory(dir=arguments.videos and arguments.videos.resolve()) as name:
            video = make_video(arguments.videos or Path(name))
            for case in arguments.case or CASES:
                print(asyncio.run(measure(*case.split(":"), url, video, Path(name), arguments)), flush=True)
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
