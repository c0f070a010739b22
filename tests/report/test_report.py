# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr report`: what is read, chosen, counted and written. The page itself is tried in report/test_browser.py."""

import base64
import hashlib
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
from grey_video import write_grey_video
from PIL import Image
from report_pages import LOST, RECORD, read_block, record, write_lines

from benchmarks.report_lines import write_run
from verl_videomtr.cli import main
from verl_videomtr.report import build, command, page, statistics
from verl_videomtr.report.curves import read_metrics, thin
from verl_videomtr.report.episodes import read_facts, shorten
from verl_videomtr.report.sampling import choose
from verl_videomtr.report.sources import find_runs
from verl_videomtr.report.thumbnails import Wanted, _open, make_thumbnails
from verl_videomtr.video.cache import PoolCache
from verl_videomtr.video.plan import PoolConfig
from verl_videomtr.video.pool import open_pool


def quiet(items, number):
    return items


def facts(**changes):
    """The facts of a record, by what they say and not by where they stand."""
    places = {name: changes.pop(name) for name in ("run", "phase", "file", "line") if name in changes}
    return read_facts(record(**changes), **{"run": 0, "phase": "evaluation", "file": 0, "line": 1, **places})


def make_page(tmp_path, *paths, arguments=()):
    out = tmp_path / "page.html"
    assert main(["report", *map(str, paths), "--out", str(out), *arguments]) == 0
    return out.read_text(encoding="utf-8")


# Reading


def test_a_run_is_found_with_its_validation_and_its_metrics(tmp_path):
    write_lines(tmp_path / "run_7" / "trajectories" / "step_000001.jsonl", record())
    write_lines(tmp_path / "run_7" / "trajectories" / "val" / "step_000001.jsonl", record())
    write_lines(tmp_path / "run_7" / "metrics.jsonl", {"step": 1, "data": {"videomtr/episode/accuracy": 0.5}})
    write_lines(tmp_path / "run_7" / "validation" / "0.jsonl", {"input": "x", "output": "y", "sample_id": "s-1"})
    [run] = find_runs([tmp_path])
    assert run.name == "run_7"
    assert [file.phase for file in run.files] == ["training", "validation"]
    assert run.metrics_files == [tmp_path / "run_7" / "metrics.jsonl"]
    assert run.left_out == 1


def test_runs_of_one_name_are_told_apart(tmp_path):
    for name in ("a", "b"):
        write_lines(tmp_path / name / "eval" / "trajectories.jsonl", record())
    first, second = find_runs([tmp_path / "a" / "eval", tmp_path / "b" / "eval"])
    assert first.name != second.name


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["nowhere"], "does not exist"),
        (["empty"], "holds no trajectory lines"),
        (["other"], "holds no trajectory lines"),
    ],
)
def test_a_path_without_lines_is_one_line_and_exit_code_2(tmp_path, paths, message, capsys):
    (tmp_path / "empty").mkdir()
    write_lines(tmp_path / "other" / "lines.jsonl", {"text": "no trajectory"})
    assert main(["report", *(str(tmp_path / path) for path in paths), "--out", str(tmp_path / "page.html")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("out", "more"), [("page", []), ("page.html", ["--full"])])
def test_the_name_of_a_page_and_of_a_folder_are_not_confused(tmp_path, out, more, capsys):
    write_lines(tmp_path / "trajectories.jsonl", record())
    assert main(["report", str(tmp_path), "--out", str(tmp_path / out), *more]) == 2
    assert "--out" in capsys.readouterr().err


def test_a_half_written_line_is_counted_and_the_others_are_shown(tmp_path):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record(), record(), end='{"sample_id": "s-3", "ques')
    index = read_block(make_page(tmp_path, tmp_path / "run"), "index")
    assert len(index["cards"]["id"]) == 2
    assert index["runs"][0]["unread"] == 1
    assert index["notes"][0].startswith("1 line could not be read; the first: ")
    assert "cut off" in index["notes"][0]


