# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The finished trajectory: what one episode was, earned and cost; and the numbers that a step's trajectories make.

Plain values only, so that a record passes between processes, into a JSONL file and back unchanged. docs/records.md
describes the file.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from verl_videomtr.actions import InvalidKind
from verl_videomtr.sample import question_text

if TYPE_CHECKING:
    from verl_videomtr.rollout import Rollout
    from verl_videomtr.scoring import EpisodeScore

FIRST_WORDS = 3
"""Words of a thought's beginning that are compared between responses."""


SCHEMA_VERSION = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One played episode with its rewards."""

    schema_version: int = SCHEMA_VERSION
    status: str = "played"
    step: int | None = None
    """The trainer's step; None outside training and validation."""
    uid: str | None = None
    """verl's name of the prompt: trajectories that share it are a group."""
    session: int | None = None
    """Number of the trajectory in its group."""
    sample_id: str
    data_source: str
    split: str
    video: str
    question: str
    """With its options, as the policy reads it."""
    question_type: str | None = None
    options: list[str] = dataclasses.field(default_factory=list)
    ground_truth: str
    segments: list[list[float]] | None = None
    """Ground-truth evidence in seconds, as annotated."""
    groups: dict[str, Any]
    extra_info: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The row's `extra_info`, which the reward function is given beside the episode."""
    turn_rows: list[int]
    """Row of each turn: 0 for all of them, unless the context slid."""
    turn_spans: list[list[int]]
    """[start, end) of each turn's sampled tokens in its row's response; empty for a response without tokens."""
    turn_rewards: list[float]
    """r_k, one per turn, gate applied."""
    turn_components: list[dict[str, float]] = dataclasses.field(default_factory=list)
    """`acc`, `fms` and `format` of each turn, gate applied; [] where the reward function does not say."""
    components: dict[str, float]
    """Sums by component, as the reward function reports them."""
    gate_open: bool | None = None
    """Whether the rewards before the last turn were paid in full; None where the reward function does not say."""
    correct: bool
    bonus: list[float] = dataclasses.field(default_factory=list)
    """Exploration bonus paid on each turn, beside its reward; [] where none is paid."""
    advantages: list[float | None] | None = None
    """At each turn's last token, whitened over the batch; None for a turn without tokens, or all before training."""
    values: list[float | None] | None = None
    """The critic's, at each turn's last token."""
    returns: list[float | None] | None = None
    """At each turn's last token."""
    policy_version: dict[str, int] | None = None
    """`min` and `max` of the training steps whose weights took part."""
    finish_reasons: list[str] = dataclasses.field(default_factory=list)
    """Why each response ended."""
    prompt_tokens: list[int | None] = dataclasses.field(default_factory=list)
    """Tokens of the context behind which each response was sampled."""
    response_tokens: list[int | None] = dataclasses.field(default_factory=list)
    episode: dict[str, Any]
    """`Episode.record()`."""
    seconds: dict[str, float]
    """Wall time by what it was spent on."""

    @classmethod
    def of(cls, rollout: Rollout, score: EpisodeScore, **values: Any) -> Trajectory:
        """Describe a played and scored rollout.

        Args:
            values: fields that only the host knows: `turn_rows`, `turn_spans`, `uid`, `session`, `policy_version`.
        """
        sample = rollout.sample
        row = sample.to_row()["extra_info"]
        gate = score.components.get("gate_open")
        return cls(
            sample_id=sample.sample_id,
            data_source=sample.data_source,
            split=sample.split,
            video=sample.video,
            question=question_text(sample),
            question_type=sample.question_type,
            options=row["options"],
            ground_truth=sample.answer,
            segments=row["segments"],
            groups=dict(sample.groups),
            extra_info=row,
            turn_rewards=score.turn_rewards,
            turn_components=score.turn_components,
            components=score.components,
            gate_open=None if gate is None else bool(gate),
            correct=score.correct,
            finish_reasons=[reply.finish_reason for reply in rollout.replies],
            prompt_tokens=[reply.prompt_tokens for reply in rollout.replies],
            response_tokens=[reply.response_tokens for reply in rollout.replies],
            episode=rollout.episode.record(),
            seconds=dict(rollout.seconds),
            **values,
        )

    def to_dict(self) -> dict[str, Any]:
        # One level: what is inside is plain already, and a deep copy of it takes as long as writing it.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Trajectory:
        """Read a record; keys that others have added to it are left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in known})

    @property
    def num_turns(self) -> int:
        return len(self.turn_spans)

    @property
    def num_retrievals(self) -> int:
        return sum(action == "retrieve" for action in self.episode["actions"])

    def earns_bonus(self, turn: int) -> bool:
        """Whether a turn's action explored: a valid retrieval that brought frames back."""
        return self.episode["actions"][turn] == "retrieve" and bool(self.episode["returned"][turn])

    @property
    def best_iou(self) -> float | None:
        """Highest IoU with the ground truth of anything shown; None without ground truth."""
        ious = [self.episode["initial_iou"], *self.episode["retrieval_ious"]]
        known = [iou for iou in ious if iou is not None]
        return max(known) if known else None

    @property
    def num_segments_outside(self) -> int:
        """Annotated segments that lie outside the real video."""
        return int(self.episode.get("num_segments_outside_video", 0))

    @property
    def lost_its_evidence(self) -> bool:
        """Whether it counts as not annotated only because all its segments lie outside the real video."""
        return self.num_segments_outside > 0 and self.best_iou is None

    @property
    def frame_budget_used(self) -> float:
        """Share of the episode's frame budget that was shown."""
        return float(sum(map(len, self.episode["frames"])) / self.episode["frame_budget"])

    def copied_endpoints(self) -> list[bool]:
        """For both ends of every retrieved range, whether that index had been announced with a frame before."""
        copied: list[bool] = []
        announced: set[int] = set()
        for frames, ends in zip(self.episode["frames"], self.episode["ranges"], strict=True):
            announced.update(frames)
            copied += [end in announced for end in ends or ()]
        return copied

    def first_words(self) -> list[str]:
        """How each thought begins."""
        thoughts = (response.partition("<think>")[2] or response for response in self.episode["responses"])
        return [" ".join(thought.split()[:FIRST_WORDS]) for thought in thoughts]

    def numbers(self) -> dict[str, float]:
        """What verl averages over a validation set: always the same keys, always numbers.

        IoUs of samples without ground truth are 0, and so is what has no turn to be taken from: read a mean beside
        `has_ground_truth` and `retrievals`.
        """
        looked = [iou for iou in self.episode["retrieval_ious"] if iou is not None]
        kinds = Counter(self.episode["invalid_kinds"])
        return {
            "acc": float(self.correct),
            # verl's own sum covers a trajectory's last row alone.
            "episode_reward": sum(self.turn_rewards),
            "gate_open": float(self.components.get("gate_open", 0.0)),
            "turns": float(self.num_turns),
            "retrievals": float(self.num_retrievals),
            "retrieves": float(self.num_retrievals > 0),
            "format_rate": _mean(self.episode["format_ok"]),
            "has_ground_truth": float(self.best_iou is not None),
            "overview_iou": self.episode["initial_iou"] or 0.0,
            "best_iou": self.best_iou or 0.0,
            "retrieved_iou": _mean(looked),
            "hits": float(sum(iou > 0 for iou in looked)),
            "frames": float(sum(len(frames) for frames in self.episode["frames"])),
            "frame_budget_used": self.frame_budget_used,
            "truncated": float(self.episode["stop_reason"] == "length_limit"),
            "endpoints_copied": _mean(self.copied_endpoints()),
            **{f"invalid_{kind.value}": float(kinds[kind.value]) for kind in InvalidKind},
        }


