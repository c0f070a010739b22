# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr frames`: what it writes, and how it fails."""

import awkward_videos as awkward
import numpy as np
import pytest
from PIL import Image

from verl_videomtr.cli import main
from verl_videomtr.episode import spread


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "plain.mp4"
    awkward.write_video(path, count=150)
    return path


def test_the_overview_is_spread_over_the_pool(video, tmp_path, capsys):
    out = tmp_path / "out.npz"
    assert main(["frames", str(video), "--num-frames", "8", "--size", "112x168", "--npz", str(out)]) == 0
    data = np.load(out)
    assert data["frames"].shape == (8, 112, 168, 3)
    assert data["frames"].dtype == np.uint8
    assert data["frame_indices"].tolist()[0] == 0
    assert data["frame_indices"].tolist()[-1] == 127
    assert str(data["decoder"]) == "pyav"
    numbers = [awkward.read_number(frame) for frame in data["frames"]]
    assert numbers == np.rint(data["times_seconds"] * 30).astype(int).tolist()
    assert "pool of 128 frames at 112x168" in capsys.readouterr().out


def test_a_range_of_indices_or_seconds_is_what_a_retrieval_returns(video, tmp_path):
    out = tmp_path / "out.npz"
    assert main(["frames", str(video), "--range", "10,13", "--npz", str(out)]) == 0
    assert np.load(out)["frame_indices"].tolist() == [10, 11, 12, 13]
    assert main(["frames", str(video), "--range", "10,90", "--npz", str(out)]) == 0
    assert np.load(out)["frame_indices"].tolist() == spread(10, 90, 8)
    assert main(["frames", str(video), "--range", "10,90", "--num-frames", "16", "--npz", str(out)]) == 0
    assert np.load(out)["frame_indices"].tolist() == spread(10, 90, 16)
    assert main(["frames", str(video), "--range", "1s,2s", "--npz", str(out)]) == 0
    times = np.load(out)["times_seconds"]
    assert 1 <= times.min() < 1.1
    assert 1.9 < times.max() <= 2


def test_the_sheet_holds_every_frame(video, tmp_path):
    out = tmp_path / "out.png"
    assert main(["frames", str(video), "--num-frames", "6", "--size", "56x84", "--sheet", str(out)]) == 0
    width, height = Image.open(out).size
    assert width * height > 6 * 56 * 84


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere.mp4"], "cannot be opened"),
        ([__file__], "not a readable video file"),
        (["VIDEO", "--range", "5,900"], "leaves the pool"),
        (["VIDEO", "--range", "9"], "names no frames"),
        (["VIDEO", "--decoder", "opencv"], "expected one of"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(video, arguments, message, capsys):
    assert main(["frames", *(str(video) if a == "VIDEO" else a for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_launchs_overrides_show_what_that_launch_shows(video, tmp_path, capsys):
    out = tmp_path / "out.npz"
    launch = ["+videomtr=paper", "+videomtr/budget=b64", "videomtr.episode.pool_size=100"]
    launch += ["videomtr.video.pool.size=[56,84]"]
    assert main(["frames", str(video), *launch, "--npz", str(out)]) == 0
    data = np.load(out)
    assert data["frame_indices"].tolist() == spread(0, 99, 32)
    assert data["frames"].shape == (32, 56, 84, 3)
    assert main(["frames", str(video), *launch, "--range", "10,90", "--size", "28x28", "--npz", str(out)]) == 0
    data = np.load(out)
    assert data["frame_indices"].tolist() == spread(10, 90, 16)
    assert data["frames"].shape == (16, 28, 28, 3)
    capsys.readouterr()
    assert main(["frames", str(video), "+videomtr=paper", "videomtr/budget=b64"]) == 2
    assert "expected a leading +, and one of +videomtr/budget=b128" in capsys.readouterr().err
