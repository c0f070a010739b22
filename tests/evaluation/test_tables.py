# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of benchmarks in their published form, by hand: micro, macro, intervals by video, official files, two runs."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest

from data_prep import benchmark
from tests.data_prep.test_benchmark import (
    egoschema_question,
    longvideobench_record,
    lvbench_question,
    lvbench_video,
    mlvu_test_record,
    videomme_record,
    write_json,
    write_lines,
)
from verl_videomtr.evaluation.comparison import NotComparable, compare, unpaired
from verl_videomtr.evaluation.official import write_official
from verl_videomtr.evaluation.rendering import markdown, to_csv, to_json
from verl_videomtr.evaluation.results import Result, result_of
from verl_videomtr.evaluation.statistics import mcnemar, mean_by_video, mean_of_groups, percentile
from verl_videomtr.evaluation.tables import report, reports


def make_result(sample_id="s", *, correct=True, video="v", groups=None, source="test", **changes):
    values = {"sample_id": sample_id, "data_source": source, "video": video, "groups": groups or {}, "correct": correct}
    return Result(**{**values, **changes})


def results_of(samples, right):
    """Results of samples in order; `right` says which answers were right."""
    return [
        make_result(s.sample_id, correct=bool(ok), video=s.video, groups=s.groups, source=s.data_source)
        for s, ok in zip(samples, right, strict=True)
    ]


def accuracies(table):
    return {value: (estimate.value, estimate.num) for value, estimate in table.rows}


# --- statistics ----------------------------------------------------------------------------------------------------


def test_micro_counts_questions_and_macro_counts_groups():
    # Group a: 1 of 1. Group b: 1 of 3. Micro 2/4; macro (1 + 1/3) / 2.
    values, videos, groups = [1, 1, 0, 0], ["v", "w", "x", "y"], ["a", "b", "b", "b"]
    assert mean_by_video(values, videos).value == 0.5
    assert mean_of_groups(values, videos, groups).value == pytest.approx(2 / 3)


def test_interval_resamples_videos_not_questions():
    # Ten questions a video, alike within it: 20 videos hold 20 outcomes, not 200.
    rng = np.random.default_rng(1)
    outcome = rng.random(20) < 0.5
    together = mean_by_video(np.repeat(outcome, 10), np.repeat([f"v{i}" for i in range(20)], 10))
    apart = mean_by_video(np.repeat(outcome, 10), [f"q{i}" for i in range(200)])
    p = outcome.mean()
    assert together.high - together.low == pytest.approx(2 * 1.96 * math.sqrt(p * (1 - p) / 20), rel=0.15)
    assert apart.high - apart.low == pytest.approx(2 * 1.96 * math.sqrt(p * (1 - p) / 200), rel=0.15)


def test_interval_is_the_same_each_time_and_absent_for_one_video():
    values, videos = [1, 0, 1, 1], ["a", "b", "c", "d"]
    assert mean_by_video(values, videos) == mean_by_video(values, videos)
    assert mean_by_video([1, 0], ["a", "a"]).low is None


def test_macro_interval_leaves_out_what_a_resample_does_not_hold():
    estimate = mean_of_groups([1, 0, 1], ["a", "b", "c"], ["x", "y", "y"])
    assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0


def test_mcnemar_is_the_exact_binomial_test():
    # 1 against 9: 2 * (1 + 10) / 2^10.
    assert mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(300, 500) < 1e-9
    assert mcnemar(3, 8) == mcnemar(8, 3)


def test_percentiles():
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert percentile([], 50) is None


# --- each benchmark in its published form --------------------------------------------------------------------------


