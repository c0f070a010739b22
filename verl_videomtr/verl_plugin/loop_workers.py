# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""verl's agent-loop manager and workers, with a ledger of what was asked for and a pulse of what became of it.

Named by `actor_rollout_ref.rollout.agent.agent_loop_manager_class`. Whatever agent loop a row names plays in these
workers, so each trajectory that is lost, in the loop or in verl's own work behind it, is reported with its sample.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import threading
import time
from collections import deque
from typing import Any

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError
from tensordict import TensorDict
from verl.experimental.agent_loop import AgentLoopOutput
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.tokenizer import get_processor_token_id

from verl_videomtr.losses import AskedPrompt, Ledger, LossReport, Partition
from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin import value_heads
from verl_videomtr.verl_plugin.agent_loop import VideoMTRAgentLoop
from verl_videomtr.verl_plugin.frame_rows import GOES_ON, FrameRows
from verl_videomtr.verl_plugin.processes import RayProcess
from verl_videomtr.verl_plugin.row_inputs import image_inputs
from verl_videomtr.verl_plugin.shared_frames import FRAMES, store_once
from verl_videomtr.video.errors import VideoError
from verl_videomtr.watchdog import LOOK_SECONDS, IdleClock

logger = logging.getLogger(__name__)

_MOST_REPORTS = 1000
_STORED = "videomtr_stored_frames"
"""Of an output's images: what its row holds of its frames."""
_VerlWorker: Any = AgentLoopWorkerTQ.__ray_actor_class__  # type: ignore[attr-defined]
"""verl's class below the actor that it made of it."""


