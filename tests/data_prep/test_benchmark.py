# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks in the shapes they are published in, from small files written by hand, quirks included."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import benchmark
from data_prep.readers.lvbench import time_reference
from tests.data_prep.test_attacks import RECORDS
from verl_videomtr.sample import read_rows


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_parquet(path, records):
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def reasons(drops):
    return {entry["id"]: entry["reason"] for entry in drops.entries}


# --- Video-MME ---------------------------------------------------------------------------------------------------


def videomme_record(**changes):
    record = {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "url": "https://www.youtube.com/watch?v=abcDEF-_123",
        "videoID": "abcDEF-_123",
        "question_id": "001-1",
        "task_type": "Counting Problem",
        "question": "How many lamps hang in the hall?",
        "options": ["A. One.", "B. Two.", "C. A. Lincoln owned four.", "D. None of them."],
        "answer": "C",
    }
    return {**record, **changes}


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet", "directory", "nested"])
def test_videomme_in_every_published_shape(tmp_path, kind):
    records = [videomme_record(), videomme_record(question_id="001-2", answer="A")]
    if kind == "json":
        path = write_json(tmp_path / "videomme.json", records)
    elif kind == "jsonl":
        path = write_lines(tmp_path / "any.jsonl", records)
    elif kind == "nested":
        own = ("question_id", "task_type", "question", "options", "answer")
        video = {key: value for key, value in records[0].items() if key not in own}
        questions = [{key: record[key] for key in own} for record in records]
        path = write_json(tmp_path / "template.json", [{**video, "questions": questions}])
    else:
        path = write_parquet(tmp_path / "test-00000-of-00001.parquet", records)
        path = tmp_path if kind == "directory" else path
    samples, drops, num_records = benchmark.convert("videomme", path)
    assert (len(samples), len(drops), num_records) == (2, 0, 2)
    first = samples[0]
    assert (first.sample_id, first.video, first.split) == ("videomme/001-1", "videomme/abcDEF-_123.mp4", "test")
    assert first.options == ("One.", "Two.", "A. Lincoln owned four.", "None of them.")
    assert first.answer == "C"
    assert (first.duration_seconds, first.segments) == (None, None)
    assert first.groups == {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "task_type": "Counting Problem",
    }
    assert first.metadata["subtitles"] == "abcDEF-_123.srt"
    assert samples[1].index == 1


OWN = ("question_id", "task_type", "question", "options", "answer")


def test_videomme_template_is_named_by_the_address_and_refused_without_one(tmp_path, capsys):
    def nested(*dropped, **changes):
        record = {**videomme_record(), **changes}
        video = {key: value for key, value in record.items() if key not in (*OWN, *dropped)}
        return {**video, "questions": [{key: record[key] for key in OWN}]}

    addresses = ("https://www.youtube.com/watch?v=abcDEF-_123", "https://youtu.be/abcDEF-_123?t=3")
    for url in (*addresses, "https://m.youtube.com/watch?app=desktop&v=abcDEF-_123", "youtube.com/shorts/abcDEF-_123"):
        (sample,), _, _ = benchmark.convert("videomme", write_json(tmp_path / "a.json", [nested("videoID", url=url)]))
        assert (sample.video, sample.metadata["source_video"]) == ("videomme/abcDEF-_123.mp4", "abcDEF-_123")
    some = [nested("videoID", "url", question_id="9-1"), nested()]
    samples, drops, _ = benchmark.convert("videomme", write_json(tmp_path / "b.json", some))
    assert (len(samples), reasons(drops)) == (1, {"videomme/9-1": "no YouTube id"})
    path = write_json(tmp_path / "c.json", [nested("videoID", "url")])
    assert benchmark.main(["videomme", "--annotations", str(path), "--out", str(tmp_path / "o.parquet")]) == 1
    assert "named by YouTube id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (json.dumps(["A. One.", "B. Two."]), ("One.", "Two.")),
        ({"A": "One.", "B": "Two."}, ("One.", "Two.")),
        (["One. ", " Two.", "", None], ("One.", "Two.", "", "")),
        (["A. One.", "B. Two.", "C.", "D. "], ("One.", "Two.", "", "")),
        ([1, 2.0], ("1", "2")),
        ("A. One. B. Two.", "options are not JSON"),
        ('{"A": "One."}', "options are not a list"),
        ('"One."', "options are not a list"),
        ({"B": "One.", "A": "Two."}, "options are not a list"),
        ([["A. One.", "B. Two."]], "options are not texts"),
        ("[" * 100_000, "options are not JSON"),
        (["One."], "answer is not among the options"),
        ([], "answer is not among the options"),
        (None, "answer is not among the options"),
        (7, "options are not a list"),
    ],
)
def test_options_are_a_list_or_its_json_text_and_never_taken_apart(tmp_path, options, expected):
    path = write_json(tmp_path / "a.json", [videomme_record(options=options, answer="b")])
    samples, drops, _ = benchmark.convert("videomme", path)
    found = samples[0].options if samples else next(iter(reasons(drops).values()))
    assert found == expected
    assert all(sample.answer == "B" for sample in samples)


