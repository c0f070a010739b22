# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Rows from a user's own file."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import custom, mix
from data_prep.videos import probe_videos
from verl_videomtr.sample import read_rows


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def run(path, *extra):
    out = path.parent / "rows.parquet"
    code = custom.main(["--input", str(path), "--out", str(out), *extra])
    return code, read_rows(out) if out.exists() else []


CHOICE = {
    "video": "clips/a.mp4",
    "question": "what is poured",
    "options": ["milk", "tea"],
    "answer": "tea",
    "segments": [[12, 15.5]],
    "duration_seconds": 40,
}


def test_choice_row_keeps_extra_columns_and_groups(tmp_path):
    record = {**CHOICE, "id": 7, "place": "kitchen", "tags": ["hot", "drink"], "note": None}
    path = write_lines(tmp_path / "mine.jsonl", record)
    code, (sample,) = run(path, "--name", "tea", "--group", "place", "--group", "tags", "--split", "test")
    assert code == 0
    assert (sample.sample_id, sample.split, sample.video) == ("tea/7", "test", "clips/a.mp4")
    assert (sample.answer, sample.question_type, sample.segments) == ("B", "multiple_choice", ((12.0, 15.5),))
    assert sample.groups == {"place": "kitchen", "tags": ["hot", "drink"]}
    assert sample.metadata == {"place": "kitchen", "tags": ["hot", "drink"], "note": None}


def test_open_answers_are_numbers_where_they_read_as_numbers(tmp_path):
    path = write_lines(
        tmp_path / "mine.jsonl",
        {"video": "a.mp4", "question": "how many cups", "answer": 3},
        {"video": "a.mp4", "question": "who pours", "answer": "the cook"},
        {"video": "a.mp4", "question": "what is on the shirt", "answer": "10", "question_type": "free_text"},
    )
    _, samples = run(path)
    assert [(s.question_type, s.answer) for s in samples] == [
        ("numeric", "3"),
        ("free_text", "the cook"),
        ("free_text", "10"),
    ]
    assert [s.segments for s in samples] == [None] * 3
    assert [s.sample_id for s in samples] == ["custom/0", "custom/1", "custom/2"]


def test_csv_holds_lists_as_json_text(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "video,question,options,answer,segments,duration_seconds\r\n"
        'a.mp4,"what, exactly","[""A. milk"", ""B. tea""]",b,"[[0, 2]]",30\r\n'
        "b.mp4,who pours,,the cook,,\r\n",
        encoding="utf-8-sig",
    )
    _, samples = run(path)
    assert (samples[0].question, samples[0].options, samples[0].answer) == ("what, exactly", ("milk", "tea"), "B")
    assert (samples[0].segments, samples[0].duration_seconds) == (((0.0, 2.0),), 30.0)
    assert (samples[1].options, samples[1].segments, samples[1].duration_seconds) == ((), None, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": "coffee"}, "answer is not among the options"),
        ({"options": ["B", "A"], "answer": "A"}, "answer has two meanings"),
        ({"options": ["tea", "Tea"]}, "duplicate option text"),
        ({"options": "milk or tea"}, "options are not JSON"),
        ({"segments": [[41, 42]]}, "breaks the row schema"),
        ({"segments": [3, 4]}, "segments are not pairs of seconds"),
        ({"duration_seconds": None}, "segments without a duration"),
        ({"duration_seconds": "long"}, "duration_seconds is not a number"),
        ({"question": " "}, "breaks the row schema"),
        ({"video": ""}, "no video named"),
        ({"question_type": "essay"}, "unknown question_type"),
        ({"video": "../a.mp4"}, "breaks the row schema"),
        ({"options": ["tea", ""]}, "empty option text"),
        ({"options": [["tea"], "milk"]}, "options are not texts"),
        ({"options": "[" * 100_000}, "options are not JSON"),
        ({"options": ["tea"]}, "breaks the row schema"),
        ({"segments": [[1, float("nan")]]}, "segments are not pairs of seconds"),
        ({"segments": [[1, 10**400]]}, "segments are not pairs of seconds"),
        ({"segments": ["12", "15"]}, "segments are not pairs of seconds"),
        ({"segments": '["12", "15"]'}, "segments are not pairs of seconds"),
        ({"segments": [{"1": 0, "2": 0}]}, "segments are not pairs of seconds"),
        ({"segments": [[15, 12]]}, "breaks the row schema"),
        ({"duration_seconds": "1_000"}, "duration_seconds is not a number"),
        ({"duration_seconds": "nan"}, "duration_seconds is not a number"),
        ({"options": None, "answer": "1,5"}, "breaks the row schema"),
        ({"options": None, "answer": "1_000"}, "breaks the row schema"),
        ({"options": None, "answer": "?"}, "breaks the row schema"),
        ({"options": None, "answer": None}, "no answer"),
        ({"options": None, "answer": float("nan")}, "no answer"),
        ({"answer": "tea", "question": "who \0"}, "breaks the row schema"),
    ],
)
def test_unusable_record_is_listed_with_its_reason(tmp_path, capsys, changes, reason):
    path = write_lines(tmp_path / "mine.jsonl", CHOICE, {**CHOICE, **changes})
    code, samples = run(path)
    assert (code, len(samples)) == (0, 1)
    listed = json.loads((tmp_path / "rows.dropped.jsonl").read_text())
    assert (listed["id"], listed["reason"]) == ("custom/1", reason)
    assert f"1  {reason}" in capsys.readouterr().out


