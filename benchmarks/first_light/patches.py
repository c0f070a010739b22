# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Stage c: patches made on the device from frames as bytes, against patches made on the CPU and sent as floats.

Both through `verl_videomtr.patches`, which is what training rows go through: the model's own image processor.
"""

from __future__ import annotations

import torch
import transformers

from benchmarks.first_light.record import Record
from benchmarks.gae import seconds
from verl_videomtr.patches import Patches

CASES = {
    "Qwen2.5-VL, 32 frames of 224 x 392": (14, 32, (224, 392)),
    "Qwen2.5-VL, 80 frames of 224 x 392": (14, 80, (224, 392)),
    "Qwen2.5-VL, 256 frames of 224 x 392": (14, 256, (224, 392)),
    "Qwen3-VL, 32 frames of 224 x 384": (16, 32, (224, 384)),
    "Qwen2.5-VL, 32 frames that it resizes, of 230 x 400": (14, 32, (230, 400)),
}
TINY = {"tiny": (14, 2, (56, 84)), "tiny, resized": (14, 2, (60, 90))}
ROUNDS = 5


def run(record: Record, *, rehearse: bool) -> None:
    device = "cpu" if rehearse else "cuda"
    for name, (patch_px, num_frames, size) in (TINY if rehearse else CASES).items():
        patches = Patches(transformers.Qwen2VLImageProcessor(patch_size=patch_px))
        generator = torch.Generator().manual_seed(0)
        frames = list(torch.randint(0, 256, (num_frames, *size, 3), generator=generator, dtype=torch.uint8))
        on_cpu = patches.pixels(frames)
        on_device = patches.pixels(frames, device=device).cpu()
        record.write(
            name,
            equal_bits=torch.equal(on_cpu, on_device),
            largest_difference=float((on_cpu - on_device).abs().max()),
            frame_bytes=sum(frame.nbytes for frame in frames),
            patch_bytes=on_cpu.nbytes,
            cpu_ms_a_frame=_ms(lambda patches=patches, frames=frames: patches.pixels(frames), "cpu", num_frames),
            send_floats_ms_a_frame=_ms(lambda floats=on_cpu: floats.to(device), device, num_frames),
            send_bytes_and_make_ms_a_frame=_ms(
                lambda patches=patches, frames=frames: patches.pixels(frames, device=device), device, num_frames
            ),
        )


def _ms(work, device: str, num_frames: int) -> float:
    return 1000 * seconds(work, ROUNDS, device) / num_frames