def test_same_id_twice_is_listed_and_the_first_kept(tmp_path):
    records = [videomme_record(), videomme_record(answer="A"), videomme_record(question_id="2")]
    samples, drops, _ = benchmark.convert("videomme", write_json(tmp_path / "a.json", records))
    assert [(sample.sample_id, sample.answer, sample.index) for sample in samples] == [
        ("videomme/001-1", "C", 0),
        ("videomme/2", "C", 1),
    ]
    assert reasons(drops) == {"videomme/001-1": "id occurs twice"}
    assert "records 0 and 1" in drops.entries[0]["detail"]


def test_numbers_without_end_are_listed_not_fatal(tmp_path):
    path = tmp_path / "lvb_val.json"
    good = longvideobench_record(id="good")
    path.write_text(json.dumps([longvideobench_record(id=str(row), duration=row) for row in range(4)] + [good]))
    text = path.read_text()
    for row, value in enumerate(("NaN", "1e999", "1" + "0" * 400, "-5")):
        text = text.replace(f'"duration": {row},', f'"duration": {value},')
    path.write_text(text)
    samples, drops, _ = benchmark.convert("longvideobench", path)
    assert ([sample.sample_id for sample in samples], len(drops)) == (["longvideobench/good"], 4)


def test_videomme_answer_beyond_the_options_is_dropped(tmp_path):
    path = write_json(tmp_path / "videomme.json", [videomme_record(answer="E"), videomme_record(question_id="2")])
    samples, drops, _ = benchmark.convert("videomme", path)
    assert (len(samples), reasons(drops)) == (1, {"videomme/001-1": "answer is not among the options"})


# --- MLVU test ---------------------------------------------------------------------------------------------------

SIX = ["Fighting", "Shooting", "Normal", "Arson", "Robbery", "Explosion"]


def mlvu_test_record(**changes):
    record = {
        "video": "test_AR-1.mp4",
        "duration": 480.5,
        "question": "Is anything unusual in the footage?",
        "candidates": SIX,
        "answer": "Explosion",
        "question_type": "anomaly_reco",
        "question_id": "AR_0",
    }
    return {**record, **changes}


def test_mlvu_test_keeps_six_options_and_the_nine_tasks(tmp_path):
    expected = {
        "TR": "holistic",
        "AR": "holistic",
        "NQA": "single_detail",
        "ER": "single_detail",
        "PQA": "single_detail",
        "SQA": "single_detail",
        "AO": "multi_detail",
        "AC": "multi_detail",
        "TQA": "multi_detail",
    }
    records = [mlvu_test_record(question_id=f"{task}_3") for task in expected]
    samples, drops, _ = benchmark.convert("mlvu", write_json(tmp_path / "mlvu_test.json", records))
    assert len(drops) == 0
    assert {sample.groups["task"]: sample.groups["category"] for sample in samples} == expected
    assert {sample.answer for sample in samples} == {"F"}
    assert samples[0].options == tuple(SIX)
    assert (samples[0].sample_id, samples[0].video, samples[0].duration_seconds) == (
        "mlvu/TR_3",
        "mlvu/test_AR-1.mp4",
        480.5,
    )


def test_mlvu_test_as_the_video_mtr_repository_has_it(tmp_path):
    record = {
        "problem_id": "AC_23",
        "problem": "How often does somebody knead dough?",
        "data_type": "video",
        "options": ["A. 4", "B. 2", "C. 5", "D. 3", "E. 6", "F. 1"],
        "solution": "<answer>E</answer>",
        "problem_type": "multiple choice",
        "path": "./Evaluation/MLVU_Test/MLVU_Test/video/test_count_57.mp4",
        "data_source": "MLVU_Test",
    }
    (sample,), _, _ = benchmark.convert("mlvu", write_json(tmp_path / "eval_mlvu_test.json", [record]))
    assert (sample.sample_id, sample.video) == ("mlvu/AC_23", "mlvu/test_count_57.mp4")
    assert (sample.options, sample.answer) == (("4", "2", "5", "3", "6", "1"), "E")
    assert (sample.groups, sample.duration_seconds) == ({"task": "AC", "category": "multi_detail"}, None)


