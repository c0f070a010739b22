"""The agent loop `video_mtr`: a dataset row in, one trajectory with a reward on every turn out.

It plays `Episode` with verl's language-model servers. Token ids of the policy are kept as they were sampled; messages
are added through verl's Continuous Token builder, so nothing is ever tokenised twice.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, ClassVar
from uuid import uuid4

import torch
import transfer_queue as tq
from omegaconf import DictConfig
from PIL import Image
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.utils.tokenizer import get_processor_token_id

from verl_videomtr.episode import Episode, Observation
from verl_videomtr.prompts import Prompts
from verl_videomtr.rewards import compute_score
from verl_videomtr.sample import AGENT_NAME, Sample, question_text, resolve_video
from verl_videomtr.scoring import score_episode
from verl_videomtr.trajectory import Trajectory
from verl_videomtr.verl_plugin.checks import check_config
from verl_videomtr.verl_plugin.settings import load_settings
from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.service import FrameService

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

LOST_PARTITION = "videomtr_lost"
"""TransferQueue partition through which workers tell the trainer of trajectories that they could not make."""

TRAJECTORY_FIELD = "videomtr"
"""Key of `extra_fields` under which a row carries its trajectory's record."""


class VideoMTROutput(AgentLoopOutput):
    """One trajectory; its rewards sit on the last token of each turn, where verl's own class has one scalar."""

    def as_dict(self) -> dict[str, Any]:
        output = super().as_dict()
        record = self.extra_fields[TRAJECTORY_FIELD]
        rewards = torch.zeros(output["response_mask"].shape, dtype=torch.float32)
        for (_, end), reward in zip(record["turn_spans"], record["turn_rewards"], strict=True):
            # A response without tokens ends where the one before it does; its reward, if any, goes there.
            rewards[max(end - 1, 0)] += reward
        output["rm_scores"] = rewards
        return output


