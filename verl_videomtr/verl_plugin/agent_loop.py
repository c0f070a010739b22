# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The agent loop `video_mtr`: a dataset row in, one trajectory with a reward on every turn out.

A trajectory is one row of token ids, or several where its context slides: one for each segment (see `token_policy`).
verl stores each row as an `AgentLoopOutput`; the record of the trajectory goes with every one of them.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from omegaconf import DictConfig
from PIL import Image
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.utils.tokenizer import get_processor_token_id

from verl_videomtr.prompts import Prompts
from verl_videomtr.rewards import compute_score
from verl_videomtr.rollout import Rollout, open_episode, play
from verl_videomtr.sample import AGENT_NAME, Sample
from verl_videomtr.scoring import score_episode
from verl_videomtr.settings import load_settings
from verl_videomtr.trajectory import Trajectory
from verl_videomtr.verl_plugin.batch_rows import (
    ROW_FIELD,
    SAMPLE_KEY,
    TRAJECTORY_FIELD,
    TRAJECTORY_KEY,
)
from verl_videomtr.verl_plugin.checks import BONUS_ESTIMATOR, check_config
from verl_videomtr.verl_plugin.image_tokens import ImageTokens
from verl_videomtr.verl_plugin.sized_images import without_pixels
from verl_videomtr.verl_plugin.token_builder import fit_to_template
from verl_videomtr.verl_plugin.token_policy import Segment, TokenLimits, TokenPolicy
from verl_videomtr.verl_plugin.turn_end import TurnEnd, read_turn_end
from verl_videomtr.video.service import FrameService

logger = logging.getLogger(__name__)


