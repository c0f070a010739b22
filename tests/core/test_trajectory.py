# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
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
        turn_rows=[0] * num_turns,
        turn_spans=[[10 * i, 10 * i + 5] for i in range(num_turns)],
        turn_rewards=[0.6] * (num_turns - 1) + [1.1],
        components={"acc": float(correct), "gate_open": float(correct)},
        correct=correct,
        episode={
            "actions": list(actions),
            "format_ok": [action != "invalid" for action in actions],
            "initial_iou": initial_iou,
            "retrieval_ious": list(ious),
            "ranges": [[2, 7] if action == "retrieve" else None for action in actions],
            "invalid_kinds": ["range" for action in actions if action == "invalid"],
            "responses": [f"<think>I need to {action}</think>" for action in actions],
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
    # The only invalid turn of five; the first trajectory retrieves in its first turn, the second in its second.
    assert metrics["videomtr/invalid/range"] == pytest.approx(1 / 5)
    assert metrics["videomtr/invalid/tags"] == 0.0
    assert metrics["videomtr/iou/turn_1"] == 0.5
    assert metrics["videomtr/iou/turn_2"] == 0.0


def test_signs_of_collapse_by_hand():
    # Both retrieve [2, 7] although frame 7 was never shown and frame 2 was; all six thoughts begin alike.
    alike = summarize([make_trajectory(), make_trajectory(), make_trajectory()])
    assert alike["videomtr/collapse/interval_entropy"] == 0.0
    assert alike["videomtr/collapse/endpoints_copied"] == 0.5
    assert alike["videomtr/collapse/same_first_words"] == 1.0
    other = make_trajectory(ranges=[[0, 3], None], responses=["<think>maybe a later part</think>", "no thought at all"])
    mixed = summarize([make_trajectory(), other])
    # Two different ranges: as much entropy as two can have. Ends 2, 0 and 3 had been shown, 7 had not.
    assert mixed["videomtr/collapse/interval_entropy"] == pytest.approx(1.0)
    assert mixed["videomtr/collapse/endpoints_copied"] == 0.75
    assert mixed["videomtr/collapse/same_first_words"] == 0.5


def test_validation_numbers_by_hand():
    numbers = make_trajectory(actions=("invalid", "retrieve", "answer"), ious=(None, 0.4, None)).numbers()
    assert numbers["episode_reward"] == pytest.approx(0.6 + 0.6 + 1.1)
    assert numbers["invalid_range"] == 1.0
    assert numbers["hits"] == 1.0
    assert numbers["retrieved_iou"] == pytest.approx(0.4)
    assert numbers["frame_budget_used"] == 1.0
    assert "reward" not in numbers, "verl adds that key itself, and would then have two values per sample"


def test_metric_names_survive_verls_aggregation():
    """verl folds a step's sub-metrics by words in their names; ours must all be averaged."""
    MetricsAggregator = pytest.importorskip("verl.trainer.ppo.v1.utils").MetricsAggregator

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
