# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Subtitles of the frames shown, from hand-written SRT files; what an episode then says, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_videomtr.episode import Episode, EpisodeConfig
from verl_videomtr.prompts import Prompts
from verl_videomtr.sample import Sample
from verl_videomtr.subtitles import HEADING, SubtitleError, lines_at, parse_srt, read_subtitles

SRT = """1
00:00:01,000 --> 00:00:03,000
<font color="white" size=".72c">A man enters.</font>

2
00:00:02,500 --> 00:00:04,000
- Hello!
- <i>Goodbye</i> {\\an8}now.

3
00:01:00,000 --> 00:01:01,500
The end.
"""
WHERE = Path("clip.srt")


def sample(video, number=0):
    return Sample(
        data_source="d",
        sample_id=str(number),
        index=number,
        split="test",
        video=video,
        question="Who enters?",
        options=("a man", "a dog"),
        answer="A",
        question_type="multiple_choice",
    )


def test_cue_is_shown_from_its_start_to_before_its_end():
    cues = parse_srt(SRT.encode(), path=WHERE)
    assert lines_at(cues, [0.999]) == []
    assert lines_at(cues, [1.0]) == ["A man enters."]
    assert lines_at(cues, [3.0]) == ["- Hello! - Goodbye now."]
    assert lines_at(cues, [4.0, 61.5]) == []


def test_overlapping_cues_are_each_told_once_in_order_of_their_starts():
    cues = parse_srt(SRT.encode(), path=WHERE)
    assert lines_at(cues, [60.0, 2.9, 2.6]) == ["A man enters.", "- Hello! - Goodbye now.", "The end."]


@pytest.mark.parametrize(
    "data",
    [
        SRT.encode(),
        SRT.encode("utf-8-sig"),
        SRT.encode("utf-16"),
        b"\xfe\xff" + SRT.encode("utf-16-be"),
        SRT.replace("\n", "\r\n").encode(),
        SRT.replace("\n", "\r").encode(),
        SRT.replace(",", ".").encode(),
        SRT.replace("\n\n", "\n").encode(),
        SRT.rstrip().encode(),
    ],
    ids=["utf8", "mark", "utf16le", "utf16be", "crlf", "cr", "dots", "no_blank_lines", "no_last_line"],
)
def test_forms_of_the_same_file(data):
    assert parse_srt(data, path=WHERE) == parse_srt(SRT.encode(), path=WHERE)


def test_words_beyond_ascii_are_kept():
    data = "1\n00:00:00,000 --> 00:00:01,000\n你好, señor\n".encode("utf-16")
    assert lines_at(parse_srt(data, path=WHERE), [0.5]) == ["你好, señor"]


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n \r\n", b"1\n00:00:00,000 --> 00:00:05,000\n<b></b>\n"])
def test_file_without_words_has_no_cues(data):
    assert parse_srt(data, path=WHERE) == ()


def test_no_token_of_a_chat_template_gets_through():
    data = b"1\n00:00:00,000 --> 00:00:05,000\na<|im_end|>b<<b>|im_start|>c\x00image\x00 <|im_\nend|> {x} 1 < 2\n"
    (line,) = lines_at(parse_srt(data, path=WHERE), [1.0])
    assert line == "ab|im_start|>cimage {x} 1 < 2"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("señor".encode("latin-1"), "expected UTF-8.*clip.srt.*iconv"),
        (b"1\n00:00:01 --> 00:00:03\nwords\n", "'00:00:01 --> 00:00:03' is no timing.*clip.srt, line 2"),
        (b"WEBVTT\n\nwords\n", "text without a subtitle.*clip.srt"),
    ],
)
def test_file_that_is_no_srt_is_named(data, words):
    with pytest.raises(SubtitleError, match=words):
        parse_srt(data, path=WHERE)


def test_files_are_found_beside_the_videos_or_by_name_in_one_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "clip.srt").write_text(SRT)
    (tmp_path / "flat.srt").write_text(SRT.replace("man", "dog"))
    samples = [sample(name, number) for number, name in enumerate(["a/clip.mp4", "/far/flat.mkv", "b/none.mp4"])]
    subtitles = read_subtitles(tmp_path, samples)
    assert lines_at(subtitles.of(samples[0]), [1.0]) == ["A man enters."]
    assert lines_at(subtitles.of(samples[1]), [1.0]) == ["A dog enters."]
    assert subtitles.of(samples[2]) == ()
    assert (subtitles.describe()["num_files"], subtitles.describe()["num_videos"]) == (2, 3)
    before = subtitles.sha256
    (tmp_path / "flat.srt").write_text(SRT)
    assert read_subtitles(tmp_path, samples).sha256 != before


def test_missing_folder_and_folder_without_files_are_refused(tmp_path):
    with pytest.raises(SubtitleError, match=r"no such folder .*nowhere.*--subtitles"):
        read_subtitles(tmp_path / "nowhere", [sample("a.mp4")])
    with pytest.raises(SubtitleError, match=r"none of 1 videos has subtitles; expected files such as .*a\.srt"):
        read_subtitles(tmp_path, [sample("a.mp4")])


def test_two_videos_never_share_a_file(tmp_path):
    (tmp_path / "1.srt").write_text(SRT)
    with pytest.raises(SubtitleError, match=r"several videos .*a/1.mp4.*b/1.mp4"):
        read_subtitles(tmp_path, [sample("a/1.mp4"), sample("b/1.mp4", 1)])


def test_file_outside_the_folder_is_not_read(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.srt").write_text(SRT)
    (tmp_path / "inside" / "link.srt").symlink_to(tmp_path / "secret.srt")
    with pytest.raises(SubtitleError, match="none of"):
        read_subtitles(tmp_path / "inside", [sample("link.mp4")])


def texts(observation):
    return "".join(part if isinstance(part, str) else "[]" for part in observation.parts)


def episode(subtitles):
    return Episode(
        config=EpisodeConfig(pool_size=5, frame_budget=4, max_turns=3, initial_frames=2, retrieval_frames=1),
        prompts=Prompts.load("default"),
        question="Who enters?",
        times_seconds=[2.7, 10.0, 60.5, 61.7, 61.8],
        duration_seconds=62.0,
        subtitles=subtitles,
    )


def test_each_message_tells_the_subtitles_of_its_own_frames():
    played = episode(parse_srt(SRT.encode(), path=WHERE))
    overview = played.reset()
    first = texts(overview)
    assert [played.times_seconds[index] for index in overview.frames] == [2.7, 61.8]
    assert f"\n{HEADING}\nA man enters.\n- Hello! - Goodbye now.\n" in first
    assert first.index(HEADING) > first.rindex("[]")
    assert first.index(HEADING) < first.index("Question:")
    second = texts(played.step("<think>more</think><retrieve>2,2</retrieve>"))
    assert f"{HEADING}\nThe end.\n" in second
    assert "A man enters." not in second
    third = texts(played.step("nonsense"))
    assert HEADING not in third


def test_frames_without_subtitles_and_episodes_without_files_read_as_before():
    plain = episode(())
    first, later = texts(plain.reset()), texts(plain.step("<think>more</think><retrieve>1,1</retrieve>"))
    assert HEADING not in first + later
    told = episode(parse_srt(SRT.encode(), path=WHERE))
    told.reset()
    assert texts(told.step("<think>more</think><retrieve>1,1</retrieve>")) == later
