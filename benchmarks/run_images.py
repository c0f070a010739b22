# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Count, in a real run, how often its images are preprocessed and what is sent: python -m benchmarks.run_images

Two steps of verl's own trainer on synthetic videos with the tests' tiny model: this module is loaded into every process
of the run, wraps the image processor, the client of the inference servers and the function that makes training rows,
and writes down what passes. The table adds that up; an image counts as shown once for every row that it is in.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = "VIDEOMTR_COUNT_DIR"
CALLERS = (
    ("vllm.", "", "vLLM server"),
    ("verl.utils.tokenizer.continuous_token", "", "token builder"),
    ("verl_videomtr.verl_plugin.sized_images", "", "token builder, a blank image a size"),
    ("verl_videomtr.verl_plugin.image_tokens", "", "what the engine is sent, a blank image a size"),
    ("verl_videomtr.verl_plugin.frame_rows", "", "trial of a size"),
    ("verl_videomtr.verl_plugin.row_inputs", "", "training row"),
    ("verl_videomtr.verl_plugin.device_patches", "", "training worker"),
)
"""(module, function, what it is called in the table)."""


def write(**record: Any) -> None:
    """Append one record to this process's file."""
    with (Path(os.environ[FOLDER]) / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def caller() -> str:
    """Which of the known callers is on the stack."""
    frame = sys._getframe(2)
    last = "other"
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        for prefix, function, name in CALLERS:
            if module.startswith(prefix) and function in ("", frame.f_code.co_name):
                return name
        if module.startswith(("verl.", "verl_videomtr.")):
            last = module
        frame = frame.f_back
    return last


def count_processing(module: Any) -> None:
    """Wrap the image processor of `module`."""
    cls = module.Qwen2VLImageProcessor
    preprocess = cls.preprocess

    def counted(this: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        result = preprocess(this, images, *args, **kwargs)
        spent = time.thread_time() - began
        write(what="processed", where=caller(), images=len(result["image_grid_thw"]), cpu=spent)
        return result

    cls.preprocess = counted


def count_requests(module: Any) -> None:
    """Wrap the client of the inference servers."""
    cls = module.LLMServerClient
    generate = cls.generate

    async def counted(this: Any, request_id: str, *, image_data: Any = None, **kwargs: Any) -> Any:
        beside: list[pickle.PickleBuffer] = []
        inside = len(pickle.dumps(image_data, protocol=5, buffer_callback=beside.append))
        kinds = sorted({type(image).__name__ for image in image_data or ()})
        size = sum(buffer.raw().nbytes for buffer in beside)
        write(what="sent", kinds=kinds, images=len(image_data or ()), inside=inside, beside=size)
        return await generate(this, request_id, image_data=image_data, **kwargs)

    cls.generate = counted


def count_rows(module: Any) -> None:
    """Wrap the function that makes the multimodal part of a training row, in each agent-loop worker as it starts.

    The worker's own module is not waited for: Ray may import it first, and verl, this module with it, halfway through.
    """
    cls = module.AgentLoopWorker
    start = cls.__init__

    def counted_start(this: Any, *args: Any, **kwargs: Any) -> None:
        start(this, *args, **kwargs)
        compute = this._compute_multi_modal_inputs

        def counted(output: Any, input_ids: Any) -> Any:
            row = compute(output, input_ids)
            pixels = row.get("videomtr_frames") or [row["pixel_values"]]
            size, dtype = sum(part.nbytes for part in pixels), str(pixels[0].dtype)
            write(what="row", images=len(row["image_grid_thw"]), bytes=size, dtype=dtype)
            return row

        this._compute_multi_modal_inputs = counted

    cls.__init__ = counted_start


def hook() -> None:
    """Wrap each module when the process imports it."""
    from wrapt import register_post_import_hook

    register_post_import_hook(count_processing, "transformers.models.qwen2_vl.image_processing_qwen2_vl")
    register_post_import_hook(count_requests, "verl.workers.rollout.llm_server")
    register_post_import_hook(count_rows, "verl.experimental.agent_loop.agent_loop")


def run(folder: Path, *, steps: int, batch: int) -> float:
    """Train in `folder`; return the seconds that the steps took."""
    sys.path.insert(0, str(ROOT / "tests/support"))
    from trainer_runs import build_model, command_of, environment_of, make_data, read_metrics

    data = make_data(folder / "data", num_train=steps * batch)
    overrides = (f"data.train_batch_size={batch}", f"trainer.total_training_steps={steps}")
    command = command_of(folder, *overrides, data=data, model=build_model())
    train_counted(folder, command, environment_of(folder))
    return sum(entry["timing_s/step"] for entry in read_metrics(folder).values())


def train_counted(folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run the trainer with this module in all its processes; what they count is in `folder`'s counts/."""
    variables = {**environment, FOLDER: str(folder / "counts")}
    variables["VERL_USE_EXTERNAL_MODULES"] += f",{__spec__.name}"
    (folder / "counts").mkdir(parents=True)
    with (folder / "train.log").open("wb") as log:
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        print("\n".join((folder / "train.log").read_text(errors="replace").splitlines()[-40:]))
        raise SystemExit(f"the trainer exited with {done.returncode}")


def read_records(folder: Path) -> list[dict[str, Any]]:
    """What all processes wrote down."""
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]


def summarize(folder: Path, step_seconds: float) -> None:
    """Print what the processes wrote down."""
    records = read_records(folder)
    rows = [record for record in records if record["what"] == "row"]
    shown = sum(row["images"] for row in rows)
    images: dict[str, int] = defaultdict(int)
    cpu: dict[str, float] = defaultdict(float)
    for record in records:
        if record["what"] == "processed":
            images[record["where"]] += record["images"]
            cpu[record["where"]] += record["cpu"]
    print(f"{len(rows)} rows with {shown} images; {step_seconds:.0f} s of steps; {os.cpu_count()} cores")
    print("| where | images preprocessed | times a shown image | CPU s |")
    print("|---|---|---|---|")
    for where in images:
        print(f"| {where} | {images[where]} | {images[where] / shown:.2f} | {cpu[where]:.2f} |")
    print(f"| sum | {sum(images.values())} | {sum(images.values()) / shown:.2f} | {sum(cpu.values()):.2f} |")
    sent = [record for record in records if record["what"] == "sent"]
    kinds = sorted({kind for record in sent for kind in record["kinds"]})
    inside, beside = (sum(record[key] for record in sent) for key in ("inside", "beside"))
    print(
        f"{len(sent)} requests with {sum(record['images'] for record in sent)} images as {', '.join(kinds)}: "
        f"{inside:,} bytes pickled, {beside:,} beside the pickle"
    )
    print(f"training rows: {sum(row['bytes'] for row in rows):,} bytes of {rows[0]['dtype']}")


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        seconds = run(Path(name), steps=2, batch=8)
        summarize(Path(name) / "counts", seconds)


if os.environ.get(FOLDER) and __name__ != "__main__":
    hook()

if __name__ == "__main__":
    main()
