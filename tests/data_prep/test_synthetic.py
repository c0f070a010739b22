# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The needle task: what is hidden stays hidden, what is drawn survives the codec, and a seed decides everything."""

import collections
import hashlib
import json
import random

import numpy as np
import pytest

from data_prep.synthetic import (
    COLOURS,
    DETAILS,
    LENGTHS,
    SHAPES,
    STRANGE_SHAPES,
    NeedleConfig,
    draw_picture,
    main,
    make_dataset,
    make_layout,
    make_questions,
    needle_placements,
    scene_bounds,
    video_plan,
)
from verl_videomtr.episode import ground_truth_frames, spread
from verl_videomtr.sample import read_rows, resolve_video
from verl_videomtr.video.pool import PoolConfig, open_pool

CONFIG = NeedleConfig()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "data"
    assert make_dataset(out, CONFIG, seed=3, num_samples={"train": 10, "val": 4, "test": 0})
    return out


@pytest.mark.parametrize(
    "config",
    [CONFIG, NeedleConfig(needles_per_scene=2), NeedleConfig(num_scenes=5, num_distractors=4)],
)
def test_overview_shows_every_scene_and_no_needle(config):
    overview = spread(0, config.pool_size - 1, config.overview_frames)
    for seed in range(20):
        layout = make_layout(config, random.Random(seed))
        shown = [layout.pictures[slot] for slot in overview]
        assert {colour for colour, _ in shown} == set(layout.colours)
        assert all(shape is None for _, shape in shown)
        assert all(len(needles) == config.needles_per_scene for needles in layout.needles)


def test_placements_of_the_first_scene_by_hand():
    # 16 slots of 128 a scene; the overview shows slots 0 and 18, so a needle of two starts at 1..14 in scene 0,
    # and in scene 1 (slots 16..31) at 16 or 19..30.
    assert [start for (start,) in needle_placements(CONFIG, 0)] == list(range(1, 15))
    assert [start for (start,) in needle_placements(CONFIG, 1)] == [16, *range(19, 31)]


def test_questions_name_the_scene_and_the_answer_is_its_shape():
    config = NeedleConfig(questions_per_video=8)
    layout = make_layout(config, random.Random(0))
    asked = set()
    for fields in make_questions(layout, config, random.Random(1)):
        scene = fields["metadata"]["scene"]
        asked.add(scene)
        assert f" {layout.colours[scene]} part" in fields["question"]
        assert fields["options"]["ABCD".index(fields["answer"])] == layout.needles[scene][0].shape
    assert asked == set(range(8))


def test_unreadable_signs_are_found_where_annotated_and_named_by_no_option():
    config = NeedleConfig(pool_size=64, unreadable_percent=50, questions_per_video=8)
    answers, kinds = [], []
    for seed in range(40):
        layout = make_layout(config, random.Random(seed))
        for fields in make_questions(layout, config, random.Random(seed)):
            (needle,) = layout.needles[fields["metadata"]["scene"]]
            readable = needle.shape in SHAPES
            assert fields["groups"]["evidence"] == ("readable" if readable else "unreadable")
            assert fields["segments"] == [(needle.start, needle.start + 2)]
            if readable:
                assert fields["options"]["ABCD".index(fields["answer"])] == needle.shape
            else:
                assert needle.shape in STRANGE_SHAPES
                answers.append(fields["answer"])
            kinds.append(readable)
    assert 0.4 < sum(kinds) / len(kinds) < 0.6
    assert all(0.15 < answers.count(letter) / len(answers) < 0.35 for letter in "ABCD")


def test_task_without_unreadable_signs_draws_nothing_for_them():
    """The same seeds make the same videos as ever."""
    layout, rate, questions = video_plan(CONFIG, seed=0, split="train", video_idx=0)
    assert (layout.colours[:3], str(rate), [fields["answer"] for fields in questions]) == (
        ("blue", "pink", "red"),
        "1",
        ["A", "A", "A", "C"],
    )