def test_videomme_by_duration_domain_and_task(tmp_path):
    records = [
        videomme_record(question_id=f"{video}-{i}", videoID=f"yt{video}", video_id=video, duration=duration)
        | {"domain": f"domain {i}", "sub_category": f"part {i}", "task_type": f"task {i}"}
        for video, duration in (("001", "short"), ("301", "medium"), ("601", "long"))
        for i in (1, 2, 3)
    ]
    samples, _, _ = benchmark.convert("videomme", write_json(tmp_path / "videomme.json", records))
    results = results_of(samples, [1, 1, 1, 1, 1, 0, 0, 0, 1])
    table = report("videomme", results, frame_budget=32)
    assert (table.headline, table.micro.value, table.micro.num) == ("micro", pytest.approx(6 / 9), 9)
    assert [group.group for group in table.groups] == ["duration", "domain", "task_type", "sub_category"]
    assert accuracies(table.groups[0]) == {
        "short": (1.0, 3),
        "medium": (pytest.approx(2 / 3), 3),
        "long": (pytest.approx(1 / 3), 3),
    }
    assert [value for value, _ in table.groups[0].rows] == ["short", "medium", "long"]
    assert dict(table.paper) == {
        "Qwen2.5-VL-7B": 53.6,
        "Video-MTR 7B": 59.0,
        "Qwen2.5-VL-3B": 51.5,
        "Video-MTR 3B": 52.5,
    }
    assert report("videomme", results, frame_budget=48).paper == ()
    assert report("videomme", results).paper == ()

    answers = {sample.sample_id: "The answer is (C)" for sample in samples[:-1]}
    (path,) = write_official(tmp_path, samples, answers)
    content = json.loads(path.read_text())
    assert [(video["video_id"], video["duration"], len(video["questions"])) for video in content] == [
        ("001", "short", 3),
        ("301", "medium", 3),
        ("601", "long", 3),
    ]
    first = content[0]["questions"][0]
    assert first == {
        "question_id": "001-1",
        "task_type": "task 1",
        "question": "How many lamps hang in the hall?",
        "options": ["A. One.", "B. Two.", "C. A. Lincoln owned four.", "D. None of them."],
        "answer": "C",
        "response": "C",
    }
    assert content[2]["questions"][2]["response"] == ""


def test_mlvu_headline_is_the_mean_over_tasks(tmp_path):
    tasks = ["TR"] * 4 + ["AO"] * 1 + ["NQA"] * 1
    records = [mlvu_test_record(question_id=f"{task}_{i}", video=f"v{i}.mp4") for i, task in enumerate(tasks)]
    samples, _, _ = benchmark.convert("mlvu", write_json(tmp_path / "mlvu_test.json", records))
    table = report("mlvu", results_of(samples, [1, 1, 1, 0, 0, 1]), frame_budget=80)
    # Macro (3/4 + 0 + 1) / 3; micro 4/6.
    assert table.headline == "macro over task"
    assert table.main.value == pytest.approx(1.75 / 3)
    assert table.micro.value == pytest.approx(4 / 6)
    assert [value for value, _ in table.groups[0].rows] == ["TR", "NQA", "AO"]
    assert accuracies(table.groups[1]) == {
        "holistic": (0.75, 4),
        "single_detail": (1.0, 1),
        "multi_detail": (0.0, 1),
    }
    assert dict(table.paper)["Video-MTR 7B"] == 50.4
    assert "Video-MTR 3B" not in dict(table.paper)

    answers = {samples[0].sample_id: "F. Explosion", samples[1].sample_id: "E", samples[2].sample_id: "A or B"}
    (path,) = write_official(tmp_path, samples, answers)
    content = json.loads(path.read_text())
    assert content[0] == {"question_id": "TR_0", "question_type": "anomaly_reco", "option": "F"}
    # Six options: E and F are letters like others. Two letters are none, and nothing is guessed.
    assert [entry["option"] for entry in content] == ["F", "E", "", "", "", ""]


def test_lvbench_question_counts_in_each_of_its_types(tmp_path):
    questions = [
        lvbench_question("1"),
        lvbench_question("2", question_type=["reasoning"]),
        lvbench_question("3", question_type=["entity recognition"]),
    ]
    path = write_lines(tmp_path / "video_info.meta.jsonl", [lvbench_video(*questions)])
    samples, _, _ = benchmark.convert("lvbench", path)
    table = report("lvbench", results_of(samples, [1, 0, 0]))
    assert (table.headline, table.micro.value, table.micro.num) == ("micro", pytest.approx(1 / 3), 3)
    assert accuracies(table.groups[0]) == {
        "entity recognition": (0.5, 2),
        "key information retrieval": (1.0, 1),
        "reasoning": (0.0, 1),
    }
    (path,) = write_official(tmp_path, samples, {samples[0].sample_id: "D"})
    # Its scorer divides by the answers in the file.
    assert json.loads(path.read_text()) == {"1": "D", "2": "", "3": ""}


