# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What an episode costs with one model, measured: texts and frames in, tokens out.

Messages are rendered with verl's Continuous Token builder, made and called as the agent loop does, from the prompts of
the configuration and the longest question of the data.
"""

from __future__ import annotations

import dataclasses
from itertools import groupby
from typing import Any

from PIL import Image

from verl_videomtr.budget import TextTokens, largest_frame_tokens
from verl_videomtr.episode import Episode, Observation
from verl_videomtr.prompts import Prompts
from verl_videomtr.sample import question_text
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.video.plan import PoolConfig
from verl_videomtr.video.sizing import grid_size

USUAL_SIZE = (1080, 1920)
"""(height, width) that stands for the videos where none could be opened."""
TYPICAL_QUESTION = "What does the person in the red coat do right after the door has been opened?\n" + "\n".join(
    f"{letter}. They turn around and walk back to the table near the window" for letter in "ABCD"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Lengths in tokens, measured with the model's own tokenizer and processor."""

    text: TextTokens
    usual_frame: int
    """Visual tokens of the largest frame among the videos that were opened, or of one of 16:9."""
    largest_frame: int
    """Visual tokens of the largest frame that the configuration allows."""
    usual_of: str
    """What `usual_frame` is the size of, e.g. "in a 16:9 video"."""


class Renderer:
    """verl's Continuous Token builder, made as AgentLoopBase makes it."""

    def __init__(self, case: Case, *, mm_processor_kwargs: dict[str, Any] | None = None) -> None:
        from verl.utils.tokenizer import get_processor_token_id
        from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

        from verl_videomtr.verl_plugin.token_builder import fit_to_template
        from verl_videomtr.verl_plugin.turn_end import read_turn_end

        data, model = case.config.data, case.model
        if mm_processor_kwargs is None:
            mm_processor_kwargs = data.get("mm_processor_kwargs") or {}
        self.case = case
        self.builder = create_continuous_token_builder(
            model.tokenizer,
            hf_model_type=model.hf_config.model_type,
            chat_template_kwargs=data.get("apply_chat_template_kwargs", {}),
            mm_processor_kwargs=mm_processor_kwargs,
            processor=model.processor,
        )
        fit_to_template(self.builder)
        self.image_token_id = get_processor_token_id(model.processor, "image")
        self.closing_ids = list(
            read_turn_end(
                model.tokenizer, model.processor, **(data.get("apply_chat_template_kwargs") or {})
            ).closing_ids
        )

    def open(
        self, episode: Episode, observation: Observation, size: tuple[int, int]
    ) -> tuple[list[dict[str, Any]], list[int]]:
        """The first messages of an episode, and their tokens."""
        message = _message(observation, size)
        system = episode.system_text
        messages = ([{"role": "system", "content": system}] if system else []) + [message]
        ids = list(self.builder.build_initial_tokens(messages, images=_images(message)))
        self.require_images(ids, len(observation.frames))
        return messages, ids

    def go_on(
        self,
        messages: list[dict[str, Any]],
        ids: list[int],
        reply: str,
        observation: Observation,
        size: tuple[int, int],
    ) -> int:
        """Add a reply and the next observation; return how many tokens the latter took."""
        # Of what closes a response, its first token is sampled; the rest comes with the next message.
        replied = [*ids, *self.case.model.tokenizer.encode(reply, add_special_tokens=False), *self.closing_ids[:1]]
        previous = [*messages, {"role": "assistant", "content": reply}]
        updated = [*previous, _message(observation, size)]
        merged = list(self.builder.merge_context_tokens(previous, updated, [*replied, *self.closing_ids[1:]]).token_ids)
        added = merged[len(replied) :]
        self.require_images(added, len(observation.frames))
        return len(added)

    def require_images(self, ids: list[int], num_images: int) -> None:
        runs = sum(token == self.image_token_id for token, _ in groupby(ids))
        if self.image_token_id is not None and runs != num_images:
            raise ValueError(f"{runs} runs of image placeholders for {num_images} images")

    def num_visual(self, ids: list[int]) -> int:
        return sum(token == self.image_token_id for token in ids)

    def frame_tokens(self, size: tuple[int, int]) -> int:
        """Visual tokens of one frame of that (height, width), by really running the processor."""
        message = _message(Observation(parts=(0, "?")), size)
        ids = list(self.builder.build_initial_tokens([message], images=_images(message)))
        return self.num_visual(ids)


