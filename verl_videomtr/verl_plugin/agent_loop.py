"""The agent loop `video_mtr`: a dataset row in, one trajectory with a reward on every turn out.

A trajectory is one row of token ids, or several where its context slides (see `play`). verl stores each row as an
`AgentLoopOutput`; the record of the trajectory goes with every one of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar
from uuid import uuid4

import torch
import transfer_queue as tq
from omegaconf import DictConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.utils.tokenizer import get_processor_token_id

from verl_videomtr.episode import Episode
from verl_videomtr.prompts import Prompts
from verl_videomtr.rewards import compute_score
from verl_videomtr.sample import AGENT_NAME, Sample, question_text, resolve_video
from verl_videomtr.scoring import score_episode
from verl_videomtr.trajectory import Trajectory
from verl_videomtr.verl_plugin.checks import BONUS_ESTIMATOR, check_config
from verl_videomtr.verl_plugin.play import Play, Row
from verl_videomtr.verl_plugin.settings import load_settings
from verl_videomtr.video.errors import VideoError
from verl_videomtr.video.service import FrameService

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

LOST_PARTITION = "videomtr_lost"
"""TransferQueue partition through which workers tell the trainer of trajectories that they could not make."""

TRAJECTORY_FIELD = "videomtr"
"""Key of `extra_fields` under which a row carries its trajectory's record."""

ROW_FIELD = "videomtr_row"
"""Key of `extra_fields` for the row's number in its trajectory."""

FRAMES_FIELD = "videomtr_frames"
"""Key of `extra_fields` for what its worker's frame service has counted so far, with the worker's name."""


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
        self.worker = self._worker_state(self.config)
        self.settings = self.worker.settings
        self.prompts = Prompts.load(self.settings.prompts)
        self.image_token_id = get_processor_token_id(self.processor, "image")

    async def run(  # type: ignore[override]  # verl's worker takes a list too
        self, sampling_params: dict[str, Any], **kwargs: Any
    ) -> list[VideoMTROutput]:
        """Play one episode.

        Args:
            sampling_params: verl's sampling parameters; the length limit is set per turn.
            kwargs: the row's columns, and verl's uid, session_id and global_steps.
        Returns:
            The trajectory's rows, or nothing where the video cannot be read.
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

    async def _play(self, sample: Sample, path: str, sampling_params: dict[str, Any]) -> Play:
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
        play = Play(self, episode, path, sampling_params)
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

    async def _finish(self, sample: Sample, play: Play) -> list[VideoMTROutput]:
        """Score the episode and put everything where verl and the trainer mode look for it."""
        if not play.rows[0].mask:
            raise ValueError(
                f"the overview takes {len(play.rows[0].ids)} tokens and leaves no room for a response in "
                f"actor_rollout_ref.rollout.max_model_len={self.rollout_config.max_model_len}; raise it, or lower "
                "videomtr.episode.frame_budget or videomtr.video.pool.max_tokens"
            )
        rows, turn_rows, turn_spans = _without_empty_rows(play)
        for row in rows:
            self._check_images(sample, row)
        record = play.episode.record()
        started = time.monotonic()
        score = await score_episode(self.worker.reward_fn, sample, record)
        seconds_of_score = time.monotonic() - started
        trajectory = Trajectory(
            sample_id=sample.sample_id,
            data_source=sample.data_source,
            split=sample.split,
            video=sample.video,
            question=question_text(sample),
            ground_truth=sample.answer,
            groups=dict(sample.groups),
            turn_rows=turn_rows,
            turn_spans=turn_spans,
            turn_rewards=score.turn_rewards,
            components=score.components,
            correct=score.correct,
            episode=record,
            seconds=dict(play.seconds),
        )
        rewards = place_rewards([len(row.mask) for row in rows], trajectory, per_turn=self.worker.rewards_every_turn)
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
                    generate_sequences=play.seconds["generate"],
                    tool_calls=play.seconds["frames"],
                    compute_score=seconds_of_score,
                    num_preempted=play.num_preempted,
                ),
                extra_fields={
                    **play.server_fields,
                    TRAJECTORY_FIELD: trajectory.to_dict(),
                    ROW_FIELD: number,
                    FRAMES_FIELD: {"worker": self.worker.name, "counted": self.worker.frames.metrics()},
                    "reward_extra_info": {**trajectory.numbers(), **score.numbers},
                },
            )
            for number, (row, token_rewards) in enumerate(zip(rows, rewards, strict=True))
        ]

    def _check_images(self, sample: Sample, row: Row) -> None:
        """Compare image placeholders with images: a mismatch would crash, or mislead, the training forward pass."""
        if self.image_token_id is None:
            return
        runs = [len(list(run)) for token, run in groupby(row.ids) if token == self.image_token_id]
        if len(runs) != len(row.images):
            raise RuntimeError(
                f"{len(runs)} runs of image placeholders for {len(row.images)} images; expected as many; sample "
                f"{sample.sample_id!r}; the chat template or the processor does not render images one by one"
            )
        image_processor: Any = getattr(self.processor, "image_processor", None)
        count = getattr(image_processor, "get_number_of_image_patches", None)
        if count is None:
            return
        kwargs = self.mm_processor_kwargs or {}
        merged = image_processor.merge_size**2
        expected = [count(image.height, image.width, kwargs) // merged for image in row.images]
        if runs != expected:
            raise RuntimeError(
                f"images take {runs} placeholders; expected {expected} by their sizes; sample {sample.sample_id!r}; "
                "the processor that wrote the placeholders is not the one that makes the pixels: compare their "
                "min_pixels and max_pixels"
            )


def place_rewards(row_lengths: Sequence[int], trajectory: Trajectory, *, per_turn: bool) -> list[list[float]]:
    """Put a trajectory's rewards on response tokens.

    Args:
        row_lengths: response tokens of each row.
        per_turn: True: each turn's reward on its last token. False: all of them on the last token of the last row,
            which is where estimators that judge a trajectory as a whole look.
    """
    rewards = [[0.0] * length for length in row_lengths]
    turns = zip(trajectory.turn_rows, trajectory.turn_spans, trajectory.turn_rewards, strict=True)
    for row, (_, end), reward in turns:
        if per_turn:
            # A response without tokens ends where the one before it does; its reward, if any, goes there.
            rewards[row][max(end - 1, 0)] += reward
        else:
            rewards[-1][-1] += reward
    return rewards


def _without_empty_rows(play: Play) -> tuple[list[Row], list[int], list[list[int]]]:
    """Leave out rows in which nothing was sampled; their turns end where the row before ends."""
    rows: list[Row] = []
    turn_rows, turn_spans = [], []
    kept_as: list[int] = []
    for row in play.rows:
        if row.mask or not rows:
            rows.append(row)
        kept_as.append(len(rows) - 1)
    for number, span in zip(play.turn_rows, play.turn_spans, strict=True):
        is_kept = rows[kept_as[number]] is play.rows[number]
        end = len(rows[kept_as[number]].mask)
        turn_rows.append(kept_as[number])
        turn_spans.append(list(span) if is_kept else [end, end])
    return rows, turn_rows, turn_spans


class _WorkerState:
    """What the episodes of one worker process share: settings, frames, and the user's reward function, loaded once."""

    def __init__(self, config: DictConfig) -> None:
        self.name = uuid4().hex
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
        self.rewards_every_turn = config.algorithm.adv_estimator == BONUS_ESTIMATOR
        """Other estimators know no turns, and verl shows them the last row of a trajectory only."""
