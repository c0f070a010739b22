# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Annotation files as they arrive: odd encodings, CSV dialects, broken quotes, and nesting without end."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.annotations import AnnotationError, nested_records, read_json, read_records
from data_prep.delimited import DelimitedError, read_delimited

HEADER = "video,question,answer\n"
ROWS = [
    {"video": "a.mp4", "question": "who", "answer": "the cook"},
    {"video": "b", "question": "what", "answer": "tea"},
]


def read_csv(tmp_path, content, name="mine.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_records(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_csv_of_every_dialect_is_the_same_rows(tmp_path, encoding, delimiter, ending):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=delimiter, lineterminator=ending)
    writer.writeheader()
    writer.writerows(ROWS)
    assert read_csv(tmp_path, text.getvalue().encode(encoding)) == ROWS


CELL = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)


@given(rows=st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=4), delimiter=st.sampled_from(",;\t"))
def test_whatever_a_csv_writer_writes_is_read_back_or_is_blank(rows, delimiter):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([["one", "two"], *rows])
    expected = [{"one": one, "two": two} for one, two in rows if (one + two).strip()]
    assert read_delimited(text.getvalue(), path="any.csv") == expected


def test_blank_lines_spaced_names_and_large_cells_are_read(tmp_path):
    large = "x" * 300_000
    content = f'\nvideo, question ,\n\na.mp4,"{large}",more\n,,\n  \nb.mp4,who,\n\n'
    assert read_csv(tmp_path, content) == [
        {"video": "a.mp4", "question": large, "column 3": "more"},
        {"video": "b.mp4", "question": "who", "column 3": ""},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + 'a.mp4,"who is it,tea\nb.mp4,what,milk\nc.mp4,why,juice\n', "quote is left open.*begins in line 2"),
        (HEADER + 'a,b,c\na.mp4,"who" is it,tea\n', "quote is left open.*begins in line 3"),
        # The next quote closes it in the same column: the cells are as many as they should be.
        (HEADER + 'a.mp4,who,"tea\nb.mp4,what,milk\nc.mp4,why,5"\n', "whole rows"),
        (HEADER + 'a.mp4,who,"tea\nb.mp4,what,7"\n', "column 'answer' holds what looks like whole rows.*line 2"),
        (HEADER + 'a.mp4,"who,tea\nb.mp4,what",milk\n', "column 'question' holds what looks like whole rows"),
        (HEADER + "a.mp4,what, exactly,tea\n", "4 cells under 3 column names.*line 2.*unquoted"),
        (HEADER + "a.mp4,what\n", "2 cells under 3 column names.*line 2"),
        (HEADER + 'a.mp4,["a", "b"],tea\n', "quote is left open|4 cells"),
        ("video,answer,video\na,b,c\n", r"column names \['video'\] occur twice"),
        (HEADER, "no records in it"),
        ("", "no records in it"),
        ("\n\n", "no records in it"),
        (b"\xff\xfevide\n", "not utf-16"),
        (HEADER.encode() + b"a.mp4,caf\xe9,tea\n", "not utf-8.*line 2.*save it as UTF-8"),
        ("video,question,answer\na.mp4,wh\0o,tea\n", "a NUL character.*line 2"),
        ("video,question\n".encode("utf-16-le"), "a NUL character.*line 1"),
    ],
)
def test_csv_that_would_be_misread_is_an_error_with_its_line(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=f"(?s){message}") as caught:
        read_csv(tmp_path, content)
    assert "mine.csv" in str(caught.value)


def test_text_of_several_lines_is_no_swallowed_row():
    text = 'video,question,answer\na.mp4,"Which one,\nred or blue?","red\n(1)"\nb.mp4,"a\nb\nc",tea\n'
    assert [row["question"] for row in read_delimited(text, path="x")] == ["Which one,\nred or blue?", "a\nb\nc"]
    with pytest.raises(DelimitedError, match="occur twice"):
        read_delimited("a, a\n1,2\n", path="x")


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", DEEP + "]" * 100_000, "nested too deep"),
        ("a.json", '{"a":' * 100_000, "nested too deep"),
        ("a.jsonl", '{"a": 1}\n\n{"a": ' + DEEP + "\n", "nested too deep.*line 3"),
        ("a.json", '[{"a": 1', "not JSON"),
        ("a.json", f'[{{"a": {"1" * 5000}}}]', "not JSON.*limit"),
        ("a.json", '[{"answer": "A", "answer": "B"}]', "key 'answer' occurs twice in one object"),
        ("a.jsonl", '{"a": 1}\n{"a": 1, "a": 2}\n', "occurs twice.*line 2"),
        ("a.jsonl", '{"a": 1}\n["a"]\n', r"record 1 is \['a'\]"),
        ("a.jsonl", "", "no records"),
        ("a.json", "[]", "no records"),
        ("a.json", "{}", "no records"),
        ("a.json", "null", "no records"),
        ("a.json", '{"data": [{"a": 1}]}', "record 0 is"),
        ("a.json", "[" + "[" * 500 + "]" * 500 + "]", "record 0 is"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "not JSON.*name it .jsonl"),
        ("a.jsonl", '[\n{"a": 1}\n]\n', "not JSON.*line 1; .*name it .json"),
        ("a.parquet", "PAR1", "expected a parquet file"),
        ("a.txt", "", "expected one ending in"),
    ],
)
def test_other_files_that_cannot_be_read_are_one_error(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(AnnotationError, match=f"(?s){message}") as caught:
        read_records(tmp_path / name)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_upper_case_names_json_with_a_mark_and_missing_files(tmp_path):
    (tmp_path / "A.JSON").write_bytes(json.dumps(ROWS).encode("utf-8-sig"))
    assert read_records(tmp_path / "A.JSON") == ROWS
    (tmp_path / "b.json").write_bytes(json.dumps({"é": [1]}, ensure_ascii=False).encode("utf-16"))
    assert read_json(tmp_path / "b.json") == {"é": [1]}
    with pytest.raises(AnnotationError, match="cannot read it"):
        read_records(tmp_path / "none.json")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(AnnotationError, match="cannot read it"):
        read_records(tmp_path / "folder.csv")


def test_parquet_that_arrow_reads_but_python_cannot_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"question": broken}), path)
    with pytest.raises(AnnotationError, match=r"cannot read it.*a.parquet"):
        read_records(path)
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(AnnotationError, match=r"columns \['a'\] occur twice|cannot read it"):
        read_records(path)


@pytest.mark.parametrize("inner", ['[{"uid": 1}]', {"uid": 1}, ["one"], None, float("nan")])
def test_nested_questions_of_another_shape_are_named(inner):
    assert nested_records([{"key": 1}, {"key": 2, "qa": [{"uid": 3}]}], "qa", path="x") == [
        {"key": 1},
        {"key": 2, "uid": 3},
    ]
    with pytest.raises(AnnotationError, match=r"qa=.*expected a list of objects.*x, record 0"):
        nested_records([{"qa": inner}], "qa", path="x")
