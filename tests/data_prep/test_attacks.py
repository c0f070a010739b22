# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Records with anything at all in them: each becomes a row that trains and scores, is listed, or stops the command."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep import benchmark, check, custom, nextgqa, qvhighlights
from data_prep.annotations import AnnotationError, read_records, require_columns
from data_prep.drops import DropList
from data_prep.relevance import RelevanceFilter
from verl_videomtr.answers import is_correct
from verl_videomtr.sample import Sample, write_rows

HOSTILE = [
    *(
        None,
        True,
        0,
        -1,
        7,
        2**63,
        10**400,
        1.5,
        math.nan,
        math.inf,
        "",
        " ",
        "\0",
        "half \ud83d",
        "\x1b[31m",
        "x" * 5000,
    ),
    *("A", "b", "(C)", "F.", "1,5", "1_000", "٣", "nan", "?", "<answer>B</answer>", "<|image_pad|>", "12", "A. red"),
    *("../../etc/passwd", "/abs.mp4", "https://x.org/a.mp4", "räume/猫.mp4", "MM:SS-", "00:05-00:01", "05:00-None"),
    *(
        [],
        {},
        [[]],
        [{}],
        ["a"],
        ["a", "a"],
        ["", ""],
        [None, "b"],
        ["A. a", "B. b"],
        {"A": "x", "B": "y"},
        [[5, 1]],
        [[0, 9]],
    ),
    *([[0, math.nan]], [[0, 10**400]], ["[" * 3000], '["a", "b"]', "[" * 3000, '[["a"]]', "{'a': 1}", [[[[[[]]]]]]),
]
OPTIONS = ["red", "green", "blue", "a cat", "the dog", "none"]
CHOICE = {"question": "What is it?", "answer": "C"}
RECORDS = {
    "videomme": {
        **CHOICE,
        **dict.fromkeys(("duration", "domain", "sub_category", "task_type"), "short"),
        "question_id": "1-1",
        "videoID": "abcDEF-_123",
        "options": ["A. red", "B. green", "C. blue", "D. a cat"],
    },
    "mlvu": {
        **CHOICE,
        "answer": "blue",
        "candidates": OPTIONS,
        "question_id": "AR_0",
        "video": "a.mp4",
        "duration": 60,
    },
    "mlvu_dev": {**CHOICE, "answer": "red", "candidates": OPTIONS[:4], "question_type": "plotQA", "video": "a.mp4"},
    "longvideobench": {
        **CHOICE,
        **dict.fromkeys(("question_category", "level", "topic_category"), "S2E"),
        **{"id": "a_0", "video_id": "a", "video_path": "a.mp4", "duration": 60.5, "duration_group": 60},
        **{"candidates": OPTIONS[:5], "correct_choice": 1},
    },
    "lvbench": {
        **{"key": "abc", "uid": "1", "question": "Who?\n(A) red\n(B) green\n(C) blue\n(D) cat", "answer": "D"},
        **{"question_type": ["entity"], "time_reference": "00:05-00:15", "video_info": {"duration_minutes": 30}},
    },
    "egoschema": {"video_idx": "a-b", "question": "Why?", "option": OPTIONS[:5], "answer": "3"},
    "custom": {**CHOICE, "video": "a.mp4", "options": OPTIONS, "segments": [[1, 2]], "duration_seconds": 60, "id": "x"},
}


@st.composite
def damaged(draw, record):
    changes = draw(st.dictionaries(st.sampled_from(sorted(record)), st.sampled_from(HOSTILE), min_size=1, max_size=3))
    return {**record, **changes}


def convert(name, path):
    if name != "custom":
        return benchmark.convert(name, path)
    records = read_records(path)
    require_columns(records, custom.REQUIRED, path=path)
    return *custom.convert(records, name="custom", split="test", groups=["question"]), len(records)


def require_usable(samples, folder):
    """Hold rows to what a run does with them: write, check, read, score."""
    path = write_rows(folder / "rows.parquet", samples)
    findings = check.Findings()
    assert check.check_file(path, findings) == samples
    assert findings.problems == {}
    for sample in samples:
        right = sample.answer if sample.question_type == "multiple_choice" else f"**{sample.answer}**"
        for predicted, expected in ((right, True), ("", False), ("nothing of the kind at all", False)):
            judged = is_correct(predicted, sample.answer, question_type=sample.question_type, options=sample.options)
            assert judged is expected, (predicted, sample)


@pytest.mark.parametrize("name", sorted(RECORDS))
@given(data=st.data())
@settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_damaged_record_is_a_usable_row_or_is_listed(name, data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    records = [data.draw(damaged(RECORDS[name])), RECORDS[name], data.draw(damaged(RECORDS[name]))]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(records))
    try:
        samples, drops, num_records = convert(name, path)
    except AnnotationError as error:
        text = str(error)
    else:
        text = ""
    if text:
        assert str(path) in text
        assert len(text) < 1000
        return
    assert len(samples) + len(drops) == num_records == 3
    if samples:
        require_usable(samples, folder)


QUERY = {
    "qid": 1,
    "query": "A cook pours tea into a cup",
    "duration": 150,
    "vid": "ab_0_150",
    "relevant_windows": [[4, 8]],
}


@given(record=damaged(QUERY))
@settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_damaged_query_costs_nothing_or_becomes_a_row(record, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "queries.jsonl"
    path.write_text(json.dumps(record) + "\n")
    drops = DropList()
    queries, num_all = qvhighlights.read_queries(path, relevance=RelevanceFilter(), prefix="qv", drops=drops)
    assert len(queries) + len(drops) == num_all == 1
    content = json.dumps({"suitable": True, "question": "What?", "options": OPTIONS[:4], "answer": "red"})
    for query in queries:
        sample = qvhighlights.make_sample(query, content=content, model="m", seed=0, annotation_file="f")
        assert isinstance(sample, Sample)


@given(
    row=damaged({"video_id": "1", "qid": "0", "answer": "red", "a1": "green", "question": "what", "type": "CW"}),
    video=damaged({"duration": 60, "location": {"0": [[1, 5]]}, "fps": 30}),
    spans=st.sampled_from([[[1, 5]], *HOSTILE]),
    folder_name=st.sampled_from(["1/1", *HOSTILE]),
)
@settings(max_examples=150, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_damaged_grounding_is_listed_or_usable(row, video, spans, folder_name, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "nextgqa"
    folder.mkdir(exist_ok=True)
    row = {"a0": "red", "a2": "blue", "a3": "a cat", "a4": "dog", **row}
    if video["location"] == {"0": [[1, 5]]}:
        video = {**video, "location": {"0": spans}}
    table = [list(row), [str(value).replace("\0", "").encode("utf-8", "ignore").decode() for value in row.values()]]
    lines = (",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in table)
    (folder / "val.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "gsub_val.json").write_text(json.dumps({"1": video}))
    (folder / "map_vid_vidorID.json").write_text(json.dumps({"1": folder_name}))
    samples, drops, _ = nextgqa.convert(folder, split="val", relevance=RelevanceFilter())
    assert len(samples) + len(drops) == 1
    if samples:
        require_usable(samples, folder)
