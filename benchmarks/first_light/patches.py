# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Stage c: the Qwen-VL image processor's patch arithmetic, made on the device, against the CPU's."""

from __future__ import annotations

import torch

from benchmarks.first_light.record import Record
from benchmarks.gae import seconds

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's images, red, green, blue; for pixels between 0 and 1."""


def make_patches(frames: torch.Tensor, *, patch_px: int = 14, merge: int = 2, temporal: int = 2) -> torch.Tensor:
    """Cut frames into the patches that a Qwen-VL vision tower reads.

    Args:
        frames: (frames, 3, height, width) uint8, sides multiples of patch_px * merge.
    Returns:
        (frames * patches, 3 * temporal * patch_px^2) float32, those of one visual token side by side; a single image
        fills the patch's `temporal` frames. Bit for bit the image processor's pixel_values on the CPU.
    """
    # Rescaling by 1/255 is folded into mean and deviation, as the processor does: other bits otherwise.
    mean, std = ((torch.tensor(values) * (1.0 / (1 / 255))).to(frames.device).view(3, 1, 1) for values in (MEAN, STD))
    pixels = (frames.to(torch.float32) - mean) / std
    num, channels, height, width = pixels.shape
    side = patch_px * merge
    cells = pixels.view(num, channels, height // side, merge, patch_px, width // side, merge, patch_px)
    cells = cells.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    return cells.expand(-1, -1, -1, -1, -1, -1, temporal, -1, -1).reshape(-1, channels * temporal * patch_px**2)


def run(record: Record, *, rehearse: bool) -> None:
    device = "cpu" if rehearse else "cuda"
    for num_frames, size in ((2, (56, 84)),) if rehearse else ((32, (224, 392)), (80, (224, 392))):
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(0, 256, (num_frames, 3, *size), generator=generator, dtype=torch.uint8)
        on_cpu = make_patches(frames)
        moved = frames.to(device)
        on_device = make_patches(moved).cpu()
        record.write(
            f"{num_frames} frames of {size[0]} x {size[1]}",
            equal_bits=torch.equal(on_cpu, on_device),
            largest_difference=float((on_cpu - on_device).abs().max()),
            cpu_ms=1000 * seconds(lambda frames=frames: make_patches(frames), 3, "cpu"),
            device_ms=1000 * seconds(lambda moved=moved: make_patches(moved), 3, device),
            send_bytes_ms=1000 * seconds(lambda frames=frames: frames.to(device), 3, device),
            send_floats_ms=1000 * seconds(lambda floats=on_cpu: floats.to(device), 3, device),
        )
        torch.testing.assert_close(on_device, on_cpu, rtol=1e-6, atol=1e-6)
