# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The tool `retrieve_frames` for verl's stock `tool_agent` loop: a native call in, frames and a text out.

verl makes an instance of a tool for every call, so the state of an episode cannot live there: it lives in the
conversation, where `tool_dataset` put it. What goes wrong inside `execute` verl tells to the policy as a message and
trains on; so a failure is kept and raised from `release`, which ends the trajectory as in the `video_mtr` loop.
"""

from __future__ import annotations

import logging
from typing import Any

from verl.tools.base_tool import BaseTool
from verl.tools.schemas import ToolResponse

from verl_videomtr.tool_calls import TOOL_NAME, ToolEpisode
from verl_videomtr.video.errors import VideoError

logger = logging.getLogger(__name__)

EPISODE_KEY = "videomtr_episode"
"""Key of the opening message that holds the running `ToolEpisode`; chat templates do not look at it."""


class RetrieveFramesTool(BaseTool):
    """Look closer at a stretch of the video; one object serves all episodes of a worker."""

    def __init__(self, config: dict[str, Any], tool_schema: Any) -> None:
        super().__init__(config, tool_schema)
        self._failures: dict[str, Exception] = {}

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        """Answer one call; the record of the episode so far goes into the trajectory's `extra_fields`.

        Args:
            parameters: the call's arguments, as the policy wrote them.
            kwargs: verl's `agent_data`.
        """
        agent_data = kwargs["agent_data"]
        try:
            play = _find_episode(agent_data.messages)
            text, images = await play.call(
                parameters,
                message_number=agent_data.assistant_turns,
                num_calls=len(agent_data.tool_calls),
                response=str(agent_data.messages[-1].get("content", "")),
            )
        except Exception as error:
            self._failures[instance_id] = error
            return ToolResponse(), 0.0, {}
        # A user's own reward function finds it in extra_info.
        agent_data.extra_fields[TOOL_NAME] = play.episode.record()
        return (ToolResponse(text=text, image=images) if images else ToolResponse(text=text)), 0.0, {}

    async def release(self, instance_id: str, **kwargs: Any) -> None:
        """End the trajectory if its call failed."""
        error = self._failures.pop(instance_id, None)
        if error is not None:
            logger.error(
                "a call of %s failed, its prompt is left out: %s",
                TOOL_NAME,
                error,
                exc_info=None if isinstance(error, VideoError) else error,
            )
            raise error


def _find_episode(messages: list[dict[str, Any]]) -> ToolEpisode:
    for message in messages:
        if EPISODE_KEY in message:
            return message[EPISODE_KEY]
    raise RuntimeError(
        f"{TOOL_NAME} was called in a conversation without an episode; expected the rows to be read by "
        "verl_videomtr.verl_plugin.tool_dataset.ToolCallDataset; add +videomtr/loop=tool_agent to the command"
    )
