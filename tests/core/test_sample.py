# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The row schema: what a sample accepts, and that its rows survive parquet and verl's own dataset class."""

import dataclasses
import json
import os
import resource
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verl_videomtr.answers import normalise
from verl_videomtr.sample import (
    LETTERS,
    SCHEMA,
    Sample,
    SampleError,
    is_blank,
    load_rows,
    question_text,
    read_rows,
    replacing,
    resolve_video,
    write_rows,
)


def make_sample(**changes):
    fields = {
        "data_source": "nextgqa",
        "sample_id": "val/4882821564/1",
        "index": 0,
        "split": "train",
        "video": "1104/4882821564.mp4",
        "duration_seconds": 90.0,
        "question": "why did the boy lift the box",
        "options": ("to open it", "to throw it", "to hide it"),
        "answer": "A",
        "question_type": "multiple_choice",
        "segments": ((1.5, 4.0), (10.0, 90.0)),
        "groups": {"type": "CW", "tasks": ["why", "what"]},
        "metadata": {"license": "MIT", "qid": 1},
    }
    return Sample(**{**fields, **changes})


def make_open_sample(**changes):
    fields = {"options": (), "answer": "42.5", "question_type": "numeric", "segments": None, "duration_seconds": None}
    return make_sample(**{**fields, **changes})


def test_question_text_puts_one_lettered_option_on_each_line():
    assert question_text(make_sample()) == "why did the boy lift the box\nA. to open it\nB. to throw it\nC. to hide it"
    assert question_text(make_open_sample()) == "why did the boy lift the box"


def test_row_has_verls_columns_and_a_text_only_prompt():
    row = make_sample().to_row()
    assert list(row) == SCHEMA.names
    assert row["prompt"] == [{"role": "user", "content": question_text(make_sample())}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": "A"}
    assert (row["agent_name"], row["ability"]) == ("video_mtr", "video_qa")


@pytest.mark.parametrize("sample", [make_sample(), make_open_sample()])
def test_sample_survives_its_own_row(sample):
    assert Sample.from_row(sample.to_row()) == sample


def test_file_round_trip_keeps_missing_segments_and_empty_options(tmp_path):
    samples = [
        make_open_sample(index=0, sample_id="a"),
        make_sample(index=1, sample_id="b"),
        make_open_sample(index=2, sample_id="c", answer="é 日本", question_type="free_text"),
    ]
    assert read_rows(write_rows(tmp_path / "new" / "rows.parquet", samples)) == samples
    assert os.listdir(tmp_path / "new") == ["rows.parquet"]


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=30).filter(
    lambda text: not is_blank(text) and "<|" not in text
)
SECONDS = st.floats(0, 1e5, allow_nan=False)


@st.composite
def any_samples(draw):
    """Samples of every kind that the schema allows, with whatever text Unicode has."""
    options = tuple(draw(st.lists(TEXT, min_size=2, max_size=26))) if draw(st.booleans()) else ()
    segments = None
    if draw(st.booleans()):
        spans = draw(
            st.lists(st.tuples(SECONDS, SECONDS).filter(lambda span: span[0] < span[1]), min_size=1, max_size=4)
        )
        segments = tuple(spans)
    return make_sample(
        sample_id=draw(TEXT),
        index=draw(st.integers(0, 2**62)),
        question=draw(TEXT),
        options=options,
        question_type="multiple_choice" if options else "free_text",
        answer=draw(st.sampled_from(LETTERS[: len(options)])) if options else draw(TEXT.filter(normalise)),
        duration_seconds=1e5 if segments is not None else draw(st.none() | st.floats(0.1, 1e5)),
        segments=segments,
        groups=draw(st.dictionaries(TEXT, TEXT | st.lists(TEXT, max_size=3), max_size=3)),
        metadata=draw(st.dictionaries(TEXT, st.none() | st.integers() | TEXT, max_size=3)),
    )


