# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Mixing and checking files of rows."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import benchmark, check, custom, mix, nextgqa, qvhighlights
from data_prep.mix import join, split_videos
from verl_videomtr.sample import SCHEMA, Sample, SampleError, read_rows, write_rows


def make_sample(number, **changes):
    fields = {
        "data_source": "cats",
        "sample_id": f"cats/{number}",
        "index": number,
        "split": "train",
        "video": f"cats/{number}.mp4",
        "duration_seconds": 60.0,
        "question": f"what does cat {number} do",
        "options": ("sleep", "jump", "eat"),
        "answer": "B",
        "question_type": "multiple_choice",
        "segments": ((1.0, 2.0),),
    }
    return Sample(**{**fields, **changes})


def write(path, samples):
    return write_rows(path, [dataclasses.replace(sample, index=index) for index, sample in enumerate(samples)])


def test_mix_renumbers_shuffles_and_keeps_every_row(tmp_path, capsys):
    cats = write(tmp_path / "cats.parquet", [make_sample(i) for i in range(6)])
    dogs = write(
        tmp_path / "dogs.parquet",
        [make_sample(i, data_source="dogs", sample_id=f"dogs/{i}", segments=None) for i in range(4)],
    )
    assert mix.main([str(cats), str(dogs), "--out", str(tmp_path / "train.parquet")]) == 0
    rows = read_rows(tmp_path / "train.parquet")
    assert [row.index for row in rows] == list(range(10))
    assert sorted(row.sample_id for row in rows) == sorted(
        [f"cats/{i}" for i in range(6)] + [f"dogs/{i}" for i in range(4)]
    )
    assert [row.data_source for row in rows] != ["cats"] * 6 + ["dogs"] * 4
    assert "dogs       4      4         0" in capsys.readouterr().out


def test_seed_decides_the_order(tmp_path):
    cats = write(tmp_path / "cats.parquet", [make_sample(i) for i in range(20)])
    orders = []
    for seed, name in ((1, "a"), (1, "b"), (2, "c")):
        mix.main([str(cats), "--out", str(tmp_path / f"{name}.parquet"), "--seed", str(seed)])
        orders.append([row.sample_id for row in read_rows(tmp_path / f"{name}.parquet")])
    assert orders[0] == orders[1] != orders[2]


def test_holdout_takes_whole_recordings_and_marks_the_split(tmp_path):
    # Ten recordings with two clips each, three questions per clip.
    samples = [
        make_sample(i, video=f"{i // 6}_{i % 2}.mp4", metadata={"source_video": f"yt{i // 6}"}) for i in range(60)
    ]
    cats = write(tmp_path / "cats.parquet", samples)
    train, held = tmp_path / "train.parquet", tmp_path / "val.parquet"
    assert mix.main([str(cats), "--out", str(train), "--holdout", "12", "--holdout-out", str(held)]) == 0
    train_rows, held_rows = read_rows(train), read_rows(held)
    assert (len(train_rows), len(held_rows)) == (48, 12)
    assert {row.metadata["source_video"] for row in train_rows}.isdisjoint(
        row.metadata["source_video"] for row in held_rows
    )
    assert ({row.split for row in train_rows}, {row.split for row in held_rows}) == ({"train"}, {"val"})
    assert check.main([str(train), str(held)]) == 0


def test_recording_numbered_in_other_types_is_one_recording(tmp_path):
    # pandas makes 7.0 of 7 where a column has gaps.
    cats = write(
        tmp_path / "cats.parquet",
        [
            make_sample(i, video=f"{i}.mp4", metadata={"source_video": number})
            for i, number in enumerate((7, 7.0, "7", 0, 0, None))
        ],
    )
    train, held = tmp_path / "train.parquet", tmp_path / "val.parquet"
    assert mix.main([str(cats), "--out", str(train), "--holdout", "3", "--holdout-out", str(held)]) == 0
    videos = {path: {row.video for row in read_rows(path)} for path in (train, held)}
    for recording in ({"0.mp4", "1.mp4", "2.mp4"}, {"3.mp4", "4.mp4"}):
        assert recording <= videos[train] or recording <= videos[held]