class VideoMTRAgentLoop(AgentLoopBase):
    """verl's agent loop for one sample; a new instance plays each episode."""

    _shared: ClassVar[_WorkerState | None] = None
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError(
                f"actor_rollout_ref.model.path={self.config.actor_rollout_ref.model.path!r} has no multimodal "
                "processor that verl accepts; expected a vision-language checkpoint with its processor files beside it"
            )
        self.worker = self._worker_state(self.config)
        self.settings = self.worker.settings
        self.prompts = Prompts.load(self.settings.prompts)
        self.image_token_id = get_processor_token_id(self.processor, "image")

    async def run(  # type: ignore[override]  # verl's worker takes a list too
        self, sampling_params: dict[str, Any], **kwargs: Any
    ) -> VideoMTROutput | list[VideoMTROutput]:
        """Play one episode.

        Args:
            sampling_params: verl's sampling parameters; the length limit is set per turn.
            kwargs: the row's columns, and verl's uid, session_id and global_steps.
        Returns:
            The trajectory, or nothing where the video cannot be read.
        Raises:
            Exception: whatever failed; it is logged with the sample's id and reported to the trainer, as unreadable
                videos are, which counts both and stops the run where there are too many.
        """
        # verl has taken the agent's name from the row, and renamed the prompt.
        sample = Sample.from_row({**kwargs, "prompt": kwargs["raw_prompt"], "agent_name": AGENT_NAME})
        try:
            path = resolve_video(sample.video, self.settings.video.root)
            return await self._finish(sample, await self._play(sample, str(path), sampling_params))
        except Exception as error:
            unreadable = isinstance(error, VideoError)
            logger.error(
                "sample %r of %r is left out: %s", sample.sample_id, sample.data_source, error, exc_info=not unreadable
            )
            await tq.async_kv_put(
                key=f"{kwargs['uid']}_{kwargs['session_id']}",
                partition_id=LOST_PARTITION,
                tag={
                    "kind": "unreadable" if unreadable else "failed",
                    "sample_id": sample.sample_id,
                    "split": sample.split,
                    "error": f"{type(error).__name__}: {error}",
                },
            )
            if unreadable and self.worker.may_return_nothing:
                return []
            raise

    async def _play(self, sample: Sample, path: str, sampling_params: dict[str, Any]) -> _Play:
        """Open the video and play the episode to its end."""
        started = time.monotonic()
        pool = await self.worker.frames.pool(path)
        episode = Episode(
            config=self.settings.episode,
            prompts=self.prompts,
            question=question_text(sample),
            times_seconds=pool.times_seconds.tolist(),
            duration_seconds=pool.duration_seconds,
            segments=sample.segments,
        )
        play = _Play(self, episode, path, sampling_params)
        play.seconds["frames"] += time.monotonic() - started
        await play.run()
        return play

    @classmethod
    def _worker_state(cls, config: DictConfig) -> _WorkerState:
        """What all episodes of this worker process share; made by the first, checked once."""
        with cls._shared_lock:
            if cls._shared is None:
                cls._shared = _WorkerState(config)
            return cls._shared

    async def _finish(self, sample: Sample, play: _Play) -> VideoMTROutput:
        """Score the episode and put everything where verl and the trainer mode look for it."""
        if not play.mask:
            raise ValueError(
                f"the overview takes {len(play.ids)} tokens and leaves no room for a response in "
                f"actor_rollout_ref.rollout.max_model_len={self.rollout_config.max_model_len}; raise it, or lower "
                "videomtr.episode.frame_budget or videomtr.video.pool.max_pixels"
            )
        self._check_images(sample, play)
        record = play.episode.record()
        started = time.monotonic()
        score = await score_episode(self.worker.reward_fn, sample, record)
        trajectory = Trajectory(
            sample_id=sample.sample_id,
            data_source=sample.data_source,
            split=sample.split,
            video=sample.video,
            question=question_text(sample),
            ground_truth=sample.answer,
            groups=dict(sample.groups),
            turn_spans=play.turn_spans,
            turn_rewards=score.turn_rewards,
            components=score.components,
            correct=score.correct,
            episode=record,
            seconds=dict(play.seconds),
        )
        return VideoMTROutput(
            prompt_ids=play.prompt_ids,
            response_ids=play.response_ids,
            response_mask=play.mask,
            response_logprobs=play.logprobs if self.rollout_config.calculate_log_probs else None,
            multi_modal_data={"images": play.images},
            reward_score=float(sum(score.turn_rewards)),
            num_turns=2 * len(play.episode.turns),
            metrics=AgentLoopMetrics(
                generate_sequences=play.seconds["generate"],
                tool_calls=play.seconds["frames"],
                compute_score=time.monotonic() - started,
                num_preempted=play.num_preempted,
            ),
            extra_fields={
                **play.server_fields,
                TRAJECTORY_FIELD: trajectory.to_dict(),
                "reward_extra_info": {**trajectory.numbers(), **score.numbers},
            },
        )

    def _check_images(self, sample: Sample, play: _Play) -> None:
        """Compare image placeholders with images: a mismatch would crash, or mislead, the training forward pass."""
        if self.image_token_id is None:
            return
        ids = play.ids
        num_runs = sum(
            token == self.image_token_id and (i == 0 or ids[i - 1] != self.image_token_id)
            for i, token in enumerate(ids)
        )
        if num_runs != len(play.images):
            raise RuntimeError(
                f"{num_runs} image placeholders for {len(play.images)} images; expected as many; sample "
                f"{sample.sample_id!r}; the chat template or the processor does not render images one by one"
            )


class _WorkerState:
    """What the episodes of one worker process share: settings, frames, and the user's reward function, loaded once."""

    def __init__(self, config: DictConfig) -> None:
        self.settings = load_settings(config)
        check_config(config, self.settings)
        video = self.settings.video
        self.frames = FrameService(
            config=video.pool, cache=video.cache.open(), workers=video.workers, max_open_pools=video.open_pools
        )
        self.reward_fn: Any = get_custom_reward_fn(config) or compute_score
        filter_groups = config.algorithm.get("filter_groups")
        self.may_return_nothing = config.trainer.v1.trainer_mode == "sync" and not (
            filter_groups and filter_groups.get("enable")
        )
        """verl's synchronous trainer pads what is missing; elsewhere a group without rows must be a failed one."""