def summarize(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Average a step's trajectories into metrics named `videomtr/<area>/<name>`.

    The names avoid the words max, min, sum and total: verl's aggregation over sub-steps reads them as orders.
    """
    if not trajectories:
        return {}
    turns = sum(trajectory.num_turns for trajectory in trajectories)
    retrievals = [trajectory.num_retrievals for trajectory in trajectories]
    kinds = Counter(kind for t in trajectories for kind in t.episode["invalid_kinds"])
    metrics = {
        "episode/accuracy": _mean([trajectory.correct for trajectory in trajectories]),
        "episode/turns": turns / len(trajectories),
        "episode/format_rate": _mean([ok for t in trajectories for ok in t.episode["format_ok"]]),
        "episode/truncated": _mean([t.episode["stop_reason"] == "length_limit" for t in trajectories]),
        "episode/frame_budget_used": _mean([t.frame_budget_used for t in trajectories]),
        # Annotated on another cut of the video: such evidence gives no frame, and without any left no R_fms.
        "video/segments_outside": _mean([t.num_segments_outside for t in trajectories]),
        "video/evidence_outside": _mean([t.lost_its_evidence for t in trajectories]),
        "retrieval/rate_of_turns": sum(retrievals) / turns if turns else 0.0,
        "retrieval/rate_of_trajectories": _mean([count > 0 for count in retrievals]),
        "reward/episode": _mean([sum(t.turn_rewards) for t in trajectories]),
        **{f"invalid/{kind.value}": kinds[kind.value] / turns if turns else 0.0 for kind in InvalidKind},
        **_summarize_ious(trajectories),
        **_summarize_habits(trajectories),
    }
    for name in sorted({name for t in trajectories for name in t.components}):
        metrics[f"reward/{name}"] = _mean([t.components.get(name, 0.0) for t in trajectories])
    for name in sorted({name for t in trajectories for name in t.seconds}):
        metrics[f"seconds/{name}"] = _mean([t.seconds.get(name, 0.0) for t in trajectories])
    return {f"videomtr/{name}": value for name, value in metrics.items()}


def _summarize_ious(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """How well the frames shown meet the ground truth, where there is one."""
    grounded = [trajectory for trajectory in trajectories if trajectory.best_iou is not None]
    if not grounded:
        return {}
    metrics = {
        "iou/overview": _mean([t.episode["initial_iou"] for t in grounded]),
        "iou/best": _mean([t.best_iou or 0.0 for t in grounded]),
    }
    looked = [(k, iou) for t in grounded for k, iou in enumerate(t.episode["retrieval_ious"], 1) if iou is not None]
    if looked:
        metrics["iou/retrieved"] = _mean([iou for _, iou in looked])
        metrics["retrieval/hit_rate"] = _mean([iou > 0 for _, iou in looked])
    for turn in sorted({turn for turn, _ in looked}):
        metrics[f"iou/turn_{turn}"] = _mean([iou for k, iou in looked if k == turn])
    return metrics


def _summarize_habits(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Signs of a policy that has stopped looking at what it is asked: see docs/appendix/algorithm.md."""
    ranges = [tuple(ends) for t in trajectories for ends in t.episode["ranges"] if ends]
    words = [start for t in trajectories for start in t.first_words()]
    metrics = {"collapse/same_first_words": Counter(words).most_common(1)[0][1] / len(words)} if words else {}
    if ranges:
        metrics["collapse/endpoints_copied"] = _mean([c for t in trajectories for c in t.copied_endpoints()])
    if len(ranges) > 1:
        metrics["collapse/interval_entropy"] = _entropy(ranges) / math.log(len(ranges))
    return metrics


def _entropy(items: Iterable[Any]) -> float:
    """Entropy of the items' own frequencies, in nats."""
    counts = Counter(items)
    num = counts.total()
    return -sum(count / num * math.log(count / num) for count in counts.values())


def _mean(values: Sequence[float | bool]) -> float:
    return sum(float(value) for value in values) / len(values) if values else 0.0
