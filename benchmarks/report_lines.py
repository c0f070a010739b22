# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Trajectory lines as a training run writes them, of any number, played by a policy that learns: for the report's load.

    python -m benchmarks.report_lines OUT --episodes 2000 [--videos 40] [--seed 0]

The episodes are real ones: `Episode` is played and the paper's reward pays; only the policy is a stand-in, which with
each step looks more often where the evidence lies and then answers right.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from verl_videomtr.episode import Episode, EpisodeConfig
from verl_videomtr.prompts import Prompts
from verl_videomtr.rewards import RewardBreakdown, reward_breakdown

GROUP = 8
"""Rollouts of one prompt."""
SIZE = (90, 160)
"""(height, width) of the videos in pixels."""
FRAMES = 96
CONFIG = EpisodeConfig(pool_size=64, frame_budget=24, max_turns=3, initial_frames=12)
OBJECTS = ("umbrella", "red bicycle", "letter", "violin", "suitcase", "lantern", "map", "silver key")
PLACES = ("on the bridge", "behind the counter", "in the second room", "by the river", "at the station")
TYPES = ("action order", "needle", "plot", "counting")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument(
        "--episodes", type=int, default=2000, help="episodes of all steps together (default: %(default)s)"
    )
    parser.add_argument("--videos", type=int, default=40, help="different videos (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the policy's choices (default: %(default)s)")
    arguments = parser.parse_args(argv)
    write_run(arguments.out, episodes=arguments.episodes, videos=arguments.videos, seed=arguments.seed)
    print(f"{arguments.episodes} episodes in {arguments.out}")
    return 0


