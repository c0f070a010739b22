# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr eval` and `videomtr ask` against vLLM's own OpenAI server, on the CPU, with a tiny model."""

from __future__ import annotations

import json
import time

import pytest
from killed_client import kill_midway
from served import serve
from trainer_runs import build_model, make_data

from verl_videomtr.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NUM_ROWS = 24
OVERRIDES = ("+videomtr=paper", "+videomtr/model=tiny")
GREEDY = "actor_rollout_ref.rollout.val_kwargs.temperature=0"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("served"), num_train=NUM_ROWS)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("server") / "server.log"


@pytest.fixture(scope="module")
def url(log):
    with serve(build_model(), log) as (url, _):
        yield url


@pytest.fixture(scope="module")
def greedy(data, url, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "greedy"
    assert evaluate(data, out, url, GREEDY) == 0
    return out


def evaluate(data, out, url, *extra):
    command = ["eval", str(data / "train.parquet"), "--base-url", url, "--out", str(out), "--timeout", "120"]
    return main([*command, *OVERRIDES, f"videomtr.video.root={data}", *extra])


def lines_of(out):
    return [json.loads(line) for line in (out / "trajectories.jsonl").read_text().splitlines()]


def test_every_episode_is_played_and_none_drifts(greedy):
    lines = lines_of(greedy)
    assert len(lines) == NUM_ROWS
    assert {line["status"] for line in lines} == {"played"}
    assert {line["episode"]["stop_reason"] for line in lines} <= {"answered", "turn_limit"}
    assert sum(line["episode"]["actions"].count("retrieve") for line in lines) > NUM_ROWS // 2
    for line in lines:
        prompts, responses = line["prompt_tokens"], line["response_tokens"]
        assert all(after > before + said for before, said, after in zip(prompts, responses, prompts[1:], strict=False))
    run = json.loads((greedy / "run.json").read_text())
    assert (run["servers"][0]["kind"], run["servers"][0]["max_model_len"], run["model"]) == ("vllm", 512, "tiny")
    # Every episode with a second turn was judged by its token ids.
    several = sum(len(line["episode"]["responses"]) > 1 for line in lines)
    assert run["drift"] == {
        "episodes_judged": several,
        "episodes_drifted": 0,
        "first": None,
        "responses_rejoined": 0,
    }
    assert f"drift 0 of {several} episodes" in (greedy / "report.md").read_text()


def test_one_episode_at_a_time_plays_the_same_as_all_at_once(greedy, data, url, tmp_path):
    extra = ["--concurrency", "1", "--limit", "5", "--image-format", "png"]
    assert evaluate(data, tmp_path / "out", url, GREEDY, *extra) == 0
    together = {line["sample_id"]: line["episode"] for line in lines_of(greedy)}
    alone = {line["sample_id"]: line["episode"] for line in lines_of(tmp_path / "out")}
    assert len(alone) == 5
    assert alone == {sample_id: together[sample_id] for sample_id in alone}


def test_finished_run_asks_nothing_again(greedy, data, url):
    before = (greedy / "journal.jsonl").read_bytes()
    episodes = [line["episode"] for line in lines_of(greedy)]
    assert evaluate(data, greedy, url, GREEDY) == 0
    assert (greedy / "journal.jsonl").read_bytes() == before
    assert [line["episode"] for line in lines_of(greedy)] == episodes


def test_killed_client_asks_for_nothing_again_that_it_had_received(greedy, data, url, log, tmp_path):
    """SIGKILL; the server's own log of requests is the judge."""
    out, in_flight, before_a_run = tmp_path / "out", 2, 2
    arguments = [str(data / "train.parquet"), "--base-url", url, "--concurrency", str(in_flight)]
    arguments += [*OVERRIDES, f"videomtr.video.root={data}", GREEDY]
    first = num_answered(log)
    kept = kill_midway(arguments, out, num_answers=9, limit_seconds=300)
    total = sum(len(line["episode"]["responses"]) for line in lines_of(greedy))
    assert 9 <= len(kept) < total
    time.sleep(2)  # what is in flight ends at the server
    second = num_answered(log)
    assert len(kept) <= second - first - before_a_run <= len(kept) + in_flight
    assert evaluate(data, out, url, GREEDY) == 0
    assert num_answered(log) - second == total - len(kept) + before_a_run
    assert [line["episode"] for line in lines_of(out)] == [line["episode"] for line in lines_of(greedy)]


def num_answered(log):
    return log.read_text(errors="replace").count('POST /v1/chat/completions HTTP/1.1" 200')


@pytest.mark.slow
def test_reasoning_parser_of_the_server_is_rejoined(greedy, data, tmp_path):
    with serve(build_model(), tmp_path / "server.log", extra=("--reasoning-parser", "deepseek_r1")) as (url, _):
        assert evaluate(data, tmp_path / "out", url, GREEDY) == 0
    lines, others = lines_of(tmp_path / "out"), lines_of(greedy)
    assert [line["episode"] for line in lines] == [line["episode"] for line in others]
    drift = json.loads((tmp_path / "out" / "run.json").read_text())["drift"]
    assert drift["responses_rejoined"] == sum(len(line["episode"]["responses"]) for line in lines)
    assert drift["episodes_drifted"] == 0
    assert f"{drift['responses_rejoined']} responses rejoined" in (tmp_path / "out" / "report.md").read_text()


def test_context_that_is_too_small_truncates_and_is_counted(data, url, tmp_path):
    # 80 frames of one token do not fit into what is left of 512 with their text.
    extra = ["videomtr.episode.frame_budget=16", "videomtr.max_response_tokens=380"]
    assert evaluate(data, tmp_path / "out", url, GREEDY, *extra, "--limit", "4") == 0
    lines = lines_of(tmp_path / "out")
    assert {line["status"] for line in lines} == {"played"}
    assert {line["episode"]["stop_reason"] for line in lines} <= {"answered", "length_limit", "turn_limit"}


def test_ask_draws_an_episode(data, url, tmp_path, capsys):
    video = next((data / "videos").glob("*.mp4"))
    command = ["ask", str(video), "What does the gold scene show?", "--base-url", url, *OVERRIDES, GREEDY]
    options = [part for text in ("cross", "square", "disc", "bar") for part in ("--option", text)]
    assert main([*command, *options, "--pictures", "--sheet", str(tmp_path / "sheet.png")]) == 0
    output = capsys.readouterr().out
    assert "turn 1: shown 8 frames" in output
    assert "answered: " in output
    assert "of 16 frames" in output
    assert (tmp_path / "sheet.png").stat().st_size > 1000