class TrajectoryLostError(RuntimeError):
    """A trajectory could not be made; told to verl in one line, the traceback is in the worker's log before it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pulse:
    """What a worker answers when it is asked how it is."""

    num_ended: int
    """Episodes that ended since it was started, well or not."""
    running: list[str]
    """Samples of the episodes it plays, the longest running first."""
    num_reports: int
    """Losses reported so far; the next question asks for those behind."""
    reports: list[LossReport]
    frame_counts: dict[str, float]
    """What its frame service has counted since it was started."""


class LoopWorker(_VerlWorker):
    """verl's agent-loop worker; the place of what has to happen around any agent loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._running: dict[tuple[str, int], str] = {}
        self._num_ended = 0
        self._num_reports = 0
        self._reports: deque[tuple[int, LossReport]] = deque(maxlen=_MOST_REPORTS)
        self._guard: _TrainerGuard | None = None
        self._turn = asyncio.Lock()
        self._image_token_id = self._find_image_token()
        self._frame_rows = self._open_frame_rows()

    def _find_image_token(self) -> int | None:
        """Return the token of images whose inputs are made here; None where verl makes them."""
        if self.processor is None or not value_heads.supports(self.processor.config):
            return None
        token_id: int | None = get_processor_token_id(self.processor, "image")
        return token_id

    def _open_frame_rows(self) -> FrameRows | None:
        """Return what lets rows carry frames as bytes; None where they are to carry patches."""
        if self.processor is None or not load_settings(self.config).device_patches:
            return None
        if self._image_token_id is None:
            logger.warning(
                "patches are not made on the training device: %s is no image-text-to-text model of transformers, or "
                "names no image token; %s",
                type(self.processor.config).__name__,
                GOES_ON,
            )
            return None
        kwargs = self._get_mm_processor_kwargs(None)
        return FrameRows(self.processor, image_token_id=self._image_token_id, processor_kwargs=kwargs)

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], *, agent_name: str, **kwargs: Any
    ) -> None:
        sample_id, split = name_sample(kwargs)
        key = (kwargs["uid"], kwargs["session_id"])
        self._running[key] = sample_id
        try:
            await super()._run_agent_loop(sampling_params, trajectory, agent_name=agent_name, **kwargs)
        except Exception as error:
            unreadable = isinstance(error, VideoError)
            logger.error("sample %r is left out: %s", sample_id, error, exc_info=None if unreadable else error)
            report = LossReport(
                kind="unreadable" if unreadable else "failed",
                sample_id=sample_id,
                uid=key[0],
                session=key[1],
                split=split,
                partition="val" if trajectory["validate"] else "train",
                step=int(trajectory["step"]),
                error=" ".join(f"{type(error).__name__}: {error}".split()),
            )
            self._reports.append((self._num_reports, report))
            self._num_reports += 1
            raise TrajectoryLostError(f"sample {sample_id!r}: {report.error}") from None
        finally:
            del self._running[key]
            self._num_ended += 1

    async def _agent_loop_postprocess(
        self, output: AgentLoopOutput | list[AgentLoopOutput], validate: bool, **kwargs: Any
    ) -> None:
        if isinstance(output, list) and not output:
            # verl stores nothing and calls the prompt finished.
            raise RuntimeError("the agent loop returned no output at all")
        # verl makes a trajectory's rows on the event loop, some milliseconds each. Of trajectories that are ready
        # together the loop would make all without a break, and answer nobody meanwhile.
        async with self._turn:
            await asyncio.sleep(0)
            if self._frame_rows is not None:
                outputs = output if isinstance(output, list) else [output]
                keys = [f"{kwargs['uid']}_{kwargs['session_id']}_{number}" for number in range(len(outputs))]  # verl's
                await self._attach_frames(self._frame_rows, outputs, keys=keys)
        await super()._agent_loop_postprocess(output, validate, **kwargs)

    async def _attach_frames(self, frame_rows: FrameRows, outputs: list[AgentLoopOutput], *, keys: list[str]) -> None:
        """Put the bytes of a trajectory's images beside them, away from the event loop."""
        own = [output.mm_processor_kwargs in (None, frame_rows.processor_kwargs) for output in outputs]
        images = [
            ((output.multi_modal_data or {}).get("images") or ()) if takes else ()
            for output, takes in zip(outputs, own, strict=True)
        ]
        rows = await asyncio.to_thread(frame_rows.frames_of, images)
        for output, frames, stored in zip(outputs, rows, store_once(rows, keys=keys), strict=True):
            if frames:
                output.multi_modal_data = {**(output.multi_modal_data or {}), FRAMES: frames, _STORED: stored}

    def _compute_multi_modal_inputs(self, output: AgentLoopOutput, input_ids: torch.Tensor) -> dict[str, Any]:
        media = output.multi_modal_data or {}
        images = media.get("images")
        if not images or media.get("videos") or self._image_token_id is None:
            return super()._compute_multi_modal_inputs(output, input_ids)
        if self._frame_rows is not None and FRAMES in media:
            return self._frame_rows.inputs(media[FRAMES], input_ids=input_ids, stored=media[_STORED])
        given = output.mm_processor_kwargs
        return image_inputs(
            self.processor,
            images,
            input_ids=input_ids,
            image_token_id=self._image_token_id,
            processor_kwargs=self._get_mm_processor_kwargs(None) if given is None else given,
        )

    async def pulse(self, after: int) -> Pulse:
        """Say how the worker is.

        Args:
            after: number of reports that have arrived.
        """
        if self._guard is not None:
            self._guard.heard()
        return Pulse(
            num_ended=self._num_ended,
            running=list(self._running.values()),
            num_reports=self._num_reports,
            reports=[report for number, report in self._reports if number >= after],
            frame_counts=VideoMTRAgentLoop.frame_counts(),
        )

    async def guard_trainer(self, stall_seconds: float, trainer: ActorHandle[Any], pid: int, node_id: str) -> None:
        """End the trainer's process if it falls silent: stopped, it cannot watch itself."""
        self._guard = _TrainerGuard(stall_seconds, trainer, pid, node_id)

    async def release_trainer(self) -> None:
        """The trainer watches no longer: its run is over."""
        if self._guard is not None:
            self._guard.over.set()