class VideoMTROutput(AgentLoopOutput):
    """One row; its rewards sit on the last token of each turn, where verl's own class has one scalar."""

    token_rewards: list[float]
    """One per response token."""

    def as_dict(self) -> dict[str, Any]:
        output = super().as_dict()
        output["rm_scores"] = torch.tensor(output.pop("token_rewards"), dtype=torch.float32)
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
        fit_to_template(self.continuous_token_builder)
        self.worker = self._worker_state(self.config)
        self.settings = self.worker.settings
        if hasattr(self.continuous_token_builder, "processor"):
            self.continuous_token_builder.processor = self._sized_processor()
        self.prompts = Prompts.load(self.settings.prompts)

    async def run(  # type: ignore[override]  # verl's worker takes a list too
        self, sampling_params: dict[str, Any], **kwargs: Any
    ) -> list[VideoMTROutput]:
        """Play one episode.

        Args:
            sampling_params: verl's sampling parameters; the length limit is set per turn.
            kwargs: the row's columns, and verl's uid, session_id and global_steps.
        Returns:
            The trajectory's rows.
        Raises:
            Exception: whatever failed; the worker reports it with the sample's id.
        """
        # verl has taken the agent's name from the row, and renamed the prompt.
        sample = Sample.from_row({**kwargs, "prompt": kwargs["raw_prompt"], "agent_name": AGENT_NAME})
        rollout = await open_episode(
            sample,
            config=self.settings.episode,
            prompts=self.prompts,
            frames=self.worker.frames,
            root=self.settings.video.root,
        )
        policy = self._make_policy(rollout, sampling_params)
        await play(rollout, policy)
        return await self._finish(rollout, policy, uid=kwargs["uid"], session=kwargs["session_id"])

    @classmethod
    def frame_counts(cls) -> dict[str, float]:
        """Return what the frame service of this process has counted so far; nothing where no episode was played."""
        return {} if cls._shared is None else cls._shared.frames.metrics()

    def _make_policy(self, rollout: Rollout, sampling_params: dict[str, Any]) -> TokenPolicy:
        config = self.rollout_config
        return TokenPolicy(
            generate=self.server_manager.generate,
            builder=self.continuous_token_builder,
            tokenizer=self.tokenizer,
            turn_end=self._turn_end(),
            as_sent=self._as_sent,
            limits=TokenLimits(
                response=self.settings.max_response_tokens,
                segment_prompt=config.prompt_length,
                segment_response=config.response_length,
                context=config.max_model_len,
            ),
            sampling_params=sampling_params,
            system_text=rollout.episode.system_text,
            sends_arrays=config.name == "vllm",
        )

    def _sized_processor(self) -> Any:
        if self.worker.sized_processor is None:
            self.worker.sized_processor = without_pixels(self.processor)
        return self.worker.sized_processor

    def _turn_end(self) -> TurnEnd:
        if self.worker.turn_end is None:
            self.worker.turn_end = read_turn_end(
                self.tokenizer, self.processor, **(self.apply_chat_template_kwargs or {})
            )
        return self.worker.turn_end

    def _as_sent(self, ids: list[int], images: list[Image.Image]) -> list[int]:
        if self.worker.image_tokens is None:
            image_token_id = get_processor_token_id(self.processor, "image")
            if image_token_id is None:
                raise ValueError(
                    f"{type(self.processor).__name__} of {self.config.actor_rollout_ref.model.path!r} names no image "
                    "token; expected a processor whose images take tokens in the text"
                )
            self.worker.image_tokens = ImageTokens(
                self.processor,
                image_token_id,
                processor_kwargs=self.mm_processor_kwargs,
                template_kwargs=self.apply_chat_template_kwargs,
            )
            self._warn_of_resampling(self.worker.image_tokens, images)
        return self.worker.image_tokens.collapse(ids, [image.size for image in images])

    def _warn_of_resampling(self, image_tokens: ImageTokens, images: list[Image.Image]) -> None:
        """Say once a worker that the processor does not take frames as they are served."""
        pool = self.settings.video.pool
        if pool.size is not None or not images:
            return
        width, height = images[0].size
        expected, written = width * height // pool.factor_px**2, image_tokens.written(width, height).num_image_tokens
        if written != expected:
            logger.warning(
                "the processor makes %d tokens of a frame of %d x %d px, expected %d by a grid of %d px: it resamples "
                "every frame once more; `videomtr doctor` names the model's own grid",
                written,
                width,
                height,
                expected,
                pool.factor_px,
            )

    @classmethod
    def _worker_state(cls, config: DictConfig) -> _WorkerState:
        """What all episodes of this worker process share; made by the first, checked once."""
        with cls._shared_lock:
            if cls._shared is None:
                cls._shared = _WorkerState(config)
            return cls._shared

    async def _finish(self, rollout: Rollout, policy: TokenPolicy, *, uid: str, session: int) -> list[VideoMTROutput]:
        """Score the episode and put everything where verl and the trainer mode look for it."""
        sample = rollout.sample
        rows, turn_rows, turn_spans = _rows_of(policy)
        for row in rows:
            # Sampled image tokens, or fewer images than the row has places, would mislead the training forward pass.
            self._as_sent(row.ids, row.images)
        started = time.monotonic()
        score = await score_episode(
            self.worker.reward_fn,
            sample,
            rollout.episode.record(),
            timeout_seconds=self.settings.reward_timeout_seconds,
        )
        seconds_of_score = time.monotonic() - started
        trajectory = Trajectory.of(
            rollout,
            score,
            uid=uid,
            session=session,
            turn_rows=turn_rows,
            turn_spans=turn_spans,
            policy_version=policy.policy_version,
        )
        record = json.dumps(trajectory.to_dict(), ensure_ascii=False)
        rewards = place_rewards(
            [row.mask for row in rows],
            turn_rows=turn_rows,
            turn_spans=turn_spans,
            turn_rewards=score.turn_rewards,
            per_turn=self.worker.rewards_every_turn,
            gamma_turn=self.settings.credit.gamma_turn,
        )
        return [
            VideoMTROutput(
                prompt_ids=row.prompt_ids,
                response_ids=row.response_ids,
                response_mask=row.mask,
                response_logprobs=row.logprobs if self.rollout_config.calculate_log_probs else None,
                multi_modal_data={"images": row.images},
                reward_score=float(sum(score.turn_rewards)),
                token_rewards=token_rewards,
                num_turns=2 * trajectory.num_turns,
                metrics=AgentLoopMetrics(
                    generate_sequences=rollout.seconds["generate"],
                    tool_calls=rollout.seconds["frames"],
                    compute_score=seconds_of_score,
                    num_preempted=policy.num_preempted,
                ),
                extra_fields={
                    **policy.server_fields,
                    TRAJECTORY_FIELD: trajectory.to_dict(),
                    ROW_FIELD: number,
                    "reward_extra_info": {
                        **trajectory.numbers(),
                        **score.numbers,
                        # Texts, which verl's metrics leave out and its validation keeps.
                        SAMPLE_KEY: sample.sample_id,
                        TRAJECTORY_KEY: record,
                    },
                },
            )
            for number, (row, token_rewards) in enumerate(zip(rows, rewards, strict=True))
        ]


