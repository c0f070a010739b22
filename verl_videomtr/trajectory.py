"""The finished trajectory: what one episode was, earned and cost; and the numbers that a step's trajectories make.

Plain values only, so that a record passes between processes, into a JSONL file and back unchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One played episode with its rewards."""

    sample_id: str
    data_source: str
    split: str
    video: str
    question: str
    ground_truth: str
    groups: dict[str, Any]
    turn_spans: list[list[int]]
    """[start, end) of each turn's sampled tokens in the response; empty for a response without tokens."""
    turn_rewards: list[float]
    """r_k, one per turn, gate applied."""
    components: dict[str, float]
    """Sums by component, as the reward function reports them."""
    correct: bool
    episode: dict[str, Any]
    """`Episode.record()`."""
    seconds: dict[str, float]
    """Wall time by what it was spent on."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Trajectory:
        return cls(**record)

    @property
    def num_turns(self) -> int:
        return len(self.turn_spans)

    @property
    def num_retrievals(self) -> int:
        return sum(action == "retrieve" for action in self.episode["actions"])

    @property
    def best_iou(self) -> float | None:
        """Highest IoU with the ground truth of anything shown; None without ground truth."""
        ious = [self.episode["initial_iou"], *self.episode["retrieval_ious"]]
        known = [iou for iou in ious if iou is not None]
        return max(known) if known else None

    def numbers(self) -> dict[str, float]:
        """What verl averages over a validation set: always the same keys, always numbers."""
        return {
            "acc": float(self.correct),
            "turns": float(self.num_turns),
            "retrievals": float(self.num_retrievals),
            "format_rate": _mean(self.episode["format_ok"]),
            "best_iou": self.best_iou or 0.0,
            "frames": float(sum(len(frames) for frames in self.episode["frames"])),
            "truncated": float(self.episode["stop_reason"] == "length_limit"),
        }


def summarize(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Average a step's trajectories into metrics named `videomtr/<area>/<name>`.

    The names avoid the words max, min, sum and total: verl's aggregation over sub-steps reads them as orders.
    """
    if not trajectories:
        return {}
    turns = sum(trajectory.num_turns for trajectory in trajectories)
    retrievals = [trajectory.num_retrievals for trajectory in trajectories]
    grounded = [trajectory for trajectory in trajectories if trajectory.best_iou is not None]
    metrics = {
        "episode/accuracy": _mean([trajectory.correct for trajectory in trajectories]),
        "episode/turns": turns / len(trajectories),
        "episode/format_rate": _mean([ok for t in trajectories for ok in t.episode["format_ok"]]),
        "episode/truncated": _mean([t.episode["stop_reason"] == "length_limit" for t in trajectories]),
        "episode/frame_budget_used": _mean(
            [sum(map(len, t.episode["frames"])) / t.episode["frame_budget"] for t in trajectories]
        ),
        "retrieval/rate_of_turns": sum(retrievals) / turns if turns else 0.0,
        "retrieval/rate_of_trajectories": _mean([count > 0 for count in retrievals]),
        "reward/episode": _mean([sum(t.turn_rewards) for t in trajectories]),
    }
    if grounded:
        metrics["iou/overview"] = _mean([t.episode["initial_iou"] for t in grounded])
        metrics["iou/best"] = _mean([t.best_iou or 0.0 for t in grounded])
        looked = [iou for t in grounded for iou in t.episode["retrieval_ious"] if iou is not None]
        if looked:
            metrics["iou/retrieved"] = _mean(looked)
            metrics["retrieval/hit_rate"] = _mean([iou > 0 for iou in looked])
    for name in sorted({name for t in trajectories for name in t.components}):
        metrics[f"reward/{name}"] = _mean([t.components.get(name, 0.0) for t in trajectories])
    for name in sorted({name for t in trajectories for name in t.seconds}):
        metrics[f"seconds/{name}"] = _mean([t.seconds.get(name, 0.0) for t in trajectories])
    return {f"videomtr/{name}": value for name, value in metrics.items()}


def _mean(values: Sequence[float | bool]) -> float:
    return sum(float(value) for value in values) / len(values) if values else 0.0