def test_row_without_an_id_never_collides_and_a_given_one_that_does_is_listed(tmp_path):
    rows = [CHOICE, {**CHOICE, "id": 0}, {**CHOICE, "id": "row-0"}, {**CHOICE, "id": 0, "answer": "milk"}, CHOICE]
    code, samples = run(write_lines(tmp_path / "mine.jsonl", *rows))
    assert code == 0
    assert [sample.sample_id for sample in samples] == ["custom/row-row-0", "custom/0", "custom/row-0", "custom/4"]
    listed = json.loads((tmp_path / "rows.dropped.jsonl").read_text())
    assert (listed["id"], listed["reason"]) == ("custom/0", "id occurs twice")


def test_ids_that_no_terminal_can_print_are_listed_all_the_same(tmp_path, capfd):
    odd = ["half \ud83d", "\x1b[31m\n", "x" * 5000]
    rows = [CHOICE, *({**CHOICE, "id": text, "answer": "coffee"} for text in odd)]
    code, samples = run(write_lines(tmp_path / "mine.jsonl", *rows))
    assert (code, len(samples)) == (0, 1)
    output = capfd.readouterr().out
    assert "(custom/half \\ud83d, custom/\\x1b[31m, custom/xxx" in output
    assert max(map(len, output.splitlines())) < 400
    listed = [json.loads(line)["id"] for line in (tmp_path / "rows.dropped.jsonl").read_text().splitlines()]
    assert listed == [f"custom/{text.strip()}" for text in odd]


def test_output_in_the_place_of_something_else_is_refused_at_once(tmp_path, capsys):
    source = tmp_path / "mine.parquet"
    pq.write_table(pa.Table.from_pylist([CHOICE]), source)
    (tmp_path / "text.parquet").write_text("notes")
    (tmp_path / "folder.parquet").mkdir()
    content = source.read_bytes()
    for out, message in (
        (source, "is there and is no file of rows"),
        (tmp_path / "text.parquet", "is there and is no file of rows"),
        (tmp_path / "folder.parquet", "ends in .parquet"),
        (tmp_path / "rows.json", "ends in .parquet"),
        (tmp_path, "ends in .parquet"),
        ("", "ends in .parquet"),
    ):
        with pytest.raises(SystemExit, match="2"):
            custom.main(["--input", str(source), "--out", str(out)])
        assert message in capsys.readouterr().err
    assert source.read_bytes() == content
    rows = ["--input", str(source), "--out", str(tmp_path / "rows.parquet")]
    assert (custom.main(rows), custom.main(rows)) == (0, 0)  # rows may be made anew


def test_bytes_of_a_parquet_file_are_text_or_listed(tmp_path):
    record = {**CHOICE, "options": [b"milk", "räume".encode()], "answer": "räume".encode(), "video": b"a.mp4"}
    odd = [
        {**record, "question": b"what"},
        {**record, "question": b"\xff"},
        {**record, "answer": b"\xff", "question": b"q"},
    ]
    pq.write_table(pa.Table.from_pylist(odd), tmp_path / "mine.parquet")
    code, (sample,) = run(tmp_path / "mine.parquet")
    assert (code, sample.video, sample.question) == (0, "a.mp4", "what")
    assert (sample.options, sample.answer) == (("milk", "räume"), "B")
    listed = [json.loads(line)["reason"] for line in (tmp_path / "rows.dropped.jsonl").read_text().splitlines()]
    assert listed == ["question is not a text", "answer is not among the options"]