@pytest.mark.parametrize(
    "line",
    [
        '{"no": "trajectory"}', "[1, 2]", '"text"', "nonsense", '{"sample_id": "s", "status": "played"}',
        json.dumps(record(episode={"frames": "abc"})), json.dumps(record(turn_rewards=["x"])),
        json.dumps(record(episode={"retrieval_ious": [{}]})), json.dumps(record(episode={"pool_size": 0})),
        json.dumps(record(step="late")), "[" * 100_000,
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_counted_and_stops_nothing(tmp_path, line):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record(), end=line + "\n")
    index = read_block(make_page(tmp_path, tmp_path / "run"), "index")
    assert (len(index["cards"]["id"]), index["runs"][0]["unread"]) == (1, 1)


ODD = (
    *({"episode": {name: value}} for name in RECORD["episode"] for value in (5, "abc", {}, [], [{}], [[0]], 10**400)),
    *({name: value} for name in RECORD if name != "episode" for value in (5, "abc", {}, [], [{}], [[None]], 10**400)),
    {"turn_rewards": [float("nan"), float("inf")]}, {"segments": [[float("nan"), float("inf")]]}, {"step": -5},
    {"segments": [[-4, -2], [9, 3]]}, {"episode": {"times_seconds": [float("nan")] * 8}}, {"turn_rewards": [1e308] * 2},
    {"episode": {"times_seconds": [-5.0] * 8, "duration_seconds": -8.0}}, {"episode": {"duration_seconds": 1e308}},
    {"episode": {"frames": [[0, 800, -3], [10**30]], "truth": [5000, -4]}}, {"episode": {"pool_size": 10**18}},
    {"video": "/dev/zero"}, {"video": "../../etc/passwd"}, {"video": "a\x00b"}, {"video": "a" * 5000}, {"video": "/"},
)  # fmt: skip


def test_no_record_however_odd_stops_the_page(tmp_path):
    for number, changes in enumerate(ODD):
        made = record(**{"video": f"{number}.mp4", "sample_id": f"s-{number}", **changes})
        write_lines(tmp_path / "run" / f"step_{number:06d}.jsonl", record(), made)
    text = make_page(tmp_path, tmp_path / "run")
    index = read_block(text, "index")
    shown, unread = len(index["cards"]["id"]), index["runs"][0]["unread"]
    assert shown + unread == 2 * len(ODD)
    assert shown > len(ODD)
    assert unread > 100
    assert sum("could not be read" in note for note in index["notes"]) == 1
    (place,) = (n for n, changes in enumerate(ODD) if "'times_seconds': [nan" in str(changes))
    film = index["cards"]["film"][index["cards"]["sample"].index(f"s-{place}")]
    assert read_block(text, "films0")[film]["times"] is None


def test_a_record_of_any_size_takes_a_page_of_bounded_size(tmp_path):
    many = 1_000
    long = record(
        {
            "responses": ["x" * 20_000] * many, "actions": ["invalid"] * many, "ranges": [None] * many,
            "retrieval_ious": [None] * many, "format_ok": [True] * many, "frames": [[5] * 10**5, *[[0]] * (many - 1)],
            "messages": [["text"] * many] * many, "invalid_kinds": ["unclear"] * many, "truth": [*range(0, 10**5, 2)],
        },
        turn_rewards=[0.1] * many, groups={f"g{n}": list(range(100)) for n in range(100)}, question="q" * 10**6,
        components={f"c{n}": 1.0 for n in range(many)}, seconds={f"c{n}": 1.0 for n in range(many)},
        segments=[[1.0, 2.0]] * many, options=["o" * 10**4] * 100,
    )  # fmt: skip
    write_lines(tmp_path / "run" / "step_000001.jsonl", long)
    text = make_page(tmp_path, tmp_path / "run")
    assert len(text) < 8_000_000
    [shown] = read_block(text, "episodes0")
    assert (len(shown["turn_list"]), shown["turns_left_out"]) == (200, many - 200)


def test_a_line_of_the_first_schema_is_shown_as_far_as_it_goes(tmp_path):
    old = record()
    for name in ("schema_version", "status", "uid", "session", "question_type", "options", "segments", "extra_info",
                 "turn_components", "gate_open", "bonus", "policy_version", "finish_reasons", "prompt_tokens",
                 "response_tokens", "advantages", "values", "returns"):  # fmt: skip
        del old[name]
    for name in ("times_seconds", "duration_seconds", "truth", "returned", "messages"):
        del old["episode"][name]
    write_lines(tmp_path / "run" / "step_000001.jsonl", old)
    text = make_page(tmp_path, tmp_path / "run")
    [shown] = read_block(text, "episodes0")
    assert [turn["reward"] for turn in shown["turn_list"]] == [0.6, 1.1]
    assert shown["turn_list"][0]["advantage"] is None
    assert read_block(text, "index")["cards"]["gate"] == [True]


def test_a_lost_episode_says_what_became_of_it(tmp_path):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record(), LOST)
    text = make_page(tmp_path, tmp_path / "run")
    assert read_block(text, "index")["cards"]["lost"] == [None, "unreadable"]
    assert read_block(text, "episodes0")[1]["error"] == "no video stream"


