"""The record of an episode and the numbers that a step's records make."""

from __future__ import annotations

import json

import pytest

from verl_videomtr.trajectory import Trajectory, summarize


def make_trajectory(actions=("retrieve", "answer"), ious=(0.5, None), initial_iou=0.1, correct=True, **episode):
    num_turns = len(actions)
    return Trajectory(
        sample_id="s",
        data_source="d",
        split="train",
        video="v.mp4",
        question="why?",
        ground_truth="B",
        groups={},
        turn_spans=[[10 * i, 10 * i + 5] for i in range(num_turns)],
        turn_rewards=[0.6] * (num_turns - 1) + [1.1],
        components={"acc": float(correct), "gate_open": float(correct)},
        correct=correct,
        episode={
            "actions": list(actions),
            "format_ok": [action != "invalid" for action in actions],
            "initial_iou": initial_iou,
            "retrieval_ious": list(ious),
            "frames": [[0, 1, 2, 3]] + [[1, 2]] * (num_turns - 1),
            "frame_budget": 8,
            "stop_reason": "answered",
            **episode,
        },
        seconds={"generate": 2.0},
    )


def test_step_metrics_by_hand():
    looked = make_trajectory()
    blind = make_trajectory(
        actions=("invalid", "retrieve", "answer"), ious=(None, 0.0, None), initial_iou=0.2, correct=False
    )
    metrics = summarize([looked, blind])
    assert metrics["videomtr/episode/accuracy"] == 0.5
    assert metrics["videomtr/episode/turns"] == 2.5
    assert metrics["videomtr/retrieval/rate_of_turns"] == pytest.approx(2 / 5)
    assert metrics["videomtr/retrieval/rate_of_trajectories"] == 1.0
    assert metrics["videomtr/retrieval/hit_rate"] == 0.5
    assert metrics["videomtr/iou/overview"] == pytest.approx(0.15)
    assert metrics["videomtr/iou/best"] == pytest.approx((0.5 + 0.2) / 2)
    assert metrics["videomtr/episode/format_rate"] == pytest.approx(4 / 5)
    assert metrics["videomtr/episode/frame_budget_used"] == pytest.approx((6 + 8) / 2 / 8)
    assert metrics["videomtr/reward/episode"] == pytest.approx((1.7 + 2.3) / 2)
    assert metrics["videomtr/reward/gate_open"] == 0.5


def test_metric_names_survive_verls_aggregation():
    """verl folds a step's sub-metrics by words in their names; ours must all be averaged."""
    from verl.trainer.ppo.v1.utils import MetricsAggregator

    aggregator = MetricsAggregator()
    for name in summarize([make_trajectory()]):
        assert aggregator._get_aggregation_type(name) not in ("max", "min", "sum"), name


def test_without_ground_truth_there_are_no_iou_metrics_and_validation_keeps_its_keys():
    trajectory = make_trajectory(ious=(None, None), initial_iou=None)
    assert not any("iou" in name for name in summarize([trajectory]))
    assert trajectory.numbers().keys() == make_trajectory().numbers().keys()
    assert trajectory.numbers()["best_iou"] == 0.0


def test_record_survives_json():
    trajectory = make_trajectory()
    assert Trajectory.from_dict(json.loads(json.dumps(trajectory.to_dict()))) == trajectory


def test_no_trajectories_make_no_metrics():
    assert summarize([]) == {}
