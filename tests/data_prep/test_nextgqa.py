# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""NExT-GQA rows: the filter, every drop, and the paper's counts on the real validation files where they are at hand."""

import csv
import json
from pathlib import Path

import pytest

from data_prep import nextgqa
from data_prep.relevance import RelevanceFilter, clip_segments, union_seconds
from verl_videomtr.sample import read_rows

REAL_FILES = Path(__file__).resolve().parents[3] / "shared" / "data" / "nextgqa"
HEADER = [
    "video_id",
    "frame_count",
    "width",
    "height",
    "question",
    "answer",
    "qid",
    "type",
    "a0",
    "a1",
    "a2",
    "a3",
    "a4",
]


def question(video_id, qid, *, answer="red cup", options=("red cup", "blue cup", "a hat", "a dog", "a kite")):
    return [video_id, 900, 640, 480, "what is on the table", answer, qid, "TC", *options]


def write_annotations(directory, *, rows, grounding, folders=None):
    with open(directory / "val.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    (directory / "gsub_val.json").write_text(json.dumps(grounding))
    folders = {video: f"0001/{video}" for video in grounding} if folders is None else folders
    (directory / "map_vid_vidorID.json").write_text(json.dumps(folders))
    return directory


def video(duration, **location):
    return {"duration": duration, "location": location, "fps": 29.97}


def convert(directory, **changes):
    return nextgqa.convert(directory, split="val", relevance=RelevanceFilter(**changes))


def test_union_counts_overlapping_seconds_once():
    # [0, 4] and [2, 6] cover 6 s, [10, 11] one more, [3, 4] nothing new.
    assert union_seconds([(10.0, 11.0), (0.0, 4.0), (3.0, 4.0), (2.0, 6.0)]) == 7.0


def test_clip_cuts_at_both_ends_and_loses_what_lies_outside():
    spans = ((-1.0, 3.0), (8.0, 12.0), (10.0, 11.0), (4.0, 5.0))
    assert clip_segments(spans, duration_seconds=10.0) == (((0.0, 3.0), (8.0, 10.0), (4.0, 5.0)), 3)


def test_reversed_span_is_lost_and_counted(tmp_path):
    write_annotations(tmp_path, rows=[question("1", 0)], grounding={"1": video(60, **{"0": [[9, 5], ["1", "2"]]})})
    (sample,), _, counts = convert(tmp_path)
    assert (sample.segments, counts.groundings, counts.clipped) == (((1.0, 2.0),), 2, 1)


def test_row_holds_what_the_files_say(tmp_path):
    write_annotations(tmp_path, rows=[question("77", 3)], grounding={"77": video(60, **{"3": [[1.5, 4], [10, 20]]})})
    (sample,), drops, counts = convert(tmp_path)
    assert (sample.sample_id, sample.video) == ("nextgqa/val/77/3", "nextgqa/0001/77.mp4")
    assert (sample.answer, sample.options[0]) == ("A", "red cup")
    assert sample.segments == ((1.5, 4.0), (10.0, 20.0))
    assert (sample.duration_seconds, sample.groups) == (60.0, {"type": "TC"})
    assert sample.metadata["license"] == "MIT"
    assert len(drops) == 0
    assert (counts.groundings, counts.questions, counts.passed, counts.clipped) == (2, 1, 1, 0)


def test_each_unusable_row_is_listed_with_its_reason(tmp_path):
    grounding = {
        "1": video(60, **{"0": [[0, 5]], "1": [[0, 5]], "2": [[0, 20], [25, 35]], "3": [[61, 62]]}),
        "2": video(29, **{"0": [[0, 5]]}),
        **{number: video(60, **{"0": [[0, 5]]}) for number in ("3", "5", "6")},
    }
    rows = [
        question("1", 0, options=("red cup", "a hat", "A Hat", "a dog", "a kite")),
        question("1", 1, answer="green cup"),
        question("1", 2),  # 30 of 60 s: the ratio must lie below one half
        question("1", 3),
        question("1", 9),
        question("2", 0),
        question("3", 0),
        question("4", 0),
        question("5", 0),
        question("6", 0),
    ]
    write_annotations(tmp_path, rows=rows, grounding=grounding, folders={"1": "0001/1", "5": None, "6": ["6"]})
    samples, drops, counts = convert(tmp_path)
    assert samples == []
    assert {entry["id"].removeprefix("nextgqa/val/"): entry["reason"] for entry in drops.entries} == {
        "1/0": "duplicate option text",
        "1/1": "answer is not among the options",
        "1/2": "relevant ratio not below 0.5",
        "1/3": "no span inside the video",
        "1/9": "no grounding",
        "2/0": "video shorter than 30 s",
        "3/0": "video is not in map_vid_vidorID.json",
        "4/0": "no grounding",
        "5/0": "video is not in map_vid_vidorID.json",
        "6/0": "folder of the video is not a text",
    }
    assert (counts.questions, counts.passed) == (10, 5)


@pytest.mark.parametrize(
    ("duration", "spans", "reason"),
    [
        (float("nan"), [[0, 5]], "malformed grounding"),
        ("long", [[0, 5]], "malformed grounding"),
        (None, [[0, 5]], "malformed grounding"),
        (60, [[float("nan"), 5]], "segments are not pairs of seconds"),
        (60, [[0, float("inf")]], "segments are not pairs of seconds"),
        (60, [[0, 5, 9]], "segments are not pairs of seconds"),
        (60, "0-5", "segments are not pairs of seconds"),
        (60, {"start": 0}, "segments are not pairs of seconds"),
        (60, ["05", "09"], "segments are not pairs of seconds"),
        (60, [{"1": 0, "5": 0}], "segments are not pairs of seconds"),
        (60, [[False, True]], "segments are not pairs of seconds"),
        (60, [["1_0", "2_0"]], "segments are not pairs of seconds"),
        (60, [["0:05", "0:09"]], "segments are not pairs of seconds"),
        (60, [[9, 5]], "no span inside the video"),
    ],
)
def test_times_that_are_none_are_listed_not_guessed(tmp_path, duration, spans, reason):
    grounding = {"1": {"duration": duration, "location": {"0": spans}, "fps": 30.0}}
    write_annotations(tmp_path, rows=[question("1", 0)], grounding=grounding)
    samples, drops, _ = convert(tmp_path)
    assert (samples, [entry["reason"] for entry in drops.entries]) == ([], [reason])


def test_thirty_seconds_is_long_enough_and_both_limits_can_be_moved(tmp_path):
    grounding = {"1": video(30, **{"0": [[0, 14]]})}
    write_annotations(tmp_path, rows=[question("1", 0)], grounding=grounding)
    assert len(convert(tmp_path)[0]) == 1
    assert len(convert(tmp_path, min_duration_seconds=31)[0]) == 0
    assert len(convert(tmp_path, max_ratio=0.4)[0]) == 0


@pytest.mark.parametrize("changes", [{"min_duration_seconds": float("nan")}, {"max_ratio": float("nan")}])
def test_filter_that_lets_all_through_unseen_is_refused(changes):
    with pytest.raises(ValueError, match="expected 0"):
        RelevanceFilter(**changes)


def test_span_past_the_end_is_clipped_and_counted(tmp_path):
    write_annotations(tmp_path, rows=[question("1", 0)], grounding={"1": video(40, **{"0": [[35, 40.6]]})})
    (sample,), _, counts = convert(tmp_path)
    assert sample.segments == ((35.0, 40.0),)
    assert counts.clipped == 1


def test_command_writes_rows_and_the_list_of_drops(tmp_path, capsys):
    write_annotations(
        tmp_path, rows=[question("1", 0), question("1", 1)], grounding={"1": video(40, **{"0": [[0, 5]]})}
    )
    out = tmp_path / "out" / "rows.parquet"
    assert nextgqa.main(["--annotations", str(tmp_path), "--split", "val", "--out", str(out)]) == 0
    assert [sample.sample_id for sample in read_rows(out)] == ["nextgqa/val/1/0"]
    listed = [json.loads(line) for line in (tmp_path / "out" / "rows.dropped.jsonl").read_text().splitlines()]
    assert [(entry["id"], entry["reason"]) for entry in listed] == [("nextgqa/val/1/1", "no grounding")]
    assert "nextgqa val           1   2            1     1" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["val.csv", "gsub_val.json", "map_vid_vidorID.json"])