def test_name_that_no_file_can_have_is_one_row_less_not_a_fault_of_the_machine(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", CHOICE, {**CHOICE, "video": "what is poured? " * 20})
    assert len(run(path)[1]) == 1
    (listed,) = (json.loads(line) for line in (tmp_path / "rows.dropped.jsonl").read_text().splitlines())
    assert listed["reason"] == "breaks the row schema"
    probed = probe_videos(["what is poured? " * 20], root=tmp_path)
    assert [found.problem.reason for found in probed.values()] == ["video path is not usable"]


def test_addresses_and_odd_paths_stay_as_they_are(tmp_path):
    videos = ("https://x.org/a b.mp4", "s3://bucket/a.mp4", "räume/猫 1.mp4", "/data/a.mp4")
    path = write_lines(tmp_path / "mine.jsonl", *({**CHOICE, "video": video} for video in videos))
    _, samples = run(path, "--prefix", "clips")
    assert [sample.video for sample in samples] == [*videos[:2], "clips/räume/猫 1.mp4", "/data/a.mp4"]
    _, samples = run(path, "--prefix", "https://x.org/clips/")
    assert samples[2].video == "https://x.org/clips/räume/猫 1.mp4"


def test_list_of_drops_is_written_where_nothing_is_left(tmp_path, capsys):
    path = write_lines(tmp_path / "mine.jsonl", {**CHOICE, "answer": "coffee"})
    out = tmp_path / "new" / "rows.parquet"
    assert custom.main(["--input", str(path), "--out", str(out)]) == 1
    assert "no samples to write" in capsys.readouterr().err
    (listed,) = (json.loads(line) for line in (tmp_path / "new" / "rows.dropped.jsonl").read_text().splitlines())
    assert listed["reason"] == "answer is not among the options"
    assert not out.exists()


def test_answer_may_repeat_a_lettered_option_as_it_stands(tmp_path):
    options = ["A. milk", "B. tea"]
    path = write_lines(
        tmp_path / "mine.jsonl", *({**CHOICE, "options": options, "answer": a} for a in (options[1], "b"))
    )
    assert [sample.answer for sample in run(path)[1]] == ["B", "B"]


def test_missing_values_in_metadata_are_null_and_the_file_repeats_itself(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", {**CHOICE, "score": float("nan")})
    _, samples = run(path)
    assert samples[0].metadata == {"score": None}
    assert mix.join([tmp_path / "rows.parquet"] * 2) == (samples, 1)


def test_missing_column_names_the_record(tmp_path, capsys):
    path = write_lines(tmp_path / "mine.jsonl", CHOICE, {"video": "a.mp4", "question": "who"})
    assert run(path) == (1, [])
    assert "columns ['answer'] are not there" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["Options", " options ", "option", "Segments", "segment", "Duration Seconds", "ID"])
def test_column_that_is_nearly_one_that_is_read_is_refused(tmp_path, capsys, column):
    name = {"o": "options", "s": "segments", "d": "duration_seconds", "i": "id"}[column.strip()[0].lower()]
    record = {"id": 7, **CHOICE}
    path = write_lines(tmp_path / "mine.jsonl", record, {column if key == name else key: record[key] for key in record})
    assert run(path) == (1, [])
    assert f"column {column!r} is not read; expected {name!r}" in (message := capsys.readouterr().err)
    assert "mine.jsonl, record 1" in message
    assert run(write_lines(path, {**record, column: 1}))[0] == 0  # beside the real one it is the user's own


def test_what_was_made_of_the_columns_is_said(tmp_path, capsys):
    record = {**CHOICE, "answer": "tea", "choices": CHOICE["options"]}
    del record["options"], record["segments"]
    assert run(write_lines(tmp_path / "mine.jsonl", record, CHOICE, CHOICE))[0] == 0
    output = capsys.readouterr().out
    assert "columns that are metadata only: choices\n" in output
    assert "free_text 1  multiple_choice 2  with evidence 2\n" in output


def test_group_that_is_no_column_is_refused(tmp_path, capsys):
    assert run(write_lines(tmp_path / "mine.jsonl", CHOICE), "--group", "colour") == (1, [])
    assert "--group ['colour'] are not columns" in capsys.readouterr().err


def test_broken_files_are_named_with_the_line(tmp_path, capsys):
    (tmp_path / "mine.jsonl").write_text(json.dumps(CHOICE) + '\n{"video": "a.mp4", "ques')
    assert run(tmp_path / "mine.jsonl")[0] == 1
    assert "mine.jsonl, line 2" in capsys.readouterr().err
    (tmp_path / "mine.csv").write_text("video,question,answer\na.mp4,what, exactly,tea\n")
    assert run(tmp_path / "mine.csv")[0] == 1
    assert "4 cells under 3 column names" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("")
    assert run(tmp_path / "mine.txt")[0] == 1
    assert "expected one ending in .json" in capsys.readouterr().err