@given(samples=st.lists(any_samples(), min_size=1, max_size=4, unique_by=(lambda s: s.index, lambda s: s.sample_id)))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_sample_survives_a_file(samples, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    assert read_rows(write_rows(path, samples)) == samples


def test_rows_read_through_pandas_are_samples_too(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = write_rows(tmp_path / "rows.parquet", [make_sample()])
    row = pandas.read_parquet(path).iloc[0].to_dict()
    assert Sample.from_row(row) == make_sample()


def test_verls_stock_dataset_loads_and_mixes_the_files(tmp_path, monkeypatch):
    rl_dataset = pytest.importorskip("verl.utils.dataset.rl_dataset")
    omegaconf = pytest.importorskip("omegaconf")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    # The first file alone has no segment and no option anywhere: inferred types would not concatenate.
    open_rows = [make_open_sample(index=i, sample_id=f"open{i}") for i in range(2)]
    choice_rows = [make_sample(index=i, sample_id=f"choice{i}") for i in range(2)]
    paths = [
        str(write_rows(tmp_path / name, rows))
        for name, rows in (("open.parquet", open_rows), ("choice.parquet", choice_rows))
    ]
    config = omegaconf.OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": str(tmp_path / "cache")})

    dataset = rl_dataset.RLHFDataset(data_files=paths, tokenizer=None, config=config)
    items = [dataset[i] for i in range(len(dataset))]

    assert [Sample.from_row(item) for item in items] == open_rows + choice_rows
    assert [item["index"] for item in items] == [0, 1, 0, 1]
    assert items[0]["extra_info"]["segments"] is None
    assert items[0]["extra_info"]["options"] == []
    assert items[2]["extra_info"]["segments"] == [[1.5, 4.0], [10.0, 90.0]]
    assert items[2]["raw_prompt"] == choice_rows[0].to_row()["prompt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "D"}, "expected one option letter A-C"),
        ({"answer": "to open it"}, "expected one option letter A-C"),
        ({"answer": "a"}, "expected one option letter A-C"),
        ({"options": ("only one",)}, "1 options; expected 2 to 26"),
        ({"options": (" ", "two", "three")}, "expected the right one, A, not to be empty"),
        ({"options": '["one", "two"]'}, "expected a tuple of texts"),
        ({"options": 3}, "expected a tuple of texts"),
        ({"options": ("\ufeff", "two", "three")}, "expected the right one, A, not to be empty"),
        ({"question": "\u200b"}, "expected non-empty text"),
        ({"segments": ((False, True),)}, "expected 0 <= start < end"),
        ({"options": ("one", 2, "three")}, "expected texts that UTF-8 can hold"),
        ({"options": ("one", "a\0b")}, "without NUL"),
        ({"question": "a\0b"}, "without NUL"),
        ({"index": 2**63}, "expected an integer >= 0 of 64 bits"),
        ({"segments": ((1.0,),)}, "expected 0 <= start < end"),
        ({"segments": (("1", "2"),)}, "expected 0 <= start < end"),
        ({"segments": ((1.0, float("nan")),)}, "expected 0 <= start < end"),
        ({"metadata": {"at": object()}}, "metadata is not JSON"),
        ({"metadata": {"score": float("nan")}}, "metadata is not JSON"),
        ({"duration_seconds": True, "segments": None}, "duration_seconds=True; expected seconds"),
        ({"metadata": {1: "a", "b": 2}}, "metadata is not JSON"),
        ({"question": ""}, "question=''; expected non-empty text"),
        ({"sample_id": None}, "sample_id=None; expected non-empty text"),
        ({"question": "half a \ud83d"}, "expected text that UTF-8 can hold"),
        ({"options": ("one", "half a \ud83d")}, "texts that UTF-8 can hold"),
        ({"video": "what is it? " * 30}, "expected a path with names of at most 255 bytes"),
        ({"video": "a/" * 2500 + "b.mp4"}, "expected a path with names of at most 255 bytes"),
        ({"video": "."}, "expected a path to a file"),
        ({"video": "/"}, "expected a path to a file"),
        ({"video": "a/../../b.mp4"}, "expected a path without '..'"),
        ({"index": -1}, "index=-1; expected an integer >= 0"),
        ({"question": "what is <|image_pad|>?"}, "expected no model control tokens"),
        *(
            ({"question": f"what is {token}?"}, "expected no model control tokens")
            for token in ("<image>", "<video>", "<IMG_CONTEXT>", "<start_of_turn>", "<turn|>", "<|image>", "[IMG]")
        ),
        ({"options": ("one", "two [/INST]", "three")}, "expected no model control tokens"),
        ({"question_type": "essay"}, "question_type='essay'; expected one of"),
        ({"question_type": "free_text"}, "expected none for question_type='free_text'"),
        ({"duration_seconds": 0.0}, "duration_seconds=0.0; expected seconds > 0"),
        ({"duration_seconds": float("nan")}, "expected seconds > 0"),
        ({"duration_seconds": None}, "segments without duration_seconds"),
        ({"segments": ((5.0, 90.5),)}, r"segment \(5.0, 90.5\); expected 0 <= start < end <= 90.0"),
        ({"segments": ((7.0, 7.0),)}, "expected 0 <= start < end"),
        ({"segments": ((-1.0, 7.0),)}, "expected 0 <= start < end"),
        ({"segments": ()}, "expected at least one interval, or None"),
        ({"groups": {"task": 3}}, r"groups\['task'\]=3; expected text"),
    ],
)
def test_broken_field_raises_with_value_and_rule(changes, message):
    with pytest.raises(SampleError, match=message):
        make_sample(**changes)


@pytest.mark.parametrize("text", ["is a<b|c>d?", "|x| < |y| > 0", "<b>who</b>", "[sic]", "the images <5>", "a <|> b"])
def test_brackets_that_no_model_reads_are_text(text):
    assert make_sample(question=text).question == text


@pytest.mark.parametrize("answer", ["about ten", "1,5", "1_000", "٣", "1e400", "nan", "2 or 3"])
def test_numeric_answer_must_be_a_number_that_the_scorer_reads(answer):
    with pytest.raises(SampleError, match="expected one number, a finite number"):
        make_open_sample(answer=answer)


@pytest.mark.parametrize("answer", ["?", "...", "**", "$"])
def test_free_text_answer_must_leave_something_to_match(answer):
    with pytest.raises(SampleError, match="expected a text to match"):
        make_open_sample(answer=answer, question_type="free_text")


def test_wrong_option_may_be_empty_and_survives_a_file(tmp_path):
    sample = make_sample(options=("to open it", "", "to hide it"))
    assert read_rows(write_rows(tmp_path / "rows.parquet", [sample])) == [sample]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("options", "to open it"),
        ("options", 3),
        ("segments", [[1.0, None]]),
        ("segments", [1.0, 2.0]),
        ("segments", "[[1, 2]]"),
        ("segments", ["12", "34"]),
        ("segments", [["1", "2"]]),
        ("segments", [[False, True]]),
        ("metadata", "[" * 100_000),
        ("groups", None),
    ],
)
def test_row_of_other_types_is_an_error_not_a_crash(name, value):
    row = make_sample().to_row()
    row["extra_info"][name] = value
    with pytest.raises(SampleError, match=f"{name}="):
        Sample.from_row(row)