def test_mlvu_test_mirror_with_inline_options_and_flat_letters(tmp_path):
    inline = "\n".join(["What comes first?", *(f"({letter}) step {letter.lower()}" for letter in "ABCDEF")])
    record = {"video_name": "test_order_4.mp4", "task_type": "AO", "question": inline, "answer": "F"}
    (sample,), _, _ = benchmark.convert("mlvu", write_parquet(tmp_path / "test.parquet", [record]))
    assert sample.question == "What comes first?"
    assert sample.options == ("step a", "step b", "step c", "step d", "step e", "step f")
    assert (sample.answer, sample.groups["task"]) == ("F", "AO")


def test_mlvu_test_questions_without_answers_are_refused(tmp_path):
    record = mlvu_test_record()
    del record["answer"]
    with pytest.raises(ValueError, match="expected the file with the ground truth"):
        benchmark.convert("mlvu", write_json(tmp_path / "test_question.json", [record]))


# --- MLVU dev ----------------------------------------------------------------------------------------------------


def mlvu_dev_record(**changes):
    record = {
        "video": "movie101_66.mp4",
        "duration": 480,
        "question": "What colour is the coat on the door?",
        "candidates": ["Yellow", "Blue", "Gray", "Blue"],
        "answer": "Gray",
        "question_type": "plotQA",
    }
    return {**record, **changes}


def test_mlvu_dev_directory_with_its_quirks(tmp_path):
    write_json(tmp_path / "1_plotQA.json", [mlvu_dev_record(), mlvu_dev_record(answer="Blue")])
    write_json(
        tmp_path / "2_needle.json",
        [
            mlvu_dev_record(question_type="findNeedle", answer="Greenish"),
            mlvu_dev_record(question_type="findNeedle"),
        ],
    )
    write_json(tmp_path / "4_count.json", [mlvu_dev_record(question_type="count", candidates=[1, 2], answer=2)])
    write_json(
        tmp_path / "9_summary.json",
        [{"video": "a.mp4", "question": "Sum up.", "answer": "…", "question_type": "summary"}],
    )
    samples, drops, num_records = benchmark.convert("mlvu_dev", tmp_path)
    assert num_records == 6
    assert [(s.sample_id, s.groups["task"], s.answer) for s in samples] == [
        ("mlvu_dev/1_plotQA/0", "PQA", "C"),
        # Two options read the same: the authors' scorer takes the last of them.
        ("mlvu_dev/1_plotQA/1", "PQA", "D"),
        ("mlvu_dev/2_needle/1", "NQA", "C"),
        ("mlvu_dev/4_count/0", "AC", "B"),
    ]
    assert samples[0].video == "mlvu_dev/1_plotQA/movie101_66.mp4"
    assert reasons(drops) == {
        "mlvu_dev/2_needle/0": "answer is not among the options",
        "mlvu_dev/9_summary/0": "open-ended task, scored by a language model",
    }


def test_mlvu_dev_mirror_with_letters(tmp_path):
    record = {
        "video_name": "ego_7.mp4",
        "duration": "301.5",
        "question": "Where is the knife?\n(A) table\n(B) shelf\n(C) floor\n(D) sink",
        "candidates": ["table", "shelf", "floor", "sink"],
        "answer": "B",
        "task_type": "ego",
    }
    (sample,), _, _ = benchmark.convert("mlvu_dev", write_parquet(tmp_path / "dev.parquet", [record]))
    assert (sample.question, sample.answer, sample.groups["task"]) == ("Where is the knife?", "B", "ER")
    assert (sample.video, sample.duration_seconds) == ("mlvu_dev/ego_7.mp4", 301.5)


def test_mlvu_text_answer_that_reads_like_a_letter_is_a_text(tmp_path):
    record = mlvu_dev_record(candidates=["C", "B", "A", "D"], answer="A")
    (sample,), _, _ = benchmark.convert("mlvu_dev", write_json(tmp_path / "1_plotQA.json", [record]))
    assert sample.answer == "C"