def test_missing_file_is_one_clear_error_and_writes_nothing(tmp_path, capsys, name):
    write_annotations(tmp_path, rows=[question("1", 0)], grounding={"1": video(40, **{"0": [[0, 5]]})})
    (tmp_path / name).unlink()
    out = tmp_path / "rows.parquet"
    assert nextgqa.main(["--annotations", str(tmp_path), "--split", "val", "--out", str(out)]) == 1
    assert f"no such file; expected '{name}'" in capsys.readouterr().err
    assert not out.exists()


def test_nextqas_own_csv_is_told_apart_by_its_columns(tmp_path, capsys):
    write_annotations(tmp_path, rows=[question("1", 0)], grounding={"1": video(40, **{"0": [[0, 5]]})})
    text = (tmp_path / "val.csv").read_text().replace("video_id", "video", 1)
    (tmp_path / "val.csv").write_text(text)
    arguments = ["--annotations", str(tmp_path), "--split", "val", "--out", str(tmp_path / "rows.parquet")]
    assert nextgqa.main(arguments) == 1
    assert "columns ['video_id'] are not there" in capsys.readouterr().err


def test_empty_result_is_an_error_that_still_lists_the_drops(tmp_path, capsys):
    write_annotations(tmp_path, rows=[question("1", 0)], grounding={"1": video(10, **{"0": [[0, 5]]})})
    out = tmp_path / "rows.parquet"
    assert nextgqa.main(["--annotations", str(tmp_path), "--split", "val", "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "no samples to write" in captured.err
    assert "1  video shorter than 30 s" in captured.out
    assert not out.exists()


def test_videos_in_the_wrong_place_are_named_with_the_expected_path(tmp_path, capsys):
    write_annotations(tmp_path, rows=[question("1", 0)], grounding={"1": video(40, **{"0": [[0, 5]]})})
    arguments = ["--annotations", str(tmp_path), "--split", "val", "--out", str(tmp_path / "rows.parquet")]
    assert nextgqa.main([*arguments, "--videos", str(tmp_path)]) == 1
    assert f"expected e.g. {tmp_path / 'nextgqa' / '0001' / '1.mp4'}" in capsys.readouterr().err


@pytest.mark.skipif(not REAL_FILES.is_dir(), reason="the real NExT-GQA files are not here")
def test_real_validation_split_gives_the_published_counts():
    samples, drops, counts = convert(REAL_FILES)
    assert (counts.groundings, counts.questions, counts.passed) == (3931, 3358, 1940)
    assert len(samples) + len(drops) == 3358
    assert counts.clipped == 3