def test_longvideobench_by_duration_in_seconds(tmp_path):
    records = [
        longvideobench_record(id=f"x_{i}", video_id=f"x{i}", video_path=f"x{i}.mp4", duration_group=group)
        for i, group in enumerate((15, 60, 600, 3600, 3600))
    ]
    samples, _, _ = benchmark.convert("longvideobench", write_json(tmp_path / "lvb_val.json", records))
    table = report("longvideobench", results_of(samples, [1, 1, 0, 0, 1]))
    assert table.micro.value == pytest.approx(3 / 5)
    assert [value for value, _ in table.groups[0].rows] == ["15", "60", "600", "3600"]
    assert accuracies(table.groups[0])["3600"] == (0.5, 2)
    (path,) = write_official(tmp_path, samples, {samples[0].sample_id: "C", samples[1].sample_id: "nothing"})
    assert json.loads(path.read_text()) == {"x_0": 2, "x_1": -1, "x_2": -1, "x_3": -1, "x_4": -1}


def test_egoschema_has_one_number(tmp_path):
    write_json(tmp_path / "questions.json", [egoschema_question("u1"), egoschema_question("u2")])
    write_json(tmp_path / "subset_answers.json", {"u1": 0, "u2": 1})
    samples, _, _ = benchmark.convert("egoschema", tmp_path)
    table = report("egoschema", results_of(samples, [1, 0]), frame_budget=64)
    assert (table.micro.value, table.groups) == (0.5, ())
    assert dict(table.paper)["Video-MTR 7B"] == 63.4
    (path,) = write_official(tmp_path, samples, {"egoschema/u1": "E"})
    assert json.loads(path.read_text()) == {"u1": 4, "u2": -1}


def test_data_of_ones_own_gets_tables_of_its_groups():
    results = [make_result(str(i), correct=i < 2, groups={"place": "sea" if i else "land"}) for i in range(3)]
    (table,) = reports(results)
    assert table.title == "test"
    assert accuracies(table.groups[0]) == {"land": (1.0, 1), "sea": (0.5, 2)}


def test_group_whose_values_all_questions_share_is_left_out():
    same, some = {"split": "test", "kinds": ["a", "b"]}, {"place": "sea"}
    results = [make_result(str(i), correct=i < 2, groups={**same, **(some if i else {})}) for i in range(3)]
    table = report("test", results)
    assert [group.group for group in table.groups] == ["place"]
    assert accuracies(table.groups[0]) == {"sea": (0.5, 2)}
    assert "split" not in markdown([table], line="")
    # One task of MLVU: its macro accuracy would be the total's.
    one = [make_result(str(i), correct=i < 2, groups={"task": "count"}, source="mlvu_dev") for i in range(3)]
    assert (report("mlvu_dev", one).headline, report("mlvu_dev", one).groups) == ("micro", ())


# --- failures and how episodes went --------------------------------------------------------------------------------


def test_failed_episodes_are_wrong_in_the_main_number_and_left_out_of_the_second():
    results = [
        make_result("a"),
        make_result("b", correct=False),
        make_result("c", correct=False, failure="unreadable: no moov atom"),
        make_result("d", correct=False, failure="unanswered: HTTP 500"),
    ]
    table = report("test", results)
    assert (table.micro.value, table.micro.num) == (0.25, 4)
    assert (table.answered.value, table.answered.num) == (0.5, 2)
    assert table.failures == (("c", "unreadable: no moov atom"), ("d", "unanswered: HTTP 500"))
    text = markdown([table], line="everything")
    assert "2 episodes failed; they are wrong in the main number:" in text
    assert "- c: unreadable: no moov atom" in text


def test_run_in_which_everything_failed_has_a_number_too():
    table = report("test", [make_result("a", correct=False, failure="x")])
    assert (table.micro.value, table.answered, table.course) == (0.0, None, {})


def record(**changes):
    """A line of a trajectory file: two turns, a look and an answer."""
    episode = {
        "answer": "B",
        "stop_reason": "answered",
        "initial_iou": 0.1,
        "retrieval_ious": [0.5, None],
        "actions": ["retrieve", "answer"],
        "responses": ["...", "..."],
        "frames": [[0, 1, 2, 3], [7, 8]],
    }
    line = {
        "schema_version": 2,
        "status": "played",
        "sample_id": "s",
        "data_source": "test",
        "video": "v",
        "groups": {"task": "x"},
        "correct": True,
        "prompt_tokens": [100, 150],
        "response_tokens": [10, 12],
        "response_seconds": [0.5, 0.7],
        "episode": {**episode, **changes.pop("episode", {})},
    }
    return {**line, **changes}