def test_each_turn_carries_what_it_was_paid(tmp_path):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record(bonus=[0.5, 0.0]))
    [shown] = read_block(make_page(tmp_path, tmp_path / "run"), "episodes0")
    first = shown["turn_list"][0]
    assert (first["components"], first["bonus"]) == ({"fms": 0.5, "format": 0.1, "acc": 0}, 0.5)
    assert (first["advantage"], first["return"], first["value"]) == (0.4, 1.7, 1.3)
    assert first["message"] == ["An overview: ", 0, 4, 7]


# Safety


def test_a_text_cannot_leave_its_script_block(tmp_path):
    hostile = "</script><script>alert(1)</script ><!--<script/></SCRIPT/>"
    write_lines(tmp_path / "run" / "step_000001.jsonl", record(question=hostile, sample_id=hostile))
    text = make_page(tmp_path, tmp_path / "run")
    assert len(re.findall("</script", text, re.IGNORECASE)) == len(re.findall("<script", text, re.IGNORECASE))
    assert all("<" not in part for part in re.findall(r'application/json" id="[^"]*">(.*?)</script>', text, re.DOTALL))
    assert read_block(text, "index")["cards"]["question"] == [hostile]


def test_the_policy_names_the_script_and_the_style_that_the_page_holds(tmp_path):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record())
    text = make_page(tmp_path, tmp_path / "run")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    for tag in ("script", "style"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_numbers_that_json_lacks_and_broken_characters_are_written(tmp_path):
    path = tmp_path / "run" / "step_000001.jsonl"
    write_lines(path, record(turn_rewards=[float("nan"), float("inf")], question="half \ud83d a pair"))
    index = read_block(make_page(tmp_path, tmp_path / "run"), "index")
    assert index["cards"]["reward"] == ["nan"]
    assert index["cards"]["question"] == ["half \ud83d a pair"]


def test_a_folder_whose_name_is_no_text_gets_its_page(tmp_path):
    run = tmp_path / os.fsdecode(b"run\xff")
    write_lines(run / "step_000001.jsonl", record())
    text = make_page(tmp_path, run)
    assert "<title>run\N{REPLACEMENT CHARACTER} - " in text


def test_packed_lines_are_said_to_be_left_out(tmp_path):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record())
    (tmp_path / "run" / "val").mkdir()
    for name in ("step_000002.jsonl.gz", "val/step_000002.jsonl.gz"):
        (tmp_path / "run" / name).touch()
    index = read_block(make_page(tmp_path, tmp_path / "run"), "index")
    assert any(note.startswith("2 packed files in ") for note in index["notes"])


def test_an_endless_response_is_shortened_in_its_middle(tmp_path):
    long = "<think>" + "x" * 50_000_000 + "</think><answer>B</answer>"
    write_lines(tmp_path / "run" / "step_000001.jsonl", record(episode={"responses": ["<think>", long]}))
    text = make_page(tmp_path, tmp_path / "run")
    [shown] = read_block(text, "episodes0")
    assert len(text) < 300_000
    assert shown["turn_list"][1]["length"] == len(long)
    assert shown["turn_list"][1]["response"].endswith("<answer>B</answer>")
    assert shorten("abcdef", 3) == "ab [... 3 characters left out ...] f"


# Thumbnails


@pytest.fixture(scope="module")
def grey_video(tmp_path_factory):
    return write_grey_video(tmp_path_factory.mktemp("videos") / "grey.mp4")


def test_a_thumbnail_is_the_frame_that_was_shown(grey_video):
    wanted = {("v", 64): Wanted(path=grey_video, settings={}, indices=[0, 20, 63])}
    films, left_out = make_thumbnails(wanted, budget_bytes=1_000_000, progress=quiet)
    assert left_out == 0
    for index, data in films["v", 64].frames.items():
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert max(picture.size) == 160
        assert np.asarray(picture.convert("L")).mean() == pytest.approx(4 * index, abs=4)


def test_thumbnails_stay_within_their_bytes_and_what_is_left_out_is_counted(grey_video):
    wanted = {("v", 64): Wanted(path=grey_video, settings={}, indices=list(range(64)))}
    films, left_out = make_thumbnails(wanted, budget_bytes=2_000, progress=quiet)
    frames = films["v", 64].frames
    assert 0 < sum(map(len, frames.values())) <= 2_000
    assert left_out == 64 - len(frames) > 0