def test_mlvu_dev_question_with_an_empty_distractor_counts_and_one_with_an_empty_answer_does_not(tmp_path):
    candidates = ["red", "", "blue", "green"]
    records = [
        mlvu_dev_record(candidates=candidates, answer="blue"),
        mlvu_dev_record(candidates=candidates, answer=""),
        mlvu_dev_record(candidates=["red", None, "blue", "green"], answer="green"),
    ]
    path = write_json(tmp_path / "1_plotQA.json", records)
    samples, drops, _ = benchmark.convert("mlvu_dev", path.parent)
    assert [(sample.options, sample.answer) for sample in samples] == [
        (("red", "", "blue", "green"), "C"),
        (("red", "", "blue", "green"), "D"),
    ]
    assert reasons(drops) == {"mlvu_dev/1_plotQA/1": "breaks the row schema"}
    out = tmp_path / "out" / "rows.parquet"
    assert benchmark.main(["mlvu_dev", "--annotations", str(tmp_path), "--out", str(out)]) == 0
    assert [sample.options[1] for sample in read_rows(out)] == ["", ""]


def test_mlvu_test_row_without_an_id_is_told_apart_from_a_given_one(tmp_path):
    records = [mlvu_test_record(question_id="1"), mlvu_test_record(question_id=None), mlvu_test_record(question_id="")]
    samples, drops, _ = benchmark.convert("mlvu", write_json(tmp_path / "mlvu_test.json", records))
    assert [sample.sample_id for sample in samples] == ["mlvu/1", "mlvu/row-1", "mlvu/2"]
    assert not drops


def test_unknown_task_is_listed(tmp_path):
    write_json(tmp_path / "x.json", [mlvu_dev_record(question_type="smell"), mlvu_dev_record()])
    _, drops, _ = benchmark.convert("mlvu_dev", tmp_path)
    assert list(reasons(drops).values()) == ["unknown task"]


# --- LongVideoBench ----------------------------------------------------------------------------------------------


def longvideobench_record(**changes):
    record = {
        "video_id": "86abCDefGH0",
        "question": "When the woman in red sits on the bench, what lies beside her?",
        "question_wo_referring_query": "What lies beside her?",
        "candidates": ["a hat", "a dog", "a book", "a bag", "a cup"],
        "correct_choice": 0,
        "position": [310, 420],
        "topic_category": "NP-News-Programs",
        "question_category": "S2O",
        "level": "L1-Perception",
        "id": "86abCDefGH0_0",
        "video_path": "86abCDefGH0.mp4",
        "subtitle_path": "86abCDefGH0_en.json",
        "duration_group": 600,
        "starting_timestamp_for_subtitles": 12.5,
        "duration": 190.16,
        "view_count": 10,
    }
    return {**record, **changes}


def test_longvideobench_file_counts_answers_from_zero_and_keeps_subtitle_fields(tmp_path):
    records = [longvideobench_record(), longvideobench_record(id="b_1", candidates=["x", "y", "x"], correct_choice=2)]
    samples, drops, _ = benchmark.convert("longvideobench", write_json(tmp_path / "lvb_val.json", records))
    assert len(drops) == 0
    first, second = samples
    assert (first.answer, len(first.options), first.duration_seconds) == ("A", 5, 190.16)
    assert first.groups == {
        "duration_group": "600",
        "question_category": "S2O",
        "level": "L1-Perception",
        "topic_category": "NP-News-Programs",
    }
    assert first.metadata["subtitle_path"] == "86abCDefGH0_en.json"
    assert first.metadata["starting_timestamp_for_subtitles"] == 12.5
    assert first.metadata["position"] == [310, 420]
    assert first.segments is None
    assert (second.answer, second.options) == ("C", ("x", "y", "x"))


def test_longvideobench_parquet_pads_options(tmp_path):
    record = longvideobench_record(duration_group=15, correct_choice=3)
    del record["candidates"]
    record |= {"option0": "a", "option1": "b", "option2": "N/A in print", "option3": "d", "option4": "N/A"}
    path = write_parquet(tmp_path / "validation-00000-of-00001.parquet", [record])
    (sample,), _, _ = benchmark.convert("longvideobench", path)
    assert (sample.options, sample.answer) == (("a", "b", "N/A in print", "d"), "D")


def test_longvideobench_answer_on_the_padding_is_dropped(tmp_path):
    record = longvideobench_record(candidates=["a", "b", "N/A"], correct_choice=2)
    _, drops, _ = benchmark.convert("longvideobench", write_json(tmp_path / "lvb_val.json", [record]))
    assert reasons(drops) == {"longvideobench/86abCDefGH0_0": "answer is not among the options"}