def test_a_mixture_has_each_length_with_each_detail_equally_often():
    config = NeedleConfig(mixture=True, questions_per_video=2)
    seen = collections.Counter()
    for video_idx in range(12):
        layout, _, questions = video_plan(config, seed=0, split="train", video_idx=video_idx)
        for fields in questions:
            length, detail = fields["groups"]["length"], fields["groups"]["detail"]
            num_scenes, needle_frames = LENGTHS[length]
            assert len(layout.colours) == num_scenes
            assert {len(needles) for needles in layout.needles} == {DETAILS[detail]}
            assert {needle.num_slots for needles in layout.needles for needle in needles} == {needle_frames}
            assert ("two shapes" in fields["question"]) == (detail == "multi")
            seen[length, detail] += 1
    assert seen == {(length, detail): 4 for length in LENGTHS for detail in DETAILS}


def test_of_four_answers_each_of_two_needles_alone_leaves_two():
    config = NeedleConfig(needles_per_scene=2, questions_per_video=8)
    answers, firsts = [], []
    for seed in range(60):
        layout = make_layout(config, random.Random(seed))
        for fields in make_questions(layout, config, random.Random(seed)):
            first, last = layout.needles[fields["metadata"]["scene"]]
            fitting = [
                {option for option in fields["options"] if shape in option.split()}
                for shape in (first.shape, last.shape)
            ]
            assert [len(options) for options in fitting] == [2, 2]
            assert fitting[0] & fitting[1] == {fields["options"]["ABCD".index(fields["answer"])]}
            assert fields["segments"] == [(n.start, n.start + 2) for n in (first, last)]
            assert last.start > first.start + 2
            answers.append(fields["answer"])
            firsts.append(first.shape)
    # What is seen first says nothing about the other, and a letter is as likely as any.
    assert all(0.2 < answers.count(letter) / len(answers) < 0.3 for letter in "ABCD")
    assert all(0.2 < firsts.count(shape) / len(firsts) < 0.3 for shape in SHAPES)
    for shape in SHAPES:
        with_it = [answer for answer, first in zip(answers, firsts, strict=True) if first == shape]
        assert max(with_it.count(letter) for letter in "ABCD") / len(with_it) < 0.62


def test_pool_frames_of_the_written_videos_show_the_layout(dataset):
    for video_idx in range(3):
        layout, _, _ = video_plan(CONFIG, seed=3, split="train", video_idx=video_idx)
        pool = open_pool(dataset / f"videos/train_{video_idx:05d}.mp4", PoolConfig(num_frames=128, size=(28, 28)))
        frames = pool.read(range(128)).astype(int)
        drawn = np.stack([draw_picture(*key) for key in layout.pictures]).astype(int)
        # The codec may blur edges; each frame must still be nearest to its own picture, by far.
        assert np.abs(frames - drawn).mean() < 6
        assert np.abs(frames - drawn).max() < 60


def test_colours_and_shapes_stay_apart_in_decoded_frames():
    pictures = {(c, s): draw_picture(c, s).astype(int) for c in COLOURS for s in (None, *SHAPES, *STRANGE_SHAPES)}
    keys = list(pictures)
    for i, a in enumerate(keys):
        for b in keys[:i]:
            assert np.abs(pictures[a] - pictures[b]).mean() > 12, (a, b)


def test_segments_in_seconds_are_the_needle_frames_of_the_pool(dataset):
    for sample in read_rows(dataset / "train.parquet"):
        pool = open_pool(resolve_video(sample.video, dataset), PoolConfig(num_frames=128, size=(28, 28)))
        assert pool.num_frames == 128
        assert pool.duration_seconds == pytest.approx(sample.duration_seconds, abs=1e-3)
        truth, num_between = ground_truth_frames(sample.segments, pool.times_seconds.tolist())
        (start,) = sample.metadata["needle_starts"]
        assert truth == {start, start + 1}
        assert num_between == 0
        first, end = scene_bounds(CONFIG, sample.metadata["scene"])
        assert first <= start < end - 1