def test_a_video_that_is_gone_leaves_the_times_of_its_frames(tmp_path):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record())
    text = make_page(tmp_path, tmp_path / "run")
    [film] = read_block(text, "films0")
    assert film["frames"] == {}
    assert film["times"][2] == 2.5
    assert "gone.mp4" in read_block(text, "index")["notes"][0]


def test_frames_come_from_the_cache_that_the_run_filled(grey_video, tmp_path):
    config = PoolConfig(num_frames=64, min_tokens=16, max_tokens=128)
    open_pool(grey_video, config, PoolCache(tmp_path)).read([3, 4])
    settings = {
        "episode": {"pool_size": 64},
        "video": {"cache": {"dir": str(tmp_path)}, "pool": {"min_tokens": 16, "max_tokens": 128}},
    }
    cached = _open(Wanted(path=grey_video, settings=settings, indices=[3, 4]), 64)
    decoded = _open(Wanted(path=grey_video, settings=settings, indices=[3, 9]), 64)
    assert (cached.width_px, cached.read_cached([3]) is not None) == (open_pool(grey_video, config).width_px, True)
    assert decoded.width_px < cached.width_px


# Choosing


def test_a_sample_keeps_groups_whole_steps_present_and_runs_alike():
    everything = [
        facts(run=run, phase="training", step=step, sample_id=f"s{prompt}", uid=f"{step}-{prompt}", line=line)
        for run in (0, 1)
        for step in (1, 2, 3)
        for prompt in range(20)
        for line in range(4)
    ]
    chosen = choose(everything, 100)
    groups = statistics.group_by(chosen, lambda fact: (fact.run, fact.step, fact.prompt))
    assert len(chosen) <= 100
    assert all(len(group) == 4 for group in groups.values())
    assert {(fact.run, fact.step) for fact in chosen} == {(run, step) for run in (0, 1) for step in (1, 2, 3)}
    samples = [{fact.sample_id for fact in chosen if fact.run == run and fact.step == 1} for run in (0, 1)]
    assert samples[0] == samples[1]
    assert {fact.step for fact in choose(everything, 9)} == {1}  # not even one group of every step has room
    assert "s19" in {fact.sample_id for fact in choose(everything, 30, first=["s19"])}


def test_what_is_not_shown_is_said_and_still_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("verl_videomtr.report.build.MAX_EPISODES", 16)
    write_run(tmp_path / "run", episodes=64, videos=1, steps=2)
    index = read_block(make_page(tmp_path, tmp_path / "run"), "index")
    assert len(index["cards"]["id"]) == 16
    assert index["num_read"] == 64
    assert index["sets"][0]["rows"][0]["episodes"] == 32
    assert "16 of 64 episodes are shown" in " ".join(index["notes"])


# Counting


def test_a_table_counts_a_lost_episode_as_wrong_and_means_over_groups():
    lost = read_facts(LOST, run=0, phase="evaluation", file=0, line=1)
    played = [
        facts(sample_id="a", groups={"task": "order"}),
        facts(sample_id="b", groups={"task": "order"}, correct=False),
        facts(sample_id="c", groups={"task": "plot"}),
    ]
    rows = {(row["kind"], row["name"]): row for row in statistics.make_table([*played, lost])}
    assert rows["", "all"]["accuracy"][0] == 0.5
    assert (rows["", "all"]["episodes"], rows["", "all"]["lost"]) == (4, 1)
    assert rows["task", "order"]["accuracy"][0] == 0.5
    assert rows["task", "mean of 2"]["accuracy"][0] == 0.75


def test_flips_are_listed_with_the_exact_p():
    before = [facts(sample_id=f"s{n}", video=f"{n}.mp4", correct=n < 2) for n in range(8)]
    after = [facts(sample_id=f"s{n}", video=f"{n}.mp4", correct=n != 0) for n in range(8)]
    compared = statistics.compare_sets(before, after)
    assert (compared["num_gained"], compared["dropped"], compared["both_right"]) == (6, ["s0"], 1)
    assert compared["p"] == pytest.approx(0.125)  # 2 * (C(7,0) + C(7,1)) / 2^7
    assert compared["difference"][0] == pytest.approx(5 / 8)
    assert statistics.compare_sets(before, [facts(sample_id="other")]) is None