def test_course_of_the_episodes():
    lines = [
        record(),
        record(
            sample_id="t",
            correct=False,
            response_seconds=[0.9],
            prompt_tokens=[100],
            response_tokens=[20],
            episode={
                "answer": None,
                "stop_reason": "length_limit",
                "initial_iou": None,
                "retrieval_ious": [None],
                "actions": ["invalid"],
                "responses": ["?"],
                "frames": [[0, 1, 2, 3]],
            },
        ),
    ]
    course = report("test", [result_of(line) for line in lines]).course
    assert course["turns"] == 1.5
    assert course["retrievals_per_turn"] == pytest.approx(1 / 3)
    assert course["invalid_per_turn"] == pytest.approx(1 / 3)
    assert course["frames"] == 5.0
    assert (course["no_answer"], course["truncated"], course["with_ground_truth"]) == (0.5, 0.5, 0.5)
    assert (course["overview_iou"], course["best_iou"], course["retrieved_iou"], course["hit_rate"]) == (
        0.1,
        0.5,
        0.5,
        1,
    )
    assert (course["input_tokens"], course["output_tokens"]) == (175.0, 21.0)
    assert course["response_seconds_p50"] == pytest.approx(0.7)


def test_best_look_may_be_the_overview():
    assert result_of(record(episode={"initial_iou": 0.7})).best_iou == 0.7
    assert result_of(record()).best_iou == 0.5


def test_lost_line_is_a_failure_with_the_rows_groups(tmp_path):
    samples, _, _ = benchmark.convert("videomme", write_json(tmp_path / "videomme.json", [videomme_record()]))
    lost = {"status": "lost", "sample_id": samples[0].sample_id, "kind": "unreadable", "error": "no such file"}
    result = result_of(lost, samples[0])
    assert (result.correct, result.failure) == (False, "unreadable: no such file")
    assert (result.data_source, result.group_values("duration")) == ("videomme", ["short"])
    assert result_of(lost).data_source == "unknown"


def test_three_forms_hold_the_same_numbers():
    results = [make_result(str(i), correct=i % 3 == 0, video=f"v{i}", groups={"task": "xy"[i % 2]}) for i in range(9)]
    tables = reports(results)
    rows = list(csv.DictReader(io.StringIO(to_csv(tables))))
    assert [(row["table"], row["value"], row["questions"]) for row in rows] == [
        ("headline", "micro", "9"),
        ("overall", "micro", "9"),
        ("task", "x", "5"),
        ("task", "y", "4"),
        ("task", "macro", "9"),
    ]
    data = json.loads(to_json(tables, line="the line"))
    assert data["line"] == "the line"
    assert data["reports"][0]["micro"]["value"] == float(rows[0]["accuracy"]) == pytest.approx(1 / 3)
    text = markdown(tables, line="the line")
    assert f"33.3 [{100 * float(rows[0]['low']):.1f}, {100 * float(rows[0]['high']):.1f}]" in text
    assert text.rstrip().endswith("the line")


# --- two runs ------------------------------------------------------------------------------------------------------


def test_comparison_pairs_by_question():
    first = [
        make_result(str(i), correct=i < 4, video=f"v{i // 2}", groups={"t": "ab"[i % 2], "split": "test"})
        for i in range(10)
    ]
    second = [
        make_result(str(i), correct=i >= 2, video=f"v{i // 2}", groups={"t": "ab"[i % 2], "split": "test"})
        for i in range(10)
    ]
    found = compare(first, list(reversed(second)))["test"]
    whole = found[0]
    assert (whole.name, whole.first, whole.second) == ("all", 0.4, 0.8)
    # A alone: questions 0 and 1. B alone: 4 to 9.
    assert (whole.only_first, whole.only_second) == (2, 6)
    assert whole.p_value == pytest.approx(2 * (1 + 8 + 28) / 256)
    assert whole.change.value == pytest.approx(0.4)
    assert whole.change.low < 0.4 < whole.change.high
    assert [difference.name for difference in found[1:]] == ["t=a", "t=b"]


def test_runs_over_other_questions_cannot_be_compared():
    with pytest.raises(NotComparable, match="share no question"):
        compare([make_result("a")], [make_result("b")])
    with pytest.raises(NotComparable, match="first run has question 'a' more than once"):
        compare([make_result("a"), make_result("a")], [make_result("a")])
    assert unpaired([make_result("a"), make_result("b")], [make_result("b"), make_result("c"), make_result("d")]) == (
        1,
        2,
    )