def test_rows_are_counted_exactly_and_share_videos(dataset):
    train, val = (read_rows(dataset / f"{split}.parquet") for split in ("train", "val"))
    assert (len(train), len(val)) == (10, 4)
    assert len({sample.video for sample in train}) == 3
    assert not (dataset / "test.parquet").exists()
    assert not {sample.video for sample in train} & {sample.video for sample in val}


def test_same_seed_makes_the_same_bytes_and_another_seed_does_not(dataset, tmp_path):
    def digest(folder):
        files = sorted(path for path in folder.rglob("*") if path.suffix in (".mp4", ".parquet"))
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    counts = {"train": 10, "val": 4, "test": 0}
    make_dataset(tmp_path / "again", CONFIG, seed=3, num_samples=counts)
    make_dataset(tmp_path / "other", CONFIG, seed=4, num_samples=counts)
    assert digest(tmp_path / "again") == digest(dataset)
    assert digest(tmp_path / "other") != digest(dataset)


def test_answers_are_balanced():
    letters = [
        fields["answer"]
        for video_idx in range(400)
        for fields in video_plan(CONFIG, seed=0, split="train", video_idx=video_idx)[2]
    ]
    for letter in "ABCD":
        assert letters.count(letter) / len(letters) == pytest.approx(0.25, abs=0.04)


def test_a_folder_is_kept_or_refused(dataset, capsys):
    before = (dataset / "train.parquet").stat().st_mtime_ns
    arguments = ["--out", str(dataset), "--num-train", "10", "--num-val", "4", "--num-test", "0", "--seed", "3"]
    assert main(arguments) == 0
    assert "kept" in capsys.readouterr().out
    assert (dataset / "train.parquet").stat().st_mtime_ns == before
    with pytest.raises(SystemExit):
        main([*arguments[:-1], "4"])
    assert "was not made with these settings" in capsys.readouterr().err


def test_a_folder_that_lost_a_video_is_not_kept(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "data"), "--num-train", "1", "--num-val", "0", "--num-test", "0"]
    assert (main(arguments), main(arguments)) == (0, 0)
    (tmp_path / "data" / "videos" / "train_00000.mp4").unlink()
    with pytest.raises(SystemExit):
        main(arguments)
    assert "or is not whole" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--num-train": "0"}, "expected 0 or more of each split, and some in all"),
        ({"--num-train": "-1"}, "expected 0 or more of each split, and some in all"),
        ({"--out": "file/data"}, "Not a directory"),
        ({"--out": "file"}, "exists and was not made"),
        ({"--out": "half"}, "exists and was not made"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(tmp_path, capsys, changes, message):
    (tmp_path / "file").touch()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "settings.json").write_text('{"nee')
    settings = {"--out": "data", "--num-train": "1", "--num-val": "0", "--num-test": "0", **changes}
    settings["--out"] = str(tmp_path / settings["--out"])
    with pytest.raises(SystemExit, match="2"):
        main([text for pair in settings.items() for text in pair])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "half"]


def test_a_failed_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("data_prep.synthetic.write_rows", fail)
    with pytest.raises(OSError, match="disk full"):
        make_dataset(tmp_path / "data", CONFIG, seed=0, num_samples={"train": 1})
    assert list(tmp_path.iterdir()) == []


def test_settings_are_recorded(dataset):
    settings = json.loads((dataset / "settings.json").read_text())
    assert settings["seed"] == 3
    assert settings["needle"]["pool_size"] == 128


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_scenes": 9}, "expected 1 to 8"),
        ({"needle_frames": 16}, "has no room for its needles"),
        ({"num_distractors": 8}, "expected 0 to 7"),
        ({"mixture": True, "unreadable_percent": 50}, "unreadable_percent=50; expected 0 to 0"),
        ({"size_px": 29}, "even number"),
        ({"questions_per_video": 3, "num_distractors": 1}, "at most num_distractors"),
        ({"overview_frames": 4, "num_scenes": 5, "num_distractors": 4}, "expected 1 to 4"),
    ],
)
def test_a_task_that_cannot_be_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        NeedleConfig(**values)
