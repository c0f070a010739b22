"""Rows against real video files: missing ones, broken ones, and intervals beyond the end."""

import dataclasses

import numpy as np
import pytest

from data_prep import check, custom
from data_prep.command import finish
from data_prep.drops import DropList
from data_prep.videos import keep_openable, probe_videos
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
    assert "note: duration differs from the video's (1)" in output
    assert "video is not there (1)" in output
    assert "2 problems; videos opened" in output


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