def test_longvideobench_test_split_is_refused(tmp_path):
    record = longvideobench_record()
    del record["correct_choice"]
    with pytest.raises(ValueError, match=r"columns \['correct_choice'\] are not there"):
        benchmark.convert("longvideobench", write_json(tmp_path / "lvb_test.json", [record]))


def test_malformed_value_is_listed_not_fatal(tmp_path):
    odd = ("long", None, True, "1_0", float("nan"))
    records = [longvideobench_record(duration=duration, id=f"a_{duration}") for duration in odd]
    samples, drops, _ = benchmark.convert(
        "longvideobench", write_json(tmp_path / "lvb_val.json", [*records, longvideobench_record()])
    )
    assert len(samples) == 1
    assert reasons(drops) == {f"longvideobench/a_{duration}": "duration is not a number" for duration in odd}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("videomme", {"videoID": " ", "url": "https://youtu.be/abcDEF-_123", "question_id": None}),
        ("mlvu", {"video": None}),
        ("mlvu", {"video": ["a.mp4"]}),
        ("mlvu_dev", {"video": ""}),
        ("longvideobench", {"video_id": None, "video_path": None}),
        ("longvideobench", {"id": float("nan")}),
        ("lvbench", {"key": " "}),
        ("lvbench", {"uid": None}),
        ("egoschema", {"video_idx": None}),
    ],
)
def test_record_without_a_video_or_an_id_is_listed(tmp_path, name, changes):
    path = write_json(tmp_path / f"{name}.json", [{**RECORDS[name], **changes}])
    samples, drops, _ = benchmark.convert(name, path)
    assert samples == []
    assert set(reasons(drops).values()) <= {"no video named", "no id", "video is not a text"}


def test_numbers_and_objects_of_a_csv_are_read(tmp_path):
    path = tmp_path / "egoschema.csv"
    path.write_text('video_idx,question,option,answer\na,Why?,"[""x"", ""y"", ""z""]",2.0\n')
    (sample,), _, _ = benchmark.convert("egoschema", path)
    assert sample.answer == "C"
    record = RECORDS["lvbench"]
    cells = [
        json.dumps(record[name]) if name == "video_info" else record[name] for name in record if name != "question_type"
    ]
    with open(tmp_path / "lvbench.csv", "w", newline="", encoding="utf-8") as file:
        names = [name for name in record if name != "question_type"]
        csv.writer(file).writerows([[*names, "question_type"], [*cells, "entity"]])
    (sample,), _, _ = benchmark.convert("lvbench", tmp_path / "lvbench.csv")
    assert (sample.duration_seconds, sample.segments) == (1800.0, ((5.0, 15.0),))


# --- LVBench -----------------------------------------------------------------------------------------------------


def lvbench_question(uid, **changes):
    question = {
        "uid": uid,
        "question": "What year is on the first title?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633",
        "answer": "D",
        "question_type": ["key information retrieval", "entity recognition"],
        "time_reference": "00:15-00:19",
    }
    return {**question, **changes}


def lvbench_video(*questions):
    return {
        "key": "Cm73ma6Ibcs",
        "type": "cartoon",
        "qa": list(questions),
        "video_info": {"duration_minutes": 65, "fps": 30.0, "resolution": {"width": 1280, "height": 720}},
    }


def test_lvbench_nested_file(tmp_path):
    video = lvbench_video(
        lvbench_question("18"),
        lvbench_question("19", time_reference="08:17-None"),
        lvbench_question("20", time_reference="None-None"),
        lvbench_question("21", time_reference="62:30-64:59"),
        lvbench_question("22", question="No options here"),
    )
    path = write_lines(tmp_path / "video_info.meta.jsonl", [video, {**lvbench_video(), "key": "empty"}])
    samples, drops, num_records = benchmark.convert("lvbench", path)
    assert (num_records, reasons(drops)) == (5, {"lvbench/22": "no options"})
    first = samples[0]
    assert first.question == "What year is on the first title?"
    assert (first.options, first.answer) == (("1636", "1366", "1363", "1633"), "D")
    assert first.groups == {
        "question_type": ["key information retrieval", "entity recognition"],
        "video_type": "cartoon",
    }
    assert (first.video, first.duration_seconds) == ("lvbench/Cm73ma6Ibcs.mp4", 3900.0)
    assert [sample.segments for sample in samples] == [((15.0, 19.0),), None, None, ((3750.0, 3899.0),)]
    assert samples[1].metadata["time_reference"] == "08:17-None"