def measure_text(renderer: Renderer, size: tuple[int, int]) -> TextTokens:
    """Measure what surrounds the frames, at its longest: the last frames of the longest video, the longest question."""
    case = renderer.case
    config = case.settings.episode
    samples = [sample for rows in case.samples.values() for sample in rows]
    questions = [question_text(sample) for sample in samples] or [TYPICAL_QUESTION]
    duration = max((s.duration_seconds or 0.0 for s in samples), default=0.0) or 3600.0
    last = config.pool_size - 1

    def start(num_frames: int) -> tuple[Episode, Observation]:
        episode = Episode(
            config=dataclasses.replace(config, initial_frames=num_frames),
            prompts=Prompts.load(case.settings.prompts),
            question=max(questions, key=len),
            times_seconds=[(i + 0.5) * duration / config.pool_size for i in range(config.pool_size)],
            duration_seconds=duration,
        )
        return episode, episode.reset()

    visual = renderer.frame_tokens(size)
    episode, observation = start(1)
    first = len(renderer.open(episode, observation, size)[1]) - visual
    if config.max_turns == 1:
        second = len(renderer.open(*start(min(2, config.frame_budget)), size)[1]) - visual
        frame = max(second - first - visual, 0) or TextTokens().frame
        return TextTokens(instructions=first - frame, message=0, frame=frame)

    def look(text: str) -> tuple[int, int]:
        episode, observation = start(1)
        messages, ids = renderer.open(episode, observation, size)
        reply = f"<think></think>{text}"
        answered = episode.step(reply)
        assert answered is not None
        return renderer.go_on(messages, ids, reply, answered, size), len(answered.frames)

    if config.unit == "seconds":
        step = duration / config.pool_size
        ranges = {1: (duration - step, duration - 1e-3), 2: (duration - 2 * step, duration - 1e-3)}
    else:
        ranges = {1: (last, last), 2: (max(0, last - 1), last)}
    one, num_one = look(f"<retrieve>{ranges[1][0]},{ranges[1][1]}</retrieve>")
    two, num_two = look(f"<retrieve>{ranges[2][0]},{ranges[2][1]}</retrieve>")
    invalid, _ = look("neither tag")
    frame = (two - one) // (num_two - num_one) - visual if num_two > num_one else TextTokens().frame
    # One more: a response that ran into its limit is closed by a token that it did not sample.
    message = max(one - num_one * (visual + frame), invalid) + 1
    return TextTokens(instructions=first - frame - message, message=message, frame=frame)


def _message(observation: Observation, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    content = [
        {"type": "image", "image": Image.new("RGB", (width, height), (part % 256, 128, 64))}
        if isinstance(part, int)
        else {"type": "text", "text": part}
        for part in observation.parts
    ]
    return {"role": "user", "content": content}


def _images(message: dict[str, Any]) -> list[Image.Image]:
    return [part["image"] for part in message["content"] if part["type"] == "image"]


def largest_size(pool: PoolConfig) -> tuple[int, int]:
    """The (height, width) of the most visual tokens that a pool may serve, as square as that number allows."""
    if pool.size is not None:
        return pool.size
    tokens = largest_frame_tokens(pool)
    rows = next(rows for rows in range(int(tokens**0.5), 0, -1) if tokens % rows == 0)
    while tokens // rows > 100 * rows:  # a prime: processors refuse a strip
        tokens -= 1
        rows = next(rows for rows in range(int(tokens**0.5), 0, -1) if tokens % rows == 0)
    return rows * pool.factor_px, tokens // rows * pool.factor_px


def usual_size(case: Case) -> tuple[tuple[int, int], str]:
    """The (height, width) of the usual frame, and what it is that of."""
    pool = case.settings.video.pool
    if pool.size is not None:
        return pool.size, "by videomtr.video.pool.size"
    if case.frame_sizes:
        return max(case.frame_sizes, key=lambda size: size[0] * size[1]), "in the largest video opened"
    size = grid_size(*USUAL_SIZE, factor_px=pool.factor_px, min_pixels=pool.min_pixels, max_pixels=pool.max_pixels)
    return size, "in a 16:9 video"