def test_error_names_every_broken_field_and_the_sample():
    with pytest.raises(SampleError, match=r"answer='Z'.*duration_seconds=-1.*sample 'val/4882821564/1' of 'nextgqa'"):
        make_sample(answer="Z", duration_seconds=-1)


def test_columns_that_contradict_extra_info_are_refused():
    row = make_sample().to_row()
    row["reward_model"] = {"style": "rule", "ground_truth": "B"}
    with pytest.raises(SampleError, match="contradicts extra_info"):
        Sample.from_row(row)


def test_missing_field_is_named():
    row = make_sample().to_row()
    del row["extra_info"]["segments"]
    with pytest.raises(SampleError, match="'segments' is not in the extra_info"):
        Sample.from_row(row)


@pytest.mark.parametrize("name", ["index", "sample_id"])
def test_duplicates_are_refused_on_write(tmp_path, name):
    first, second = make_sample(index=0, sample_id="a"), make_sample(index=1, sample_id="b")
    second = dataclasses.replace(second, **{name: getattr(first, name)})
    with pytest.raises(SampleError, match=f"{name}=.*stands in rows 0 and 1"):
        write_rows(tmp_path / "rows.parquet", [first, second])
    assert os.listdir(tmp_path) == []


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_rows(tmp_path / "rows.parquet", [make_sample()])

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(SampleError, match=r"cannot write it .*too large.*rows.parquet; make room"):
            write_rows(path, [make_sample(sample_id="other")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["rows.parquet"]
    assert read_rows(path) == [make_sample()]


def test_writers_of_one_file_do_not_meet_where_process_numbers_are_equal(tmp_path):
    path = tmp_path / "rows.parquet"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["rows.parquet"]


def test_flipped_bits_and_cut_files_are_named_never_read(tmp_path):
    samples = [make_sample(index=i, sample_id=f"räume/{i}") for i in range(20)]
    path = write_rows(tmp_path / "rows.parquet", samples)
    content = path.read_bytes()
    random = Random(0)
    num_named = num_whole = 0
    for flip in range(300):
        damaged = bytearray(content)
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged if flip % 5 else damaged[: random.randrange(len(damaged))])
        try:
            read = read_rows(path)
        except SampleError as error:
            num_named += str(path) in str(error)
        else:
            assert read == samples
            num_whole += 1
    assert num_named + num_whole == 300
    assert num_named > 200


def test_empty_result_is_an_error(tmp_path):
    with pytest.raises(SampleError, match="no samples to write"):
        write_rows(tmp_path / "rows.parquet", [])


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(SampleError, match="no such file"):
        read_rows(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(SampleError, match="not a readable parquet file"):
        read_rows(tmp_path / "text.parquet")
    pq.write_table(SCHEMA.empty_table(), tmp_path / "empty.parquet")
    with pytest.raises(SampleError, match="no rows"):
        read_rows(tmp_path / "empty.parquet")


def test_missing_and_foreign_columns_are_named(tmp_path):
    table = pa.Table.from_pylist([make_sample().to_row()], schema=SCHEMA)
    pq.write_table(table.drop_columns(["agent_name"]), tmp_path / "fewer.parquet")
    with pytest.raises(SampleError, match=r"columns \['agent_name'\] are not there"):
        load_rows(tmp_path / "fewer.parquet")
    pq.write_table(table.append_column("num_turns", pa.array([3])), tmp_path / "more.parquet")
    with pytest.raises(SampleError, match=r"unknown columns \['num_turns'\]"):
        load_rows(tmp_path / "more.parquet")


def test_read_names_file_and_row_of_a_bad_value(tmp_path):
    rows = [make_sample(index=i, sample_id=str(i)).to_row() for i in range(2)]
    rows[1]["extra_info"]["groups"] = json.dumps(["not", "an", "object"])
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "rows.parquet")
    with pytest.raises(SampleError, match=r"expected a JSON object.*rows.parquet, row 1"):
        read_rows(tmp_path / "rows.parquet")


def test_resolve_video_stays_inside_the_root(tmp_path):
    assert resolve_video("a/b.mp4", tmp_path) == tmp_path / "a" / "b.mp4"
    assert resolve_video(str(tmp_path / "b.mp4"), tmp_path) == tmp_path / "b.mp4"
    assert resolve_video("/data/b.mp4").as_posix() == "/data/b.mp4"
    for video in ("../b.mp4", "a/../../b.mp4", "", "a\0b"):
        with pytest.raises(SampleError, match=r"expected a path (without|to a file)"):
            resolve_video(video, tmp_path)
    with pytest.raises(SampleError, match="outside the video root"):
        resolve_video("/etc/passwd", tmp_path)
    with pytest.raises(SampleError, match="no video root is set"):
        resolve_video("b.mp4")


def test_urls_are_handed_back_only_where_allowed(tmp_path):
    url = "https://example.org/b.mp4"
    with pytest.raises(SampleError, match="is a URL"):
        resolve_video(url, tmp_path)
    assert resolve_video(url, tmp_path, allow_urls=True) == url