def test_a_heat_map_bins_looks_and_evidence_by_their_place_in_the_video():
    heat = statistics.HeatMap()
    heat.add(3, {"pool_size": 24, "frames": [[0, 12, 23], [5, 6], [6]], "truth": [23]})
    [row] = heat.rows()
    assert row["steps"] == [3, 3]
    assert {bin_: share for bin_, share in enumerate(row["looks"]) if share} == pytest.approx(
        {5: 1 / 3, 6: 2 / 3}, abs=1e-4
    )
    assert row["evidence"][23] == 1


def test_curves_come_from_the_metrics_file_and_else_from_the_lines(tmp_path):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record(), record(correct=False, turn_rewards=[0.0, 0.1]))
    write_lines(
        tmp_path / "run" / "metrics.jsonl", {"step": 1, "data": {"videomtr/reward/episode": 9.0, "timing_s/gen": 2.0}}
    )
    charts = {chart["title"]: chart for chart in read_block(make_page(tmp_path, tmp_path / "run"), "index")["charts"]}
    assert charts["Accuracy"]["lines"][0]["points"] == [[1, 0.5]]
    assert charts["Reward"]["lines"][0]["points"] == [[1, 9]]
    assert charts["Time of a step"]["stacked"]


def test_a_step_trained_again_counts_with_its_last_line(tmp_path):
    values = ((1, 0.1), (2, 0.2), (2, 0.3))
    path = write_lines(tmp_path / "metrics.jsonl", *({"step": s, "data": {"a": v}} for s, v in values))
    assert read_metrics(path)[0]["a"] == [(1, 0.1), (2, 0.3)]
    thinned = thin([(step, 0.5) for step in range(5001)])
    assert len(thinned) <= 402
    assert (thinned[0][0], thinned[-1][0]) == (0, 5000)


# Writing


def test_a_folder_holds_every_block_beside_a_small_page(tmp_path):
    write_run(tmp_path / "run", episodes=96, videos=2, steps=2)
    out = tmp_path / "folder"
    assert main(["report", str(tmp_path / "run"), "--out", str(out), "--full"]) == 0
    [data] = (out / "data").iterdir()
    assert sorted(path.name for path in data.iterdir()) == ["episodes0.js", "episodes1.js", "episodes2.js", "films0.js"]
    text = (out / "index.html").read_text(encoding="utf-8")
    assert len(read_block(text, "index")["cards"]["id"]) == 96
    assert "block-episodes0" not in text
    assert (data / "films0.js").read_text(encoding="utf-8").startswith('videomtrBlock("films0",')


def test_a_folder_that_is_written_again_leaves_an_open_page_its_blocks(tmp_path):
    run, out = tmp_path / "run", tmp_path / "folder"
    before = []
    for step in (1, 2, 3):
        write_lines(run / f"step_{step:06d}.jsonl", record(step=step))
        assert main(["report", str(run), "--out", str(out), "--full"]) == 0
        [now] = re.findall(r'data-loads="(data/[0-9a-f]{16}/)"', (out / "index.html").read_text(encoding="utf-8"))
        assert (out / now / "episodes0.js").is_file()
        before.append(now)
    assert [(out / folder).is_dir() for folder in before] == [False, True, True]