def test_lvbench_flat_mirror(tmp_path):
    record = {
        "key": "Cm73ma6Ibcs",
        "video_path": "videos/Cm73ma6Ibcs.mp4",
        "type": "cartoon",
        **lvbench_question("18"),
    }
    (sample,), _, _ = benchmark.convert("lvbench", write_parquet(tmp_path / "train.parquet", [record]))
    assert (sample.video, sample.answer) == ("lvbench/Cm73ma6Ibcs.mp4", "D")
    assert (sample.duration_seconds, sample.segments) == (None, None)
    assert sample.groups["question_type"] == ["key information retrieval", "entity recognition"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("01:02:03-01:02:04", ((3723.0, 3724.0),)),
        ("00:10-00:10", None),
        ("00:20-00:10", None),
        ("99:00-99:59", None),
        ("", None),
        ("00:10", None),
    ],
)
def test_lvbench_time_references(text, expected):
    assert time_reference(text, duration_seconds=4000.0) == expected


# --- EgoSchema ---------------------------------------------------------------------------------------------------


def egoschema_question(uid):
    return {
        "q_uid": uid,
        "google_drive_id": "1x",
        "question": "What is C mostly doing?",
        **{f"option {position}": f"C does thing {position}." for position in range(5)},
    }


def test_egoschema_directory_takes_the_public_answers_only(tmp_path):
    write_json(
        tmp_path / "questions.json", [egoschema_question("u1"), egoschema_question("u2"), egoschema_question("u3")]
    )
    write_json(tmp_path / "subset_answers.json", {"u3": 4, "u1": 0, "u9": 2})
    samples, drops, num_records = benchmark.convert("egoschema", tmp_path)
    assert num_records == 3
    assert [(s.sample_id, s.answer, s.video) for s in samples] == [
        ("egoschema/u3", "E", "egoschema/u3.mp4"),
        ("egoschema/u1", "A", "egoschema/u1.mp4"),
    ]
    assert (samples[0].duration_seconds, len(samples[0].options)) == (180.0, 5)
    assert reasons(drops) == {"egoschema/u9": "answer without a question"}


def test_egoschema_mirror_letters_its_options_and_numbers_its_answers(tmp_path):
    record = {
        "question_idx": "0",
        "question": "What is C mostly doing?",
        "video_idx": "u1",
        "option": [f"{letter}. C does {letter.lower()}." for letter in "ABCDE"],
        "answer": "3",
    }
    path = write_parquet(tmp_path / "test-00000-of-00001.parquet", [record])
    for given in (path, tmp_path):
        (sample,), _, _ = benchmark.convert("egoschema", given)
        assert (sample.options[0], sample.answer) == ("C does a.", "D")


# --- the command -------------------------------------------------------------------------------------------------


def test_command_prints_counts_and_groups_and_writes_rows(tmp_path, capsys):
    records = [videomme_record(question_id=f"001-{i}", duration=("short", "long")[i % 2]) for i in range(3)]
    path, out = write_json(tmp_path / "videomme.json", records), tmp_path / "out.parquet"
    assert benchmark.main(["videomme", "--annotations", str(path), "--out", str(out), "--prefix", ""]) == 0
    assert [row.video for row in read_rows(out)] == ["abcDEF-_123.mp4"] * 3
    output = capsys.readouterr().out
    assert "videomme       2,700        3     3              0" in output
    assert "duration: long 1  short 2" in output


def test_wrong_paths_and_ambiguous_directories_are_named(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out.parquet")]
    assert benchmark.main(["lvbench", "--annotations", str(tmp_path / "none"), *out]) == 1
    assert "no such file or directory" in capsys.readouterr().err
    for name in ("a.parquet", "b.parquet"):
        write_parquet(tmp_path / name, [videomme_record()])
    assert benchmark.main(["videomme", "--annotations", str(tmp_path), *out]) == 1
    assert "2 files could be meant ['a.parquet', 'b.parquet']" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


def test_file_of_another_benchmark_is_refused(tmp_path, capsys):
    path = write_json(tmp_path / "lvb_val.json", [longvideobench_record()])
    assert benchmark.main(["videomme", "--annotations", str(path), "--out", str(tmp_path / "o.parquet")]) == 1
    assert "are not there" in capsys.readouterr().err
