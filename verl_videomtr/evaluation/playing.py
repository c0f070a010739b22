# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Playing a file of questions against servers: samples in, one line each out, however many are in flight.

An episode that fails is a line too. Only what makes every further request useless ends the run; what was answered
until then is in the journal, and the same command goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from verl_videomtr.evaluation.record import lost_line, played_line
from verl_videomtr.evaluation.setup import Setup
from verl_videomtr.rollout import open_episode, play
from verl_videomtr.sample import Sample, SampleError
from verl_videomtr.scoring import score_episode
from verl_videomtr.serving.chat import ChatConfig, ChatPolicy
from verl_videomtr.serving.client import Client
from verl_videomtr.serving.endpoints import Endpoint, choose, sampling_fields
from verl_videomtr.serving.journal import JournalError, SharedJournal
from verl_videomtr.serving.pictures import PictureService
from verl_videomtr.serving.server import AskError, Refused, Unanswered
from verl_videomtr.serving.spool import SpoolError
from verl_videomtr.subtitles import Subtitles
from verl_videomtr.video.errors import VideoError

logger = logging.getLogger(__name__)

SPARE_FILES = 512
"""Files beside the connections: videos, cache entries, encoded pictures, libraries."""
FIRST_EPISODES = 16
"""In flight until it is known what an episode holds."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """What all episodes of a run share."""

    setup: Setup
    clients: Sequence[Client]
    endpoints: Sequence[Endpoint]
    """Of the clients, in their order."""
    pictures: PictureService
    journal: SharedJournal
    subtitles: Subtitles | None = None


class Admission:
    """Bounds what is in flight: episodes, and the encoded pictures that they hold on the disk.

    Only a new episode waits; one that has begun goes on, or none would ever end. So each counts as the largest so far,
    and before one is known only a few go.
    """

    def __init__(self, *, max_episodes: int, max_bytes: int) -> None:
        self.max_episodes = max_episodes
        self.max_bytes = max_bytes
        self.num_episodes = 0
        self.most_episodes = 0
        self.largest_bytes = 0
        """Most that one episode has held."""
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[None]:
        """Hold a place."""
        async with self._changed:
            await self._changed.wait_for(self._has_room)
            self.num_episodes += 1
            self.most_episodes = max(self.most_episodes, self.num_episodes)
        try:
            yield
        finally:
            self.num_episodes -= 1
            async with self._changed:
                self._changed.notify()

    async def hold(self, num_bytes: int) -> None:
        """Learn how much one of the episodes holds."""
        is_first = not self.largest_bytes
        self.largest_bytes = max(self.largest_bytes, num_bytes)
        if is_first and num_bytes:
            async with self._changed:
                self._changed.notify_all()

    def _has_room(self) -> bool:
        if not self.num_episodes:
            return True
        most = min(self.max_episodes, self.max_bytes // self.largest_bytes if self.largest_bytes else FIRST_EPISODES)
        return self.num_episodes < most


async def play_all(
    samples: Sequence[Sample], table: Table, *, admission: Admission, done: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Play every sample once.

    Args:
        done: called with each line as it is made.
    Returns:
        The lines, in the samples' order.
    Raises:
        AskError: no further request is of use.
        JournalError: answers cannot be kept.
        SpoolError: encoded pictures cannot be kept.
    """
    raise_file_limit(admission.max_episodes + SPARE_FILES)
    lines: dict[int, dict[str, Any]] = {}
    waiting = iter(enumerate(samples))

    async def work() -> None:
        for number, sample in waiting:
            async with admission.episode():
                lines[number] = await play_one(sample, table, held=admission.hold)
            done(lines[number])

    workers = [asyncio.create_task(work()) for _ in range(min(admission.max_episodes, len(samples)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await table.journal.drain()
    return [lines[number] for number in range(len(samples))]


async def play_one(
    sample: Sample, table: Table, *, held: Callable[[int], Awaitable[None]] | None = None
) -> dict[str, Any]:
    """Play one sample; return its line, played or lost.

    Args:
        held: told how many bytes of messages the episode holds, whenever that grows.
    """
    setup = table.setup
    try:
        rollout = await open_episode(
            sample,
            config=setup.settings.episode,
            prompts=setup.prompts,
            frames=table.pictures,
            root=setup.settings.video.root,
            subtitles=table.subtitles.of(sample) if table.subtitles else (),
        )
        policy = make_policy(table, sample, system_text=rollout.episode.system_text, held=held)
        await play(rollout, policy)
        score = await score_episode(
            setup.reward_fn,
            sample,
            rollout.episode.record(),
            timeout_seconds=setup.settings.reward_timeout_seconds,
        )
        return played_line(rollout, policy, score)
    except (AskError, JournalError, SpoolError):
        raise
    except (VideoError, SampleError) as error:
        return lost_line(sample, "unreadable", error)
    except Refused as error:
        return lost_line(sample, "refused", error)
    except Unanswered as error:
        return lost_line(sample, "unanswered", error)
    except Exception as error:
        logger.exception("sample %r of %r failed", sample.sample_id, sample.data_source)
        return lost_line(sample, "failed", error)


def make_policy(
    table: Table, sample: Sample, *, system_text: str, held: Callable[[int], Awaitable[None]] | None = None
) -> ChatPolicy:
    """Make the policy of one episode, on the server that its video's episodes are played on."""
    client, endpoint = choose(list(zip(table.clients, table.endpoints, strict=True)), sample.video)
    setup = table.setup
    return ChatPolicy(
        client,
        ChatConfig(
            model=endpoint.model,
            max_response_tokens=setup.settings.max_response_tokens,
            sampling=sampling_fields(setup.sampling, endpoint.kind),
            wants_token_ids=endpoint.kind == "vllm",
        ),
        pictures=table.pictures,
        journal=table.journal,
        key=sample.sample_id,
        system_text=system_text,
        held=held,
    )


def raise_file_limit(num: int) -> None:
    """Let this process hold `num` open files: every episode in flight has a connection.

    Raises:
        ValueError: the system does not allow as many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= num:
        return
    if hard != resource.RLIM_INFINITY and hard < num:
        raise ValueError(
            f"{num} open files are needed and {hard} allowed; expected --concurrency of at most {hard - SPARE_FILES}; "
            "lower it, or raise `ulimit -Hn`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (num, hard))