def write_run(
    out: Path, *, episodes: int, videos: int = 4, seed: int = 0, steps: int = 20, skill: float = 0.6,
    validation: int = 0,
) -> None:  # fmt: skip
    """Write a run's folder: videos, step_*.jsonl, val/step_*.jsonl and run.json.

    Args:
        skill: how often the policy of the last step looks at the evidence.
        validation: episodes of each of two validations, before and after; the same samples in both.
    """
    (out / "val").mkdir(parents=True, exist_ok=True)
    names = [write_video(out / "videos" / f"clip_{number:03d}.mp4", seed=number) for number in range(videos)]
    settings = {
        "videomtr": {"video": {"root": str(out.resolve())}, "prompts": "default", "episode": {"pool_size": 64}},
        "model": "stand-in",
    }
    (out / "run.json").write_text(json.dumps(settings), encoding="utf-8")
    player = _Player(names, seed=seed)
    steps = max(1, min(steps, episodes // GROUP))
    for step in range(1, steps + 1):
        first, last = (episodes * part // steps for part in (step - 1, step))
        lines = [
            player.line(n, step=step, split="train", skill=skill * step / steps, group=GROUP)
            for n in range(first, last)
        ]
        _write(out / f"step_{step:06d}.jsonl", lines)
    for step in (0, steps) if validation else ():
        lines = [player.line(n, step=step, split="val", skill=skill * step / steps, group=1) for n in range(validation)]
        _write(out / "val" / f"step_{step:06d}.jsonl", lines)


class _Player:
    """Plays samples over the same videos."""

    def __init__(self, videos: Sequence[str], *, seed: int) -> None:
        self._videos = videos
        self._seed = seed
        self._prompts = Prompts.load("default")

    def line(self, number: int, *, step: int, split: str, skill: float, group: int) -> dict[str, Any]:
        """Play one episode and write its record."""
        prompt = number // group
        sample = random.Random(f"{split} {prompt}")  # the same sample in every run and step
        rng = random.Random(f"{self._seed} {split} {step} {number}")
        thing, place = sample.choice(OBJECTS), sample.choice(PLACES)
        duration = sample.choice((48.0, 95.0, 640.0, 3610.0))
        start = sample.uniform(0, 0.9) * duration
        segments = [[round(start, 2), round(start + 0.06 * duration, 2)]]
        truth_letter = sample.choice("ABCD")
        options = [f"{letter}. {item}" for letter, item in zip("ABCD", sample.sample(OBJECTS, 4), strict=True)]
        question = f"What does the person {place} put down before reaching for the {thing}?\n" + "\n".join(options)
        episode = Episode(
            config=CONFIG,
            prompts=self._prompts,
            question=question,
            times_seconds=[(i + 0.5) * duration / 64 for i in range(64)],
            duration_seconds=duration,
            segments=[(s, e) for s, e in segments],
        )
        messages = list(_play(episode, rng, truth_letter, skill))
        record = episode.record()
        correct = episode.answer == truth_letter
        paid = reward_breakdown(
            correct=correct,
            format_ok=record["format_ok"],
            initial_iou=record["initial_iou"],
            retrieval_ious=record["retrieval_ious"],
        )
        return {
            "schema_version": 2, "status": "played", "step": step, "sample_id": f"{split}-{prompt:05d}",
            "uid": f"{split}-{step}-{prompt}", "session": number % group, "data_source": f"stand_in_{prompt % 2}",
            "split": split, "video": self._videos[prompt % len(self._videos)], "question": question,
            "ground_truth": truth_letter, "groups": {"task": TYPES[prompt % len(TYPES)]},
            "question_type": "multiple_choice",
            "options": options, "segments": segments, "extra_info": {}, "correct": correct,
            "turn_rows": [0] * len(paid.rewards),
            "turn_spans": [[k * 90, k * 90 + 60] for k in range(len(paid.rewards))],
            "turn_rewards": list(paid.rewards), "turn_components": _by_turn(paid, record), "gate_open": paid.gate_open,
            "components": {
                "acc": paid.accuracy, "fms": paid.fms, "format": paid.format, "gate_open": int(paid.gate_open)
            },
            "bonus": [0.5 if action == "retrieve" and step < 5 else 0.0 for action in record["actions"]],
            "policy_version": {"min": step - 1, "max": step - 1},
            "finish_reasons": ["stop"] * len(paid.rewards),
            "prompt_tokens": [900 + 700 * k for k in range(len(paid.rewards))],
            "response_tokens": [rng.randint(30, 220) for _ in paid.rewards],
            "values": [round(rng.uniform(0, 1), 3) for _ in paid.rewards],
            "returns": [round(sum(paid.rewards[k:]), 3) for k in range(len(paid.rewards))],
            "advantages": [round(sum(paid.rewards[k:]) - rng.uniform(0, 1), 3) for k in range(len(paid.rewards))],
            "seconds": {"frames": rng.uniform(0.05, 0.4), "generate": rng.uniform(0.5, 3.0)},
            "episode": {
                **record, "times_seconds": list(episode.times_seconds), "duration_seconds": duration,
                "truth": sorted(episode.truth or ()), "messages": messages,
                "returned": [list(turn.returned) or None for turn in episode.turns],
            },
        }  # fmt: skip


def _play(episode: Episode, rng: random.Random, truth_letter: str, skill: float) -> Iterator[list[str | int]]:
    """Play to the end; yield what the environment said before each response."""
    observation = episode.reset()
    truth = sorted(episode.truth or [0])
    seen = False
    while observation is not None:
        yield list(observation.parts)
        last = len(episode.turns) == CONFIG.max_turns - 1
        if not last and rng.random() < 0.35 + 0.6 * skill:
            aimed = rng.random() < skill
            centre = rng.choice(truth) if aimed else rng.randrange(64)
            start, end = max(0, centre - rng.randint(1, 6)), min(63, centre + rng.randint(1, 6))
            seen = seen or start <= truth[0] <= end
            thought = rng.choice(("The overview shows the room but not the moment itself", "I need to look closer"))
            response = (
                f"<think>{thought}; around frame {centre} something changes.</think><retrieve>{start},{end}</retrieve>"
            )
        elif rng.random() < 0.05:
            response = "<think>I am not sure what to do next.</think>"
        else:
            answer = truth_letter if seen or rng.random() < 0.3 else rng.choice("ABCD")
            thought = (
                "The close frames show it on the table." if seen else "Nothing decides it; I guess from the overview."
            )
            response = f"<think>{thought}</think><answer>{answer}</answer>"
        observation = episode.step(response)


def _by_turn(paid: RewardBreakdown, record: dict[str, Any]) -> list[dict[str, float]]:
    """Split each turn's reward into its components."""
    last = len(paid.rewards) - 1
    parts = []
    for k, reward in enumerate(paid.rewards):
        paid_format = 0.1 if record["format_ok"][k] and (k == last or paid.gate_open) else 0.0
        accuracy = paid.accuracy if k == last else 0.0
        parts.append({"fms": reward - paid_format - accuracy, "format": paid_format, "acc": accuracy})
    return parts


def write_video(path: Path, *, seed: int) -> str:
    """Write a short video in which a disc crosses a shaded ground, numbered by frame; return its path in the folder."""
    name = f"{path.parent.name}/{path.name}"
    if path.exists():
        return name
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    ground, ink = rng.integers(40, 160, 3), tuple(int(c) for c in rng.integers(150, 255, 3))
    height, width = SIZE
    shade = np.linspace(0.5, 1.3, width)[None, :, None] * np.linspace(1.1, 0.8, height)[:, None, None]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=8, options={"crf": "30", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(FRAMES):
            picture = Image.fromarray(np.clip(shade * ground, 0, 255).astype(np.uint8))
            draw = ImageDraw.Draw(picture)
            x, y = 15 + number * 1.3, 45 + 25 * np.sin(number / 9 + seed)
            draw.ellipse((x - 12, y - 12, x + 12, y + 12), fill=ink)
            draw.text((6, 4), str(number), fill=(255, 255, 255))
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                output.mux(packet)
        for packet in stream.encode():
            output.mux(packet)
    return name


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
