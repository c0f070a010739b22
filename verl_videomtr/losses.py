# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What became of the trajectories that were asked for: prompts in, counts of what never came out.

The count is a difference: asked for, minus present when its prompt has ended. The workers' reports only give reasons,
so a trajectory whose worker died, or whose row could not be stored, is counted like one whose video is damaged.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

Partition = Literal["train", "val"]
"""verl's names: where trajectories of training steps lie, and those of validation."""

WATCHED_BATCHES = 4
"""Training batches over which the share of lost trajectories is judged."""
_MOST_REPORTS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedPrompt:
    """One prompt that was handed to the agent-loop workers."""

    uid: str
    sample_id: str
    num_sessions: int
    """Trajectories asked for."""
    partition: Partition


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossReport:
    """Why one trajectory could not be made, as its worker tells it."""

    kind: str
    """`unreadable`: its video; `failed`: anything else."""
    sample_id: str
    uid: str
    session: int
    split: str | None
    partition: Partition
    step: int
    error: str
    """One line."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Losses:
    """What was lost of one partition between two looks."""

    num_asked: int
    """Trajectories of the prompts that ended."""
    num_lost: int
    reports: list[LossReport]
    """Of the losses that a worker knows of; never more than the newest 1000."""

    def count(self, kind: str) -> int:
        """Count the reports of a kind."""
        return sum(report.kind == kind for report in self.reports)


class Ledger:
    """The prompts that are out, and what came back of the others; one thread writes, any may read."""

    def __init__(self, *, batch_prompts: int, max_share: float) -> None:
        """
        Args:
            batch_prompts: prompts of a training batch.
            max_share: most lost trajectories of training, as a share of those asked for.
        """
        self.max_share = max_share
        self._lock = threading.Lock()
        self._open: dict[str, AskedPrompt] = {}
        self._recent: deque[tuple[int, int]] = deque(maxlen=WATCHED_BATCHES * batch_prompts)
        """(asked for, lost) of the training prompts that ended last."""
        self._since = {"train": [0, 0], "val": [0, 0]}
        self._reports: dict[str, deque[LossReport]] = {name: deque(maxlen=_MOST_REPORTS) for name in self._since}
        self._reasons: deque[LossReport] = deque(maxlen=_MOST_REPORTS)

    def ask(self, prompts: Iterable[AskedPrompt]) -> None:
        """Note prompts that are about to be handed out; one that is handed out again starts anew."""
        with self._lock:
            self._open.update({prompt.uid: prompt for prompt in prompts})

    def report(self, reports: Iterable[LossReport]) -> None:
        """Take reasons from the workers."""
        with self._lock:
            for report in reports:
                self._reports[report.partition].append(report)
                if report.partition == "train":
                    self._reasons.append(report)

    def settle(self, partition: Partition, ended: Collection[str], keys: Iterable[str]) -> int:
        """Count what is missing of the prompts that have ended; each is counted once.

        Args:
            ended: uids of all prompts of the partition that verl calls finished or failed.
            keys: of all rows that are stored in it, `{uid}_{session}_{row}`.
        Returns:
            How many prompts were counted. Those of an earlier process, which a checkpoint restored, are not.
        """
        with self._lock:
            new = [self._open[uid] for uid in ended if uid in self._open and self._open[uid].partition == partition]
            if not new:
                return 0
            uids = {prompt.uid for prompt in new}
            sessions: dict[str, set[str]] = {}
            for key in keys:
                uid, _, rest = key.partition("_")
                if uid in uids:
                    sessions.setdefault(uid, set()).add(rest.partition("_")[0])
            for prompt in new:
                lost = prompt.num_sessions - len(sessions.get(prompt.uid, ()))
                self._since[partition][0] += prompt.num_sessions
                self._since[partition][1] += lost
                if partition == "train":
                    self._recent.append((prompt.num_sessions, lost))
                del self._open[prompt.uid]
            return len(new)

    def forget(self, partition: Partition) -> None:
        """Drop what is still open of a partition that nobody waits for any more."""
        with self._lock:
            self._open = {uid: prompt for uid, prompt in self._open.items() if prompt.partition != partition}

    def take(self, partition: Partition) -> Losses:
        """Return what was lost since the last call, and start counting anew."""
        with self._lock:
            num_asked, num_lost = self._since[partition]
            reports = list(self._reports[partition])
            self._since[partition] = [0, 0]
            self._reports[partition].clear()
        return Losses(num_asked=num_asked, num_lost=num_lost, reports=reports)

    def open_samples(self) -> list[str]:
        """Return the sample ids of the prompts that are out, oldest first."""
        with self._lock:
            return [prompt.sample_id for prompt in self._open.values()]

    def too_many(self) -> tuple[int, int] | None:
        """Judge training: (lost, asked for) of the watched batches where too large a share is lost, else None.

        What is still out counts as asked for: failures end first, and would look like the rule.
        """
        with self._lock:
            num_lost = sum(lost for _, lost in self._recent)
            num_asked = sum(asked for asked, _ in self._recent)
            num_asked += sum(prompt.num_sessions for prompt in self._open.values() if prompt.partition == "train")
        if num_lost > 1 and num_lost > self.max_share * num_asked:
            return num_lost, num_asked
        return None

    def say_too_many(self, num_lost: int, num_asked: int) -> str:
        """Word the end of a run by `too_many`."""
        with self._lock:
            reports = list(self._reasons)
        return (
            f"{num_lost} of the last {num_asked} trajectories were lost ({num_lost / num_asked:.0%}); expected at most "
            f"videomtr.video.max_unreadable_share={self.max_share}; {name_some(reports, num_lost)}; repair the files "
            "(python -m data_prep.check lists them), videomtr.video.root on every node, or the reward function"
        )


def name_some(reports: Sequence[LossReport], num_lost: int, *, most: int = 3) -> str:
    """Say why trajectories were lost: each error once, the newest first, with the sample of its first report."""
    if not reports:
        return f"none of the {num_lost} left a reason: see the logs of the agent-loop workers"
    by_error: dict[str, list[LossReport]] = {}
    for report in reversed(reports):
        by_error.setdefault(report.error, []).append(report)
    parts = [
        f"sample {same[0].sample_id!r}" + (f" and {len(same) - 1} more" if len(same) > 1 else "") + f": {error}"
        for error, same in list(by_error.items())[:most]
    ]
    if len(by_error) > most:
        parts.append(f"{len(by_error) - most} other errors")
    return "; ".join(parts)
