# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The data set of the stock `tool_agent` loop: the rows of the `video_mtr` loop, with the overview before the question.

    parquet row -> raw_prompt that carries its sample -> (in the agent-loop worker) opening messages with pictures

verl's loops ask the data set's class for the pictures of a prompt, in the worker that plays it. There the video is
opened and the overview put in, so that neither the driver nor a row ever holds a picture.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, ClassVar

from omegaconf import DictConfig
from PIL import Image
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_videomtr.prompts import Prompts
from verl_videomtr.sample import Sample, question_text
from verl_videomtr.settings import load_settings
from verl_videomtr.tool_calls import TOOL_NAME, ToolEpisode
from verl_videomtr.verl_plugin.retrieve_tool import EPISODE_KEY
from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.service import FrameService

logger = logging.getLogger(__name__)

AGENT_NAME = "tool_agent"
ROW_KEY = "videomtr_row"
"""Key of the prompt's message under which the row travels to the worker."""


class ToolCallDataset(RLHFDataset):
    """verl's data set for `data.custom_cls`, checked against the tool before any worker starts."""

    _shared: ClassVar[_WorkerState | None] = None
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_tool_settings(self.config, self.tool_schemas)
        check_template(self.processor, self.tool_schemas)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return verl's row; its prompt is the question's text, with the sample beside it."""
        row = super().__getitem__(item)
        sample = Sample.from_row(row)
        prompt = {"role": "user", "content": question_text(sample), ROW_KEY: sample.to_row()}
        return {**row, "agent_name": AGENT_NAME, "raw_prompt": [prompt]}

    @classmethod
    async def process_multi_modal_info(  # type: ignore[override]  # verl's own returns None for what is absent
        cls, messages: list[dict[str, Any]], image_patch_size: Any, config: DictConfig
    ) -> tuple[list[Image.Image] | None, list[Any] | None, list[Any] | None]:
        """Open the row's episode: replace the messages, in place, by its opening, and return the pictures.

        The loop goes on with the list that it hands over here; tests/verl_plugin/test_drift.py holds it to that.

        Raises:
            VideoError: the video cannot be used; verl leaves the prompt out and logs it.
        """
        if ROW_KEY not in messages[0]:
            return await super().process_multi_modal_info(messages, image_patch_size, config)
        sample = Sample.from_row(messages[0][ROW_KEY])
        worker = cls._worker_state(config)
        try:
            play = await ToolEpisode.open(
                sample,
                config=worker.settings.episode,
                prompts=worker.prompts,
                root=worker.settings.video.root,
                frames=worker.frames,
                max_text_chars=config.multi_turn.max_tool_response_length,
            )
            opening, images = await play.opening()
        except VideoError as error:
            logger.error("sample %r of %r is left out: %s", sample.sample_id, sample.data_source, error)
            raise
        messages[:] = opening
        messages[-1][EPISODE_KEY] = play
        return images, None, None

    @classmethod
    def _worker_state(cls, config: DictConfig) -> _WorkerState:
        with cls._shared_lock:
            if cls._shared is None:
                cls._shared = _WorkerState(config)
            return cls._shared


class _WorkerState:
    """What the episodes of one worker process share."""

    def __init__(self, config: DictConfig) -> None:
        self.settings = load_settings(config)
        self.prompts = Prompts.load(self.settings.prompts)
        video = self.settings.video
        self.frames = FrameService(
            config=video.pool, cache=video.cache.open(), workers=video.workers, max_open_pools=video.open_pools
        )


def check_tool_settings(config: DictConfig, tool_schemas: list[dict[str, Any]] | None) -> None:
    """Raise ValueError for the first contradiction between episode, loop and tool; the message names the fix."""
    missing = [key for key in ("videomtr", "multi_turn") if key not in config]
    if missing:
        raise ValueError(
            f"data.{missing[0]} is missing; expected what +videomtr/loop=tool_agent sets beside data.custom_cls; "
            "add +videomtr/loop=tool_agent to the command"
        )
    episode, loop = load_settings(config).episode, config.multi_turn
    where = "actor_rollout_ref.rollout.multi_turn"
    if episode.max_turns == 1:
        raise ValueError(
            "videomtr.episode.max_turns=1 leaves no turn for a call; expected at least 2; "
            "set videomtr.episode.max_turns=3, or drop +videomtr/loop=tool_agent"
        )
    if episode.slides:
        raise ValueError(
            f"videomtr.episode.max_turns={episode.max_turns} with window={episode.window}: the tool_agent loop keeps "
            f"every turn in the context; expected max_turns <= window + 1; "
            f"set videomtr.episode.window={episode.max_turns - 1}"
        )
    if loop.max_assistant_turns != episode.max_turns:
        raise ValueError(
            f"{where}.max_assistant_turns={loop.max_assistant_turns} with videomtr.episode.max_turns="
            f"{episode.max_turns}; expected the same; set {where}.max_assistant_turns={episode.max_turns}"
        )
    if loop.max_parallel_calls != 1:
        raise ValueError(
            f"{where}.max_parallel_calls={loop.max_parallel_calls}; expected 1: a message is one turn with one call; "
            f"set {where}.max_parallel_calls=1"
        )
    schemas = {schema["function"]["name"]: schema["function"] for schema in tool_schemas or ()}
    if TOOL_NAME not in schemas:
        raise ValueError(
            f"{where}.tool_config_path={loop.tool_config_path} gives the tools {sorted(schemas)}; expected "
            f"{TOOL_NAME}; leave the key as +videomtr/loop=tool_agent has it (verl logs why a file does not load)"
        )
    kinds = {kind["type"] for kind in schemas[TOOL_NAME]["parameters"]["properties"].values()}
    expected = "integer" if episode.unit == "index" else "number"
    if kinds != {expected}:
        raise ValueError(
            f"videomtr.episode.unit={episode.unit} with a schema whose arguments are {sorted(kinds)}; expected "
            f"{expected}; {loop.tool_config_path}; use the file that ends in _{episode.unit}.yaml"
        )


def check_template(processor: Any, tool_schemas: list[dict[str, Any]] | None) -> None:
    """Raise ValueError unless the model's chat template shows tools to the model, and their answers' pictures."""
    if processor is None:
        raise ValueError(
            "the model has no multimodal processor that verl accepts; expected a vision-language checkpoint with its "
            "processor files beside it; see actor_rollout_ref.model.path"
        )
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": TOOL_NAME, "arguments": {}}}]},
        {"role": "tool", "content": [{"type": "image"}, {"type": "text", "text": "?"}]},
    ]
    shown = processor.apply_chat_template(messages, tools=tool_schemas, tokenize=False)
    image = getattr(processor, "image_token", None)
    if TOOL_NAME not in shown.partition("?")[0] or (image is not None and image not in shown):
        raise ValueError(
            f"the chat template of {type(processor).__name__} leaves out tools, or pictures in a tool's answer; "
            "expected one that renders both, such as Qwen3-VL's; "
            "choose another model, set actor_rollout_ref.model.custom_chat_template, or use the video_mtr loop"
        )