def test_where_held_out_rows_cannot_be_written_the_old_files_stay_together(tmp_path, capsys):
    cats = write(tmp_path / "cats.parquet", [make_sample(i) for i in range(6)])
    out = tmp_path / "new" / "train.parquet"
    arguments = [str(cats), "--out", str(out), "--holdout", "2", "--holdout-out"]
    assert mix.main([*arguments, str(cats / "val.parquet")]) == 1
    assert "cannot write it" in (message := capsys.readouterr().err)
    assert "cats.parquet/val.parquet; make room or choose another; nothing was replaced" in message
    assert list(out.parent.iterdir()) == []


def test_holdout_that_does_not_divide_takes_fewer_not_more():
    samples = [make_sample(i, video=f"{i // 4}.mp4") for i in range(20)]
    train, held = split_videos(samples, num_holdout=6, seed=0)
    assert (len(train), len(held)) == (16, 4)


def test_holdout_draws_from_each_source_by_its_share_of_rows():
    # Half of the rows in recordings of ten questions, half in recordings of one.
    many = [make_sample(i, video=f"m{i // 10}") for i in range(500)]
    one = [make_sample(500 + i, video=f"o{i}") for i in range(500)]
    num_held_many = [
        sum(sample.video.startswith("m") for sample in split_videos(many + one, num_holdout=100, seed=seed)[1])
        for seed in range(20)
    ]
    assert 40 <= sum(num_held_many) / 20 <= 60


def test_holdout_of_everything_is_refused():
    with pytest.raises(SampleError, match="some left to train on"):
        split_videos([make_sample(0)], num_holdout=1, seed=0)


def test_repeated_row_is_kept_once_and_a_contradiction_is_refused(tmp_path):
    first = write(tmp_path / "a.parquet", [make_sample(0), make_sample(1)])
    second = write(tmp_path / "b.parquet", [make_sample(1), make_sample(2)])
    samples, num_repeats = join([first, second])
    assert ([sample.sample_id for sample in samples], num_repeats) == (["cats/0", "cats/1", "cats/2"], 1)
    third = write(tmp_path / "c.parquet", [make_sample(1, answer="C")])
    with pytest.raises(SampleError, match="'cats/1' names two different samples"):
        join([first, third])


def test_output_over_an_input_is_refused(tmp_path, capsys):
    path = write(tmp_path / "a.parquet", [make_sample(0)])
    assert mix.main([str(path), "--out", str(path)]) == 1
    assert "also an input" in capsys.readouterr().err
    assert mix.main([str(path), "--out", str(tmp_path / "b.parquet"), "--holdout", "1"]) == 1
    assert "expected both or neither" in capsys.readouterr().err


