# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Rows against real video files: missing ones, broken ones, and intervals beyond the end."""

import dataclasses
import errno
import subprocess

import numpy as np
import pytest

from data_prep import check, custom
from data_prep.command import finish
from data_prep.drops import DropList
from data_prep.videos import MAX_FAULTS, UnjudgedVideosError, keep_openable, length_problem, probe_videos
from verl_videomtr.sample import Sample, read_rows, write_rows

av = pytest.importorskip("av")
SECONDS = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A video root: one file of 6 s, the same cut in half, and a text file."""
    root = tmp_path_factory.mktemp("videos")
    (root / "clips").mkdir()
    with av.open(str(root / "clips" / "whole.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        for shade in range(5 * SECONDS):
            pixels = np.full((64, 64, 3), 8 * shade, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    content = (root / "clips" / "whole.mp4").read_bytes()
    (root / "clips" / "half.mp4").write_bytes(content[: len(content) // 2])
    (root / "clips" / "text.mp4").write_text("not a video")
    return root


def make_sample(index, *, video="clips/whole.mp4", **changes):
    fields = {
        "data_source": "cats",
        "sample_id": f"cats/{index}",
        "index": index,
        "split": "train",
        "video": video,
        "duration_seconds": 6.0,
        "question": f"question {index}",
        "answer": "a nap",
        "question_type": "free_text",
        "segments": ((1.0, 2.0),),
    }
    return Sample(**{**fields, **changes})


def test_probe_tells_length_or_reason(root):
    probed = probe_videos(
        ["clips/whole.mp4", "clips/half.mp4", "clips/text.mp4", "clips/none.mp4", "../x.mp4", "https://x.org/a.mp4"],
        root=root,
    )
    assert probed["clips/whole.mp4"].duration_seconds == pytest.approx(SECONDS, abs=0.05)
    assert {name: result.problem.reason for name, result in probed.items() if result.problem is not None} == {
        "clips/half.mp4": "video does not open",
        "clips/text.mp4": "video does not open",
        "clips/none.mp4": "video is not there",
        "../x.mp4": "video path is not usable",
        "https://x.org/a.mp4": "video path is not usable",
    }


def test_samples_without_a_usable_video_are_listed(root):
    samples = [make_sample(0), make_sample(1, video="clips/text.mp4"), make_sample(2, video="clips/none.mp4")]
    drops = DropList()
    assert keep_openable(samples, root=root, drops=drops) == samples[:1]
    assert [(entry["id"], entry["reason"]) for entry in drops.entries] == [
        ("cats/1", "video does not open"),
        ("cats/2", "video is not there"),
    ]


def test_custom_takes_the_duration_from_the_file(root, tmp_path):
    source, out = tmp_path / "mine.jsonl", tmp_path / "rows.parquet"
    source.write_text(
        '{"video": "whole.mp4", "question": "who naps", "answer": "the cat", "segments": [[1, 5.5]]}\n'
        '{"video": "whole.mp4", "question": "who sleeps", "answer": "the cat", "segments": [[1, 7.5]]}\n'
        '{"video": "text.mp4", "question": "who reads", "answer": "the cat"}\n'
    )
    arguments = ["--input", str(source), "--videos", str(root), "--prefix", "clips", "--out", str(out)]
    assert custom.main(arguments) == 0
    (sample,) = read_rows(out)
    assert (sample.video, sample.segments) == ("clips/whole.mp4", ((1.0, 5.5),))
    assert sample.duration_seconds == pytest.approx(SECONDS, abs=0.05)


def test_check_holds_rows_against_the_files(root, tmp_path, capsys):
    samples = [
        make_sample(0),
        make_sample(1, duration_seconds=6.9, segments=((5.0, 6.9),)),  # rounded up: within a second of the file
        make_sample(2, duration_seconds=60.0, segments=((1.0, 20.0),)),
        make_sample(3, video="clips/none.mp4"),
    ]
    path = write_rows(tmp_path / "rows.parquet", samples)
    assert check.main([str(path)]) == 0
    assert check.main([str(path), "--videos", str(root)]) == 1
    output = capsys.readouterr().out
    assert "interval outside its video (1)" in output
    assert "cats/2: (1, 20) in 6.00 s" in output
    assert "video is not as long as annotated (1)" in output
    assert "clips/whole.mp4: row 60 s, file 6.00 s" in output
    assert "video is not there (1)" in output
    assert "3 problems; videos opened, their frames not read" in output


@pytest.mark.parametrize(
    ("annotated", "real", "is_problem"),
    [(192.0, 64.0, True), (64.0, 192.0, True), (30.0, 31.9, False), (30.0, 32.1, True), (600.0, 629.0, False)]
    + [(600.0, 631.0, True), (None, 5.0, False), (5.0, None, False)],
)
def test_lengths_are_compared_with_a_tolerance_where_evidence_depends_on_them(annotated, real, is_problem):
    sample = make_sample(0, duration_seconds=annotated, segments=None if annotated is None else ((1.0, 2.0),))
    assert (length_problem(sample, real) is not None) is is_problem
    assert length_problem(dataclasses.replace(sample, segments=None), real) is None


def test_row_to_train_on_with_evidence_from_another_cut_is_dropped_and_a_benchmarks_is_kept(root):
    samples = [make_sample(0, duration_seconds=18.0), make_sample(1, duration_seconds=18.0, split="test")]
    drops = DropList()
    assert keep_openable([*samples, make_sample(2)], root=root, drops=drops) == [samples[1], make_sample(2)]
    assert [(entry["id"], entry["reason"]) for entry in drops.entries] == [
        ("cats/0", "video is not as long as annotated")
    ]


def test_check_notes_a_length_that_differs_a_little(root, tmp_path, capsys):
    path = write_rows(tmp_path / "rows.parquet", [make_sample(0, duration_seconds=7.5)])
    assert check.main([str(path), "--videos", str(root)]) == 0
    assert "note: duration differs from the video's (1)" in capsys.readouterr().out


def test_check_sees_damage_further_on_with_frames_and_says_that_it_does_not_without(root, tmp_path, capsys):
    content = bytearray((root / "clips" / "whole.mp4").read_bytes())
    start = content.index(b"mdat") + 4
    half = start + (len(content) - start) // 3
    content[half : half + 600] = bytes(600)
    (root / "clips" / "midway.mp4").write_bytes(content)
    path = write_rows(tmp_path / "rows.parquet", [make_sample(0, video="clips/midway.mp4"), make_sample(1)])
    assert check.main([str(path), "--videos", str(root)]) == 0
    assert "their frames not read: damage further on is not seen (give --frames 128)" in capsys.readouterr().out
    assert check.main([str(path), "--videos", str(root), "--frames", "128"]) == 1
    output = capsys.readouterr().out
    assert "frames of the video cannot be read (1)" in output
    assert "midway.mp4" in output
    assert "1 problems; videos opened, 128 frames of each read" in output
    for more in (["--frames", "128"], ["--videos", str(root), "--frames", "0"]):
        assert check.main([str(path), *more]) == 1
        assert "expected 1 or more, and --videos with it" in capsys.readouterr().err


@pytest.fixture
def ill_machine(monkeypatch):
    """Decoding processes of which each is killed as soon as it is asked for the clip, as where memory runs out."""
    start = subprocess.Popen

    def start_and_kill(command, *arguments, **options):
        process = start(command, *arguments, **options)
        if "verl_videomtr.video.decode_worker" in command:
            process.kill()
        return process

    monkeypatch.setattr(subprocess, "Popen", start_and_kill)


def test_machine_that_kills_decoders_stops_the_preparation_and_drops_nothing(root, tmp_path, capsys, ill_machine):
    source, out = tmp_path / "mine.jsonl", tmp_path / "rows.parquet"
    source.write_text('{"video": "whole.mp4", "question": "who naps", "answer": "the cat"}\n' * 3)
    arguments = ["--input", str(source), "--videos", str(root), "--prefix", "clips", "--out", str(out)]
    assert custom.main(arguments) == 1
    error = capsys.readouterr().err
    assert "1 videos could not be judged, the first:" in error
    assert "whole.mp4" in error
    assert "nothing was dropped" in error
    assert list(tmp_path.iterdir()) == [source]
    path = write_rows(tmp_path / "checked.parquet", [make_sample(0)])
    assert check.main([str(path), "--videos", str(root)]) == 1
    assert "PROBLEM: videos cannot be judged on this machine (1)" in capsys.readouterr().out


def test_storage_that_fails_stops_the_preparation(root, monkeypatch):
    def fail(path, *arguments, **options):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("pathlib.Path.is_file", fail)
    names = [f"clips/{number}.mp4" for number in range(100)]
    with pytest.raises(UnjudgedVideosError, match=f"{MAX_FAULTS} videos could not be judged.*Input/output error"):
        probe_videos(names, root=root)


def test_check_passes_when_every_video_opens(root, tmp_path, capsys):
    path = write_rows(tmp_path / "rows.parquet", [make_sample(0)])
    assert check.main([str(path), "--videos", str(root)]) == 0
    assert check.main([str(path), "--videos", str(tmp_path / "none")]) == 1
    assert "no such directory; expected the video root" in capsys.readouterr().err


def test_root_may_link_to_where_the_videos_are(root, tmp_path):
    (tmp_path / "clips").symlink_to(root / "clips")
    drops = DropList()
    assert len(keep_openable([make_sample(0)], root=tmp_path, drops=drops)) == 1


def test_numbering_has_no_gaps_after_videos_were_dropped(root, tmp_path):
    samples = [make_sample(0, video="clips/text.mp4"), make_sample(1), make_sample(2)]
    kept = finish(samples, drops=DropList(), out=tmp_path / "rows.parquet", videos=root)
    assert kept == [dataclasses.replace(samples[1], index=0), dataclasses.replace(samples[2], index=1)]