def place_rewards(
    masks: Sequence[Sequence[int]],
    *,
    turn_rows: Sequence[int],
    turn_spans: Sequence[Sequence[int]],
    turn_rewards: Sequence[float],
    per_turn: bool,
    gamma_turn: float = 1.0,
) -> list[list[float]]:
    """Put a trajectory's rewards on sampled tokens.

    A response without tokens has no place for its reward: that goes to the last token sampled before it, with the
    discount of the turns between, so that the return of every turn stays what it is. Where nothing was sampled before
    it, it goes nowhere, since there is nothing to train.

    Args:
        masks: response mask of each row.
        turn_rows: row of each turn.
        turn_spans: [start, end) of each turn's sampled tokens in its row.
        turn_rewards: reward of each turn.
        per_turn: True: each turn's reward on its last token. False: all of them, undiscounted, on the last sampled
            token of the last row, which is where estimators that judge a trajectory as a whole look.
        gamma_turn: discount between turns.
    Returns:
        Rewards of each row's response tokens.
    """
    rewards = [[0.0] * len(mask) for mask in masks]
    place, turn_of_place = None, 0
    for turn, (row, (start, end), reward) in enumerate(zip(turn_rows, turn_spans, turn_rewards, strict=True)):
        if end > start:
            place, turn_of_place = (row, end - 1), turn
        if per_turn and place is not None:
            rewards[place[0]][place[1]] += gamma_turn ** (turn - turn_of_place) * reward
    if not per_turn and place is not None:
        rewards[place[0]][place[1]] = sum(turn_rewards)
    return rewards


def _rows_of(policy: TokenPolicy) -> tuple[list[Segment], list[int], list[list[int]]]:
    """Choose the segments that become rows; return them with the row and span of every turn.

    Segments in which nothing was sampled are left out, and their turns stand, without tokens, at the end of the row
    before. An episode in which nothing was sampled at all keeps its first segment: it counts, and trains nothing.
    """
    kept = [number for number, segment in enumerate(policy.segments) if any(segment.mask)]
    if not kept:
        policy.close_unsampled(policy.segments[0])
        kept = [0]
    turn_rows, turn_spans = [], []
    for number, span in zip(policy.turn_segments, policy.turn_spans, strict=True):
        row = max(bisect_right(kept, number) - 1, 0)
        end = len(policy.segments[kept[row]].mask) if kept[row] < number else 0
        turn_rows.append(row)
        turn_spans.append(list(span) if kept[row] == number else [end, end])
    return [policy.segments[number] for number in kept], turn_rows, turn_spans


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
        self.turn_end: TurnEnd | None = None
        """How the model's responses end; read by the first episode."""
        self.image_tokens: ImageTokens | None = None
        """How its processor writes images; made by the first episode."""
        self.sized_processor: Any = None
        """The processor for the token builder, which needs no pixels; made by the first episode."""
        self.rewards_every_turn = config.algorithm.adv_estimator == BONUS_ESTIMATOR
        """Other estimators know no turns, and verl shows them the last row of a trajectory only."""