def test_rows_to_evaluate_on_are_not_trained_on_without_a_word(tmp_path, capsys):
    cats = write(tmp_path / "cats.parquet", [make_sample(i) for i in range(4)])
    dogs = write(tmp_path / "dogs.parquet", [make_sample(9, split="test"), make_sample(8, split="val")])
    out = tmp_path / "train.parquet"
    assert mix.main([str(cats), str(dogs), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "2 rows are of split 'test', 'val', e.g. 'cats/9'; expected 'train'" in error
    assert "dogs.parquet" in error
    assert not out.exists()
    assert mix.main([str(cats), str(dogs), "--out", str(out), "--splits", "train", "val", "test"]) == 0
    assert {row.split for row in read_rows(out)} == {"train"}


def test_recordings_of_excluded_files_are_left_out_and_listed_and_the_check_ends_well(tmp_path, capsys):
    # As on the published files: a clip of the training source is cut from a recording of a benchmark.
    clips = [make_sample(i, video=f"qv/yt{i}_0_150.mp4", metadata={"source_video": f"yt{i}"}) for i in range(6)]
    movies = [
        make_sample(90 + i, split="test", video=f"videomme/yt{i}.mp4", metadata={"source_video": f"yt{i}"})
        for i in (2, 77)
    ]
    source, benchmark = write(tmp_path / "qv.parquet", clips), write(tmp_path / "videomme.parquet", movies)
    out = tmp_path / "train.parquet"
    assert mix.main([str(source), "--out", str(out)]) == 0
    assert check.main([str(out), str(benchmark)]) == 1
    assert f"mix with --exclude {benchmark}" in capsys.readouterr().out
    assert mix.main([str(source), "--out", str(out), "--exclude", str(benchmark)]) == 0
    assert sorted(row.sample_id for row in read_rows(out)) == [f"cats/{i}" for i in (0, 1, 3, 4, 5)]
    listed = json.loads((tmp_path / "train.dropped.jsonl").read_text())
    assert (listed["id"], listed["reason"]) == ("cats/2", "recording is in an excluded file")
    assert "1  recording is in an excluded file  (cats/2)" in capsys.readouterr().out
    assert check.main([str(out), str(benchmark)]) == 0
    assert mix.main([str(source), "--out", str(source.with_name("b.parquet")), "--exclude", str(source)]) == 1
    assert "some left to train on" in capsys.readouterr().err
    assert mix.main([str(source), "--out", str(benchmark), "--exclude", str(benchmark)]) == 1
    assert "also an input" in capsys.readouterr().err


@pytest.mark.parametrize("module", [benchmark, check, custom, mix, nextgqa, qvhighlights])
def test_commands_call_themselves_as_they_are_called(module, capsys):
    with pytest.raises(SystemExit):
        module.main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m {module.__name__} ")


def test_check_passes_whole_files_and_counts_them(tmp_path, capsys):
    path = write(tmp_path / "a.parquet", [make_sample(0), make_sample(1, segments=None)])
    assert check.main([str(path)]) == 0
    output = capsys.readouterr().out
    assert "0 problems" in output
    assert output.splitlines()[1].split() == [str(path), "2", "2", "1", "cats", "train"]


def test_check_lists_every_broken_row_of_a_file(tmp_path, capsys):
    rows = [make_sample(i).to_row() for i in range(4)]
    rows[1]["extra_info"]["segments"] = [[10.0, 61.0]]
    rows[2]["extra_info"]["answer"] = rows[2]["reward_model"]["ground_truth"] = "D"
    rows[3]["extra_info"]["index"] = 0
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "a.parquet")
    assert check.main([str(tmp_path / "a.parquet")]) == 1
    output = capsys.readouterr().out
    assert "row 1: segment (10.0, 61.0); expected 0 <= start < end <= 60.0 seconds" in output
    assert "row 2: answer='D'; expected one option letter A-C" in output
    assert "index occurs twice (1)" in output
    assert "3 problems" in output


def test_check_reports_training_videos_in_an_evaluation_file(tmp_path, capsys):
    train = write(tmp_path / "train.parquet", [make_sample(0, metadata={"source_video": "yt1"}), make_sample(1)])
    test = write(
        tmp_path / "test.parquet",
        [
            make_sample(7, split="test", video="other/name.mp4", metadata={"source_video": "yt1"}),
            make_sample(1, split="test"),
        ],
    )
    assert check.main([str(train), str(test)]) == 1
    output = capsys.readouterr().out
    assert "video is trained on and evaluated on (2)" in output
    assert "sample stands in two files (1)" in output
    assert "yt1: " in output


def test_check_notes_what_is_odd_but_usable(tmp_path, capsys):
    repeated = make_sample(2, question="what does cat 0 do", video="cats/0.mp4")
    odd = [make_sample(1, options=("Sleep", "jump", "sleep")), make_sample(3, options=("sleep", "jump", ""))]
    path = write(tmp_path / "a.parquet", [make_sample(0), *odd, repeated])
    assert check.main([str(path)]) == 0
    output = capsys.readouterr().out
    assert "note: question occurs twice under two ids (1)" in output
    assert "note: options repeat a text (1)" in output
    assert "note: an option is empty (1)" in output


def test_check_of_a_missing_file_is_a_problem_not_a_crash(tmp_path, capsys):
    assert check.main([str(tmp_path / "none.parquet")]) == 1
    assert "no such file" in capsys.readouterr().out