@pytest.mark.parametrize(("out", "more"), [("page.html", []), ("folder", ["--full"])])
def test_a_page_that_cannot_be_written_is_one_clear_line(tmp_path, out, more, capsys):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record())
    (tmp_path / "file").write_text("no folder")
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "file" / out), *more]) == 2
    error = capsys.readouterr().err
    assert "the report could not be written (" in error
    assert "give another --out" in error
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_following_makes_the_page_again_when_a_run_goes_on(tmp_path, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "page.html"
    write_lines(run / "step_000001.jsonl", record())
    shown = []

    def wait(seconds):
        index = read_block(out.read_text(encoding="utf-8"), "index")
        shown.append((len(index["cards"]["id"]), index["follow_seconds"], out.stat().st_mtime_ns))
        if len(shown) == 3:
            raise KeyboardInterrupt
        if len(shown) == 1:
            write_lines(run / "step_000002.jsonl", record(step=2))

    monkeypatch.setattr(command.time, "sleep", wait)
    assert main(["report", str(run), "--out", str(out), "--follow"]) == 0
    assert [count for count, _, _ in shown] == [1, 2, 2]
    assert shown[0][1] == command.FOLLOW_SECONDS
    assert shown[1][2] == shown[2][2]  # nothing changed, so nothing was written


def follow(tmp_path, monkeypatch, *changes):
    """Follow a run; before each next look one of `changes` is made. Return how many episodes each look showed."""
    run, out, left = tmp_path / "run", tmp_path / "page.html", list(changes)
    shown = []

    def wait(seconds):
        shown.append(len(read_block(out.read_text(encoding="utf-8"), "index")["cards"]["id"]) if out.exists() else None)
        if not left:
            raise KeyboardInterrupt
        left.pop(0)(run)

    monkeypatch.setattr(command.time, "sleep", wait)
    assert main(["report", str(run), "--out", str(out), "--follow"]) == 0
    return shown


def test_following_begins_before_the_first_line_and_outlives_a_folder_that_is_replaced(tmp_path, monkeypatch, capsys):
    def start(run):
        write_lines(run / "step_000001.jsonl", record(), record(sample_id="s-2"))

    def take_away(run):
        shutil.rmtree(run)

    def start_again(run):
        write_lines(run / "step_000001.jsonl", record(correct=False))

    (tmp_path / "run").mkdir()
    nothing = [lambda run: None]
    assert follow(tmp_path, monkeypatch, start, take_away, *nothing, start_again) == [None, 2, 2, 2, 1]
    errors = capsys.readouterr().err
    assert errors.count("holds no trajectory lines") == 1
    assert errors.count("does not exist") == 1  # said once, however often it is looked for


def test_following_a_path_that_never_was_is_an_error(tmp_path, capsys):
    assert main(["report", str(tmp_path / "tpyo"), "--out", str(tmp_path / "page.html"), "--follow"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_line_that_changes_between_the_two_readings_is_left_to_the_next_page(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "run" / "step_000001.jsonl", record(), record(sample_id="s-2"))
    choose_of_now = build.choose

    def replace_and_choose(*args, **kwargs):
        write_lines(path, record(), LOST)
        return choose_of_now(*args, **kwargs)

    monkeypatch.setattr(build, "choose", replace_and_choose)
    index = read_block(make_page(tmp_path, tmp_path / "run"), "index")
    assert index["cards"]["sample"] == ["s-1"]


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_shown(tmp_path):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record())
    (tmp_path / "run" / "step_000002.jsonl").symlink_to("/proc/self/mem")  # a file whose reading fails
    index = read_block(make_page(tmp_path, tmp_path / "run"), "index")
    assert len(index["cards"]["id"]) == 1
    assert "step_000002.jsonl could not be read: Input/output error" in index["notes"][0]


def test_curves_of_a_resumed_run_go_on_from_those_that_were_set_aside(tmp_path):
    def metrics(name, *points):
        write_lines(
            tmp_path / f"{name}.jsonl",
            *({"step": s, "data": {"critic/vf_loss": v, "timing_s/step": v}} for s, v in points),
        )

    write_lines(tmp_path / "trajectories" / "step_000001.jsonl", record())
    metrics("metrics.until_step_2", (1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4))
    metrics("metrics.until_step_2_2", (3, 9.0))
    metrics("metrics.until_step_10", (3, 3.0), (10, 10.0), (11, 11.0))
    metrics("metrics", (11, 0.11))
    expected = [[1, 0.1], [2, 0.2], [3, 3], [10, 10], [11, 0.11]]
    for path in (tmp_path, tmp_path / "trajectories", tmp_path / "metrics.jsonl"):
        [run] = find_runs([path])
        assert [file.stem for file in run.metrics_files][-1] == "metrics"
        charts = {chart["title"]: chart for chart in read_block(make_page(tmp_path, path), "index")["charts"]}
        assert charts["Value loss"]["lines"][0]["points"] == expected


def test_an_episode_keeps_its_name_when_the_run_goes_on(tmp_path):
    run = tmp_path / "run"
    write_lines(run / "step_000002.jsonl", record(step=2))
    before = read_block(make_page(tmp_path, run), "index")["cards"]["id"]
    write_lines(run / "step_000001.jsonl", record())
    write_lines(run / "val" / "step_000002.jsonl", record(step=2))
    after = read_block(make_page(tmp_path, run), "index")["cards"]["id"]
    assert len(set(after)) == 3
    assert set(before) < set(after)


def test_the_page_draws_with_every_file_of_its_template():
    folder = page.resources.files("verl_videomtr.report") / "template"
    names = {item.name for item in folder.iterdir()}
    assert names == {*page.SCRIPTS, page.STYLE, "page.html.j2"}