class LoopManager(AgentLoopManagerTQ):
    """verl's manager; `ledger` knows what is out, and `processes` are what the watchdog watches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(LoopWorker)
        settings = load_settings(self.config)
        self.ledger = Ledger(
            batch_prompts=self.config.data.train_batch_size, max_share=settings.video.max_unreadable_share
        )
        self._lock = threading.Lock()
        self._pulses: dict[int, Pulse] = {}

    agent_loop_workers: list[Any]

    async def _init_agent_loop_workers(self) -> None:
        await super()._init_agent_loop_workers()
        self.processes = [
            RayProcess(
                f"agent-loop worker {number}",
                worker,
                ask=lambda number=number: self._ask(number),  # type: ignore[misc]
                take=lambda pulse, number=number: self._take(number, pulse),  # type: ignore[misc]
            )
            for number, worker in enumerate(self.agent_loop_workers)
        ]

    def generate_sequences(self, prompts: TensorDict) -> None:
        self.ledger.ask(list_asked(prompts, rollout=self.config.actor_rollout_ref.rollout))
        super().generate_sequences(prompts)

    @property
    def num_ended(self) -> int:
        """Episodes that ended, as far as the workers have told."""
        with self._lock:
            return sum(pulse.num_ended for pulse in self._pulses.values())

    def running_samples(self) -> list[str]:
        """Return the samples whose episodes were being played when the workers last told."""
        with self._lock:
            return [sample for pulse in self._pulses.values() for sample in pulse.running]

    def frame_counts(self) -> list[dict[str, Any]]:
        """Return what each worker's frame service had counted when it last told, for `FrameCounters`."""
        with self._lock:
            return [{"worker": str(n), "counted": pulse.frame_counts} for n, pulse in self._pulses.items()]

    def pull(self, *, timeout_seconds: float = 10.0) -> None:
        """Get the workers' reports now; one that does not answer in time is left to the next look."""
        asked = {self._ask(number): number for number in range(len(self.agent_loop_workers))}
        if not asked:
            return
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_seconds)
        for reference in done:
            try:
                self._take(asked[reference], ray.get(reference))
            except RayError:
                logger.warning("agent-loop worker %d could not tell its losses", asked[reference])

    def guard_trainer(self, stall_seconds: float) -> None:
        """Have the workers watch the process that this is called in."""
        context = ray.get_runtime_context()
        for worker in self.agent_loop_workers:
            worker.guard_trainer.remote(stall_seconds, context.current_actor, os.getpid(), context.get_node_id())

    def release_trainer(self) -> None:
        """End that watch."""
        for worker in self.agent_loop_workers:
            worker.release_trainer.remote()

    def _ask(self, number: int) -> Any:
        with self._lock:
            known = self._pulses.get(number)
        return self.agent_loop_workers[number].pulse.remote(0 if known is None else known.num_reports)

    def _take(self, number: int, pulse: Pulse) -> None:
        with self._lock:
            known = self._pulses.get(number)
            num_known = 0 if known is None else known.num_reports
            # Two questions may have been out at once: the answers overlap.
            new = pulse.num_reports - num_known
            if known is None or pulse.num_ended >= known.num_ended:
                self._pulses[number] = pulse
        if new > 0:
            self.ledger.report(pulse.reports[-new:])


class _TrainerGuard:
    """A thread in an agent-loop worker that ends a trainer's process which no longer asks how the worker is."""

    def __init__(self, stall_seconds: float, trainer: ActorHandle[Any], pid: int, node_id: str) -> None:
        self.over = threading.Event()
        self._stall_seconds = stall_seconds
        self._trainer, self._pid, self._node_id = trainer, pid, node_id
        self._clock = IdleClock()
        threading.Thread(target=self._watch, name="videomtr-trainer-guard", daemon=True).start()

    def heard(self) -> None:
        self._clock.reset()

    def _watch(self) -> None:
        while not self.over.wait(LOOK_SECONDS):
            if self._clock.tick() >= self._stall_seconds:
                break
        else:
            return
        logger.error(
            "the trainer's process (pid %d on node %s) has not been heard of for %.0f s, so nothing watches this run; "
            "it is ended; start it again with trainer.resume_mode=auto",
            self._pid,
            self._node_id,
            self._stall_seconds,
        )
        time.sleep(LOOK_SECONDS)  # Ray forwards the line to the driver
        ray.kill(self._trainer)
        if ray.get_runtime_context().get_node_id() == self._node_id:
            try:
                os.kill(self._pid, signal.SIGKILL)
            except ProcessLookupError:
                return


def list_asked(prompts: TensorDict, *, rollout: Any) -> list[AskedPrompt]:
    """Read from a batch that goes to the workers which trajectories it asks for."""
    count = len(prompts)
    validate = bool(prompts["validate"]) if "validate" in prompts else False
    partition: Partition = "val" if validate else "train"
    default = rollout.val_kwargs.n if validate else rollout.n
    numbers = _column(prompts, "__rollout_n__", count, default)
    infos = _column(prompts, "extra_info", count, None)
    indices = _column(prompts, "index", count, None)
    uids = _column(prompts, "uid", count, None)
    return [
        AskedPrompt(
            uid=str(uid),
            sample_id=name_sample({"extra_info": info, "index": index})[0],
            num_sessions=int(number),
            partition=partition,
        )
        for uid, info, index, number in zip(uids, infos, indices, numbers, strict=True)
    ]


def name_sample(row: dict[str, Any]) -> tuple[str, str | None]:
    """Return what a row calls itself, and its split, however broken it is."""
    info = row.get("extra_info")
    info = info if isinstance(info, dict) else {}
    split = info.get("split")
    name = info.get("sample_id")
    return (str(row.get("index")) if name is None else str(name)), (None if split is None else str(split))


def _column(prompts: TensorDict, name: str, count: int, default: Any) -> list[Any]:
    if name not in prompts:
        return [default] * count
    values = prompts[name]
    return list(values) if hasattr(values, "__len__") and len(values) == count else [values] * count