class _Play:
    """The token side of one running episode.

    Attributes:
        ids: prompt and response token ids so far.
        mask: 1 for sampled tokens, 0 for messages, from the end of the prompt on.
        turn_spans: [start, end) of each turn's sampled tokens, counted from the end of the prompt.
    """

    def __init__(self, loop: VideoMTRAgentLoop, episode: Episode, path: str, sampling_params: dict[str, Any]) -> None:
        self.loop = loop
        self.episode = episode
        self.path = path
        self.sampling_params = sampling_params
        self.request_id = uuid4().hex
        self.ids: list[int] = []
        self.num_prompt_tokens = 0
        self.mask: list[int] = []
        self.logprobs: list[float] = []
        self.images: list[Image.Image] = []
        self.messages: list[dict[str, Any]] = []
        self.turn_spans: list[list[int]] = []
        self.server_fields: dict[str, Any] = {}
        self.num_preempted = -1
        self.seconds = {"frames": 0.0, "generate": 0.0}
        self._was_cut = False
        self._is_out_of_room = False

    @property
    def prompt_ids(self) -> list[int]:
        return self.ids[: self.num_prompt_tokens]

    @property
    def response_ids(self) -> list[int]:
        return self.ids[self.num_prompt_tokens :]

    @property
    def room(self) -> int:
        """Tokens that the trajectory may still take."""
        config = self.loop.rollout_config
        room = config.response_length - len(self.mask)
        if config.max_model_len is not None:
            room = min(room, config.max_model_len - len(self.ids))
        return room

    async def run(self) -> None:
        observation: Observation | None = self.episode.reset()
        system = self.episode.system_text
        assert observation is not None
        message, images = await self._render(observation)
        self.messages = ([{"role": "system", "content": system}] if system else []) + [message]
        self.images = images
        self.ids = await self.loop.ct_build_initial_tokens(self.messages, images=images)
        self.num_prompt_tokens = len(self.ids)
        while True:
            if self.room < 1:
                self.episode.truncate()
                return
            response = await self._respond()
            observation = self.episode.step(response, out_of_room=self._is_out_of_room)
            if observation is None:
                return
            if not await self._show(observation):
                self.episode.truncate()
                return

    async def _respond(self) -> str:
        """Sample one response; append its tokens as they came."""
        limit = min(self.loop.settings.max_response_tokens, self.room)
        started = time.monotonic()
        output = await self.loop.server_manager.generate(
            request_id=self.request_id,
            prompt_ids=self.ids,
            sampling_params={**self.sampling_params, "max_tokens": limit},
            image_data=self.images,
        )
        self.seconds["generate"] += time.monotonic() - started
        self._merge_server_fields(output)
        tokens = list(output.token_ids)
        tokenizer: Any = self.loop.tokenizer
        # Templates of thinking models open the thought themselves: the policy continues it, the parser must see it.
        opening = "<think>" if tokenizer.decode(self.ids[-8:]).rstrip().endswith("<think>") else ""
        start = len(self.mask)
        merged, self.mask, self.logprobs = await self.loop.ct_merge_assistant_token(
            self.ids, tokens, self.mask, self.logprobs, list(output.log_probs or [0.0] * len(tokens))
        )
        self.ids = list(merged.token_ids)
        self.turn_spans.append([start, len(self.mask)])
        self._was_cut = len(tokens) >= limit and tokens[-1] != tokenizer.eos_token_id
        self._is_out_of_room = self._was_cut and limit < self.loop.settings.max_response_tokens
        text = opening + tokenizer.decode(tokens, skip_special_tokens=True)
        self.messages.append({"role": "assistant", "content": text})
        return text

    async def _show(self, observation: Observation) -> bool:
        """Append an observation with its images, or nothing at all if no response would fit behind it."""
        message, images = await self._render(observation)
        ids, mask, logprobs = list(self.ids), list(self.mask), list(self.logprobs)
        tokenizer: Any = self.loop.tokenizer
        end_token = tokenizer.eos_token_id
        if self._was_cut and end_token is not None:
            # The response ran into its length limit: close the message for it. It did not sample this token.
            ids, mask, logprobs = ids + [end_token], mask + [0], logprobs + [0.0]
        updated = [*self.messages, message]
        merged, mask, logprobs = await self.loop.ct_merge_context_msg(self.messages, updated, ids, mask, logprobs)
        config = self.loop.rollout_config
        too_long = config.max_model_len is not None and len(merged.token_ids) >= config.max_model_len
        if len(mask) >= config.response_length or too_long:
            return False
        self.ids, self.mask, self.logprobs = list(merged.token_ids), mask, logprobs
        # Some families' boundary tokens are taken off the response again.
        self.turn_spans[-1][1] -= merged.removed_prefix_token_count
        self.messages = updated
        self.images = self.images + images
        return True

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
