"""The token side of an episode: observations and sampled responses in, rows of token ids out.

A row is a prompt and everything behind it. While the context only grows, an episode is one row. When the window drops
the oldest turns, the next response is sampled behind another context, so a new row begins: its prompt holds the
instructions and the turns that stay, and each response is trained exactly where it was sampled.

Sampled ids are kept as they came and messages are added through verl's Continuous Token builder; of a dropped context
nothing is tokenised again but the environment's own message that now stands first.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from PIL import Image

from verl_videomtr.episode import Episode, Observation

if TYPE_CHECKING:
    from verl_videomtr.verl_plugin.agent_loop import VideoMTRAgentLoop


@dataclasses.dataclass(kw_only=True)
class Row:
    """A prompt, and the responses that were sampled behind it with the messages between them."""

    first_turn: int
    """The oldest turn in the context."""
    ids: list[int]
    """Prompt and response token ids."""
    num_prompt_tokens: int
    images: list[Image.Image]
    """Those of the whole row, in the order of their placeholders."""
    messages: list[dict[str, Any]]
    """What the ids say, as chat messages."""
    response_starts: dict[int, int]
    """Turn -> where its response starts in `ids`, for every turn whose response the row holds."""
    mask: list[int] = dataclasses.field(default_factory=list)
    """1 for sampled tokens, 0 for messages, from the end of the prompt on."""
    logprobs: list[float] = dataclasses.field(default_factory=list)

    @property
    def prompt_ids(self) -> list[int]:
        return self.ids[: self.num_prompt_tokens]

    @property
    def response_ids(self) -> list[int]:
        return self.ids[self.num_prompt_tokens :]


class Play:
    """One running episode.

    Attributes:
        rows: the rows so far; the last one is open.
        turn_rows: row of each turn.
        turn_spans: [start, end) of each turn's sampled tokens, counted from the end of its row's prompt.
    """

    def __init__(self, loop: VideoMTRAgentLoop, episode: Episode, path: str, sampling_params: dict[str, Any]) -> None:
        self.loop = loop
        self.episode = episode
        self.path = path
        self.sampling_params = sampling_params
        self.request_id = uuid4().hex
        self.rows: list[Row] = []
        self.turn_rows: list[int] = []
        self.turn_spans: list[list[int]] = []
        self.server_fields: dict[str, Any] = {}
        self.num_preempted = -1
        self.seconds = {"frames": 0.0, "generate": 0.0}
        self._system: list[dict[str, Any]] = []
        self._shown: list[tuple[dict[str, Any], list[Image.Image]]] = []
        self._was_cut = False
        self._is_out_of_room = False

    async def run(self) -> None:
        """Play to the end."""
        observation: Observation | None = self.episode.reset()
        if system := self.episode.system_text:
            self._system = [{"role": "system", "content": system}]
        assert observation is not None
        self._shown.append(await self._render(observation))
        self.rows.append(await self._open_row(0))
        while True:
            if self._room(self.rows[-1]) < 1:
                self.episode.truncate()
                return
            response = await self._respond()
            observation = self.episode.step(response, out_of_room=self._is_out_of_room)
            if observation is None:
                return
            if not await self._show(observation):
                self.episode.truncate()
                return

    def _room(self, row: Row) -> int:
        """Tokens that a row may still take."""
        config = self.loop.rollout_config
        room = config.response_length - len(row.mask)
        if config.max_model_len is not None:
            room = min(room, config.max_model_len - len(row.ids))
        return room

    async def _open_row(self, turn: int) -> Row:
        """Begin a context with the observation of one turn."""
        message, images = self._shown[turn]
        messages = [*self._system, message]
        ids = list(await self.loop.ct_build_initial_tokens(messages, images=images))
        return Row(
            first_turn=turn,
            ids=ids,
            num_prompt_tokens=len(ids),
            images=list(images),
            messages=messages,
            response_starts={},
        )

    async def _respond(self) -> str:
        """Sample one response; append its tokens as they came."""
        row = self.rows[-1]
        limit = min(self.loop.settings.max_response_tokens, self._room(row))
        started = time.monotonic()
        output = await self.loop.server_manager.generate(
            request_id=self.request_id,
            prompt_ids=row.ids,
            sampling_params={**self.sampling_params, "max_tokens": limit},
            image_data=self._as_sent(row.images),
        )
        self.seconds["generate"] += time.monotonic() - started
        self._merge_server_fields(output)
        tokens = list(output.token_ids)
        tokenizer: Any = self.loop.tokenizer
        # Templates of thinking models open the thought themselves: the policy continues it, the parser must see it.
        opening = "<think>" if tokenizer.decode(row.ids[-8:]).rstrip().endswith("<think>") else ""
        start = len(row.mask)
        row.response_starts[len(self.turn_spans)] = len(row.ids)
        merged, row.mask, row.logprobs = await self.loop.ct_merge_assistant_token(
            row.ids, tokens, row.mask, row.logprobs, list(output.log_probs or [0.0] * len(tokens))
        )
        row.ids = list(merged.token_ids)
        self.turn_rows.append(len(self.rows) - 1)
        self.turn_spans.append([start, len(row.mask)])
        self._was_cut = len(tokens) >= limit and tokens[-1] != tokenizer.eos_token_id
        self._is_out_of_room = self._was_cut and limit < self.loop.settings.max_response_tokens
        text = opening + tokenizer.decode(tokens, skip_special_tokens=True)
        row.messages = [*row.messages, {"role": "assistant", "content": text}]
        return text

    def _as_sent(self, images: list[Image.Image]) -> list[Any]:
        """Make of images what travels to the server: arrays, which Ray shares where it would pickle images."""
        if self.loop.rollout_config.name != "vllm":
            return images
        return [np.asarray(image) for image in images]

    async def _show(self, observation: Observation) -> bool:
        """Append an observation with its images, or nothing at all if no response would fit behind it."""
        self._shown.append(await self._render(observation))
        row, num_removed = await self._continued(self.rows[-1])
        slides = self.episode.context_start > row.first_turn
        if slides:
            row = await self._slid(row, self.episode.context_start)
        if self._room(row) < 1 or row.num_prompt_tokens > self.loop.rollout_config.prompt_length:
            return False
        if slides:
            self.rows.append(row)
        else:
            self.rows[-1] = row
            # Some families' boundary tokens are taken off the response again.
            self.turn_spans[-1][1] -= num_removed
        return True

    async def _continued(self, row: Row) -> tuple[Row, int]:
        """Append the newest observation to a copy of the row; also return how many of its last tokens went for it."""
        message, images = self._shown[-1]
        ids, mask, logprobs = list(row.ids), list(row.mask), list(row.logprobs)
        tokenizer: Any = self.loop.tokenizer
        end_token = tokenizer.eos_token_id
        if self._was_cut and end_token is not None:
            # The response ran into its length limit: close the message for it. It did not sample this token.
            ids, mask, logprobs = ids + [end_token], mask + [0], logprobs + [0.0]
        messages = [*row.messages, message]
        merged, mask, logprobs = await self.loop.ct_merge_context_msg(row.messages, messages, ids, mask, logprobs)
        continued = dataclasses.replace(
            row,
            ids=list(merged.token_ids),
            images=row.images + images,
            messages=messages,
            mask=mask,
            logprobs=logprobs,
        )
        return continued, merged.removed_prefix_token_count

    async def _slid(self, row: Row, first_turn: int) -> Row:
        """Make the row whose prompt is `row` without the turns before `first_turn`."""
        opened = await self._open_row(first_turn)
        kept_from = row.response_starts[first_turn]
        shift = len(opened.ids) - kept_from
        num_dropped = 2 * (first_turn - row.first_turn)  # messages: an observation and a response a turn
        ids = opened.ids + row.ids[kept_from:]
        return Row(
            first_turn=first_turn,
            ids=ids,
            num_prompt_tokens=len(ids),
            images=[image for _, images in self._shown[first_turn:] for image in images],
            messages=[*self._system, *row.messages[len(self._system) + num_dropped :]],
            response_starts={turn: at + shift for turn, at in row.response_starts.items() if turn >= first_turn},
        )

    async def _render(self, observation: Observation) -> tuple[dict[str, Any], list[Image.Image]]:
        """Turn an observation into a chat message and its images, in the order in which they are shown."""
        started = time.monotonic()
        frames = await self.loop.worker.frames.read(self.path, observation.frames)
        images = [Image.fromarray(frame) for frame in frames]
        self.seconds["frames"] += time.monotonic() - started
        remaining = iter(images)
        content = [
            {"type": "image", "image": next(remaining)} if isinstance(part, int) else {"type": "text", "text": part}
            for part in observation.parts
        ]
        return {"role": "user", "content": content}, images

    def _merge_server_fields(self, output: Any) -> None:
        """Keep what verl reads of the servers' answers: the oldest and newest weights that took part."""
        if output.num_preempted is not None:
            self.num_preempted = max(self.num_preempted, 0) + output.num_preempted
        oldest = self.server_fields.get("min_global_steps")
        self.server_fields.update(output.extra_fields)
        if oldest is not None:
            self.server_fields["min_global_steps"] = oldest
