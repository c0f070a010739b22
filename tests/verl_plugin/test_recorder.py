# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A run's lines: complete, with their credit, beside a run.json; and scored anew from themselves alone."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from plugin_setting import LOOK, make_sample
from rollout_setting import ANSWER, WRONG

from verl_videomtr import cli
from verl_videomtr.replay import WORDS, differences, replay
from verl_videomtr.rescore import rescore
from verl_videomtr.settings import DumpConfig
from verl_videomtr.trajectory import Trajectory
from verl_videomtr.trajectory_files import TrajectoryFileError, read_file, read_run, step_file, write_file, write_run
from verl_videomtr.verl_plugin.batch_rows import SAMPLE_KEY, TRAJECTORY_KEY, TrajectoryRow, real_rows
from verl_videomtr.verl_plugin.recorder import Recorder, with_credit
from verl_videomtr.verl_plugin.run_description import describe_run

pytest_plugins = ["plugin_setting"]

INVALID = "red"
SCRIPTS = [[LOOK, ANSWER], [LOOK, WRONG], [ANSWER], [LOOK, LOOK, ANSWER], [INVALID, LOOK, ANSWER], [LOOK, LOOK, LOOK]]


def give_credit(trajectory):
    """Put other numbers for every turn where a training has its own."""
    numbers = [float(turn) for turn in range(trajectory.num_turns)]
    return dataclasses.replace(trajectory, advantages=numbers, returns=numbers, values=numbers)


@pytest.fixture
def folder(setting, tmp_path):
    """Lines of a step and of a validation as a run writes them."""
    played = [
        setting.play(script, sample=make_sample(sample_id=f"s{number}"))
        for number, script in enumerate([*SCRIPTS, [LOOK, ANSWER]])
    ]
    config = setting.config(f"videomtr.dump.dir={tmp_path / 'lines'}")
    recorder = Recorder(DumpConfig(dir=str(tmp_path / "lines")), describe=lambda: describe_run(config))
    lost = [{"kind": "failed", "sample_id": "gone", "error": "it broke", "uid": "u", "session": 1, "split": "train"}]
    recorder.record_step([give_credit(each.trajectory) for each in played], lost, step=3)
    infos = [each.outputs[-1].extra_fields["reward_extra_info"] for each in played]
    recorder.record_validation([info[TRAJECTORY_KEY] for info in infos], step=0)
    recorder.record_validation_losses(lost, step=0)
    assert [info[SAMPLE_KEY] for info in infos] == [each.trajectory.sample_id for each in played]
    return tmp_path / "lines"


def test_line_says_all_that_was_seen_and_decided(folder, setting):
    line = read_file(step_file(folder, 3)).records[0]
    trajectory = setting.play([LOOK, ANSWER]).trajectory
    assert set(line) == {field.name for field in dataclasses.fields(Trajectory)}
    assert (line["schema_version"], line["status"], line["step"], line["uid"], line["session"]) == (
        2,
        "played",
        3,
        "u",
        0,
    )
    looked = next(r for r in read_file(step_file(folder, 3)).records if r["sample_id"] == "s0")
    assert looked["options"] == ["cat", "dog"]
    assert looked["question_type"] == "multiple_choice"
    assert looked["segments"] == [[10.0, 20.0]]
    assert looked["policy_version"] == {"min": 1, "max": 1}
    assert looked["finish_reasons"] == ["stop", "stop"]
    assert looked["gate_open"] is True
    assert looked["turn_components"] == [
        {"acc": 0.0, "fms": 0.5, "format": 0.1},
        {"acc": 1.0, "fms": 0.0, "format": 0.1},
    ]
    assert [sum(parts.values()) for parts in looked["turn_components"]] == pytest.approx(looked["turn_rewards"])
    assert looked["prompt_tokens"][1] > looked["prompt_tokens"][0] > 0
    spans = [end - start for start, end in looked["turn_spans"]]
    assert looked["response_tokens"] == spans
    episode = looked["episode"]
    assert episode["truth"] == list(range(10, 20))
    assert episode["returned"] == [[10, 13, 16, 19], None]
    assert len(episode["times_seconds"]) == episode["pool_size"] == 64
    assert episode["messages"][1] == list(episode["messages"][1])
    assert [part for part in episode["messages"][1] if isinstance(part, int)] == episode["returned"][0]
    assert trajectory.episode["messages"] == episode["messages"]


def test_lost_trajectories_have_a_line(folder):
    (lost,) = read_file(step_file(folder, 3)).lost
    assert lost["sample_id"] == "gone"
    assert (lost["kind"], lost["error"], lost["uid"], lost["session"], lost["step"]) == (
        "failed",
        "it broke",
        "u",
        1,
        3,
    )
    assert read_file(step_file(folder / "val", 0)).lost == [{**lost, "step": 0}]


def test_validation_has_the_same_lines(folder):
    train, val = read_file(step_file(folder, 3)).played, read_file(step_file(folder / "val", 0)).played
    assert len(train) == len(val) == len(SCRIPTS) + 1

    def by_id(lines):
        trained = ("step", "seconds", "advantages", "returns", "values")
        return {line["sample_id"]: {k: v for k, v in line.items() if k not in trained} for line in lines}

    assert by_id(train) == by_id(val)


def test_run_json_says_what_the_lines_were_made_with(folder, setting):
    run = read_run(folder)
    assert run["reward"] == {"path": "pkg://verl_videomtr.rewards", "name": "compute_score"}
    assert run["videomtr"]["episode"]["pool_size"] == 64
    assert run["model"] == str(setting.model)
    assert "{image}" in run["prompts"]["templates"]["frame"]
    assert run["packages"]["verl"] == "0.9.1"


def test_run_that_goes_on_with_other_settings_says_so(setting, tmp_path, caplog):
    for overrides in ([], [], ["videomtr.max_response_tokens=15"]):
        config = setting.config(*overrides)
        recorder = Recorder(DumpConfig(dir=str(tmp_path)), describe=lambda config=config: describe_run(config))
        recorder.record_step([], [], step=1)
    assert [("other settings (videomtr)" in record.message) for record in caplog.records] == [True]
    assert read_run(tmp_path)["videomtr"]["max_response_tokens"] == 15


def test_data_files_are_named_with_their_hash(setting, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"rows")
    config = setting.config()
    OmegaConf.update(config, "data.train_files", [str(tmp_path / "a.parquet"), "hdfs://far/b.parquet"])
    train = [file for file in describe_run(config)["data"] if file["role"] == "train"]
    assert [file["sha256"] for file in train] == [hashlib.sha256(b"rows").hexdigest(), None]


def test_second_batch_of_a_step_is_added_and_a_resumed_step_replaces(setting, tmp_path):
    trajectory = setting.play([ANSWER]).trajectory
    first = Recorder(DumpConfig(dir=str(tmp_path)), describe=dict)
    for _ in range(2):
        first.record_step([trajectory], [], step=1)
    assert len(read_file(step_file(tmp_path, 1)).records) == 2
    Recorder(DumpConfig(dir=str(tmp_path)), describe=dict).record_step([trajectory], [], step=1)
    assert len(read_file(step_file(tmp_path, 1)).records) == 1


def test_share_of_the_played_and_all_of_the_lost(setting, tmp_path):
    trajectory = setting.play([ANSWER]).trajectory
    recorder = Recorder(DumpConfig(dir=str(tmp_path), share=0.25), describe=dict)
    recorder.record_step([trajectory] * 8, [{"sample_id": "a", "kind": "failed", "error": "e"}] * 3, step=1)
    read = read_file(step_file(tmp_path, 1))
    assert (len(read.played), len(read.lost)) == (2, 3)


def test_lines_of_later_steps_that_an_earlier_run_has_left_are_named(tmp_path, caplog):
    for step in (1, 2, 12):
        write_file(step_file(tmp_path, step), [])
    Recorder(DumpConfig(dir=str(tmp_path)), describe=dict).record_step([], [], step=12)
    assert not caplog.records
    recorder = Recorder(DumpConfig(dir=str(tmp_path)), describe=dict)
    recorder.record_validation([], step=1)
    recorder.record_step([], [], step=2)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "up to step_000012.jsonl; expected none behind step_000001.jsonl" in said


def test_lines_stand_in_the_batchs_order(setting, tmp_path):
    one = setting.play([ANSWER]).trajectory
    batch = [dataclasses.replace(one, session=number) for number in range(16)]
    for step, share in ((1, 1.0), (2, 0.5)):
        Recorder(DumpConfig(dir=str(tmp_path), share=share), describe=dict).record_step(batch, [], step=step)
        sessions = [line["session"] for line in read_file(step_file(tmp_path, step)).played]
        assert len(sessions) == 16 * share
        assert sessions == sorted(sessions)
        assert sessions != list(range(8)), "the first ones, not a draw"


KILLED = """
import json, sys
from verl_videomtr.settings import DumpConfig
from verl_videomtr.trajectory import Trajectory
from verl_videomtr.verl_plugin.recorder import Recorder

folder, record = sys.argv[1], json.load(open(sys.argv[2]))
recorder, number = Recorder(DumpConfig(dir=folder), describe=dict), 0
lost = [{"kind": "failed", "sample_id": "gone", "error": "it broke"}]
for step in range(1, 10**6):
    for batch in range(3):
        numbered = [Trajectory.from_dict({**record, "session": number + place}) for place in range(4)]
        recorder.record_step(numbered, lost if batch == 2 else [], step=step)
        number += 4
        print(step, number, flush=True)
"""


@pytest.mark.parametrize("num_announced", [1, 2, 5])
def test_killed_trainer_keeps_every_line_that_it_announced(setting, tmp_path, num_announced):
    record = {**setting.play([LOOK, ANSWER]).trajectory.to_dict(), "question": "?" * 500_000}
    (tmp_path / "record.json").write_text(json.dumps(record))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "lines"), str(tmp_path / "record.json")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as trainer:
        assert trainer.stdout is not None
        said = [next(trainer.stdout) for _ in range(num_announced)]
        trainer.kill()
        said += trainer.stdout.readlines()
    last_step, last_number = map(int, said[-1].split())
    reads = {path: read_file(path) for path in sorted((tmp_path / "lines").glob("step_*"))}
    sessions = [line["session"] for read in reads.values() for line in read.played]
    assert sessions == list(range(len(sessions)))
    assert len(sessions) >= last_number
    assert all(read.num_cut <= 1 for read in reads.values())
    for step in range(1, last_step):
        read = reads[step_file(tmp_path / "lines", step)]
        assert (len(read.played), len(read.lost), read.num_cut) == (12, 1, 0)
    # The step that was cut is trained again.
    goes_on = Recorder(DumpConfig(dir=str(tmp_path / "lines")), describe=dict)
    for step in (last_step, last_step + 1):
        goes_on.record_step([Trajectory.from_dict(record)], [], step=step)
        assert len(read_file(step_file(tmp_path / "lines", step)).records) == 1
    assert not list((tmp_path / "lines").glob(".*"))


def test_nothing_is_written_without_a_folder(setting):
    recorder = Recorder(DumpConfig(), describe=lambda: pytest.fail("asked for"))
    recorder.record_step([setting.play([ANSWER]).trajectory], [], step=1)
    recorder.record_validation(["{}"], step=1)
    recorder.record_validation_losses([], step=1)


@pytest.mark.parametrize("window", [0, 1, 2])
def test_credit_is_taken_at_each_turns_last_token(setting, window):
    overrides = [f"videomtr.episode.window={window}", "videomtr.episode.initial_frames=4"]
    outputs = setting.play([LOOK, [], ANSWER], *overrides).outputs
    rows = real_rows([{}] * len(outputs), [output.extra_fields for output in outputs], all_needed=True)
    # In the batch the rows stand in another order, behind one of padding.
    rows = [dataclasses.replace(row, place=len(rows) - row.place) for row in rows]
    width = max(len(output.response_ids) for output in outputs)
    marks = torch.zeros(len(outputs) + 1, width)
    for row in rows:
        marks[row.place] = 1000 * row.number + torch.arange(width)
    (trajectory,) = with_credit(rows, bonus=0.5, advantages=marks, returns=-marks, values=None)
    expected = [
        None if start == end else float(1000 * row + end - 1)
        for row, (start, end) in zip(trajectory.turn_rows, trajectory.turn_spans, strict=True)
    ]
    assert expected[1] is None
    assert trajectory.advantages == expected
    assert trajectory.returns == [None if value is None else -value for value in expected]
    assert trajectory.values is None
    assert trajectory.bonus == [0.5, 0.0, 0.0]


def test_credit_of_two_trajectories_of_a_group_is_not_mixed(setting):
    one = setting.play([LOOK, ANSWER]).trajectory
    rows = [
        TrajectoryRow(place=place, number=0, trajectory=dataclasses.replace(one, session=place)) for place in range(2)
    ]
    marks = torch.stack([torch.zeros(200), torch.ones(200)])
    first, second = with_credit(rows, bonus=None, advantages=marks, returns=marks, values=marks)
    assert (first.advantages, second.advantages) == ([0.0, 0.0], [1.0, 1.0])
    assert (first.values, first.bonus) == ([0.0, 0.0], [])


@pytest.mark.parametrize("script", [*SCRIPTS, [], [LOOK]], ids=str)
@pytest.mark.parametrize("room", [None, 40])
def test_episode_is_played_again_from_its_record_alone(setting, script, room):
    overrides = [] if room is None else [f"data.max_response_length={room}"]
    if not script or script == [LOOK]:
        script = [*script, "<think>"] * 3
    trajectory = setting.play(script, *overrides).trajectory
    record = json.loads(json.dumps(trajectory.episode))
    episode = replay(record, segments=trajectory.segments)
    assert differences(record, episode) == []
    assert set(record) - set(WORDS) == set(episode.record()) - set(WORDS)
    assert differences({**record, "format_ok": []}, episode) == ["format_ok"]


def run_rescore(folder, *arguments) -> tuple[int, list]:
    out = folder.parent / f"out{len(list(folder.parent.iterdir()))}"
    code = cli.main(["rescore", str(folder), "--out", str(out), *arguments])
    return code, [record for path in sorted(out.rglob("step_*.jsonl")) for record in read_file(path).records]


def test_scoring_anew_with_nothing_changed_gives_every_line_again(folder, capsys):
    code, records = run_rescore(folder)
    before = [record for path in sorted(folder.rglob("step_*.jsonl")) for record in read_file(path).records]
    assert code == 0
    assert records == before
    assert "score changed: 0 of 14" in capsys.readouterr().out


def test_scoring_anew_without_the_gate(folder, capsys):
    code, records = run_rescore(folder, "--set", "gate=none")
    assert code == 0
    by_id = {record["sample_id"]: record for record in records if (record["status"], record["step"]) == ("played", 3)}
    assert by_id["s1"]["turn_rewards"] == pytest.approx([0.6, 0.1])  # wrong, and paid for finding it
    assert by_id["s0"]["turn_rewards"] == pytest.approx([0.6, 1.1])
    # One reward of a batch changes the credit of all; the critic's values do not depend on it.
    assert all(record["advantages"] is record["returns"] is None for record in by_id.values())
    assert by_id["s0"]["values"] == [0.0, 1.0]
    out = capsys.readouterr().out
    assert "gate=none" in out
    assert "s1" in out
    assert (
        json.loads((folder.parent / sorted(p.name for p in folder.parent.glob("out*"))[0] / "run.json").read_text())[
            "reward"
        ]["gate"]
        == "none"
    )


def test_scoring_anew_with_a_preset(folder):
    _, records = run_rescore(folder, "--preset", "released_code")
    by_id = {record["sample_id"]: record for record in records if record["status"] == "played"}
    assert by_id["s0"]["turn_rewards"] == pytest.approx([0.6, 1.0])


def test_line_that_was_changed_by_hand_is_found(folder, capsys):
    path = step_file(folder, 3)
    records = read_file(path).records
    changed = next(record for record in records if record["sample_id"] == "s1")
    changed["episode"]["responses"][1] = ANSWER
    write_file(path, records)
    code, _ = run_rescore(folder)
    assert code == 1
    assert "'s1': answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "gate=open"], "open"),
        (["--set", "gates=none"], "gates"),
        (["--set", "gate"], "expected FIELD=VALUE"),
    ],
)
def test_reward_that_cannot_be_is_refused(folder, capsys, arguments, message):
    code, _ = run_rescore(folder, *arguments)
    assert code == 2
    assert message in capsys.readouterr().err


def test_lines_without_a_run_need_a_preset(folder):
    (folder / "run.json").unlink()
    with pytest.raises(TrajectoryFileError, match="give --preset paper"):
        asyncio.run(rescore(folder, folder.parent / "new"))
    summary = asyncio.run(rescore(folder, folder.parent / "new", preset="paper"))
    assert summary.num_changed == 0


def test_older_lines_and_full_folders_are_refused(folder, tmp_path):
    with pytest.raises(FileExistsError, match="expected a new folder"):
        asyncio.run(rescore(folder, folder))
    old = tmp_path / "old"
    write_file(step_file(old, 1), [{"sample_id": "s", "turn_rewards": [1.0], "episode": {}}])
    with pytest.raises(TrajectoryFileError, match=r"schema version 1.*'s'"):
        asyncio.run(rescore(old, tmp_path / "new", preset="paper"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("question", None), ("episode", []), ("segments", 7), ("correct", "yes"), ("components", {"acc": "x"}),
        ("turn_rewards", None), ("extra_info", 1.0), ("split", "not there"),
    ],
)  # fmt: skip
def test_line_that_is_no_whole_trajectory_is_one_error_with_its_place(folder, capsys, name, value):
    path = step_file(folder, 3)
    records = read_file(path).records
    broken = next(record for record in records if record["sample_id"] == "s1")
    if value == "not there":
        del broken[name]
    else:
        broken[name] = value
    write_file(path, records)
    code, _ = run_rescore(folder)
    (error,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert "no whole trajectory" in error
    assert "step_000003.jsonl, sample 's1'" in error


def test_reward_function_of_a_file_is_loaded_again(folder, tmp_path):
    (tmp_path / "mine.py").write_text(
        "async def judge(data_source, solution_str, ground_truth, extra_info, bonus=0.0):\n"
        "    assert extra_info['metadata'] == '{}'\n"
        "    return {'score': len(extra_info['episode']['responses']) + bonus}\n"
    )
    write_run(folder, {"reward": {"path": str(tmp_path / "mine.py"), "name": "judge", "bonus": 0.5}})
    _, records = run_rescore(folder)
    by_id = {record["sample_id"]: record for record in records if record["status"] == "played"}
    assert by_id["s3"]["turn_rewards"] == [0.0, 0.0, 3.5]
    assert by_id["s3"]["components"] == {}
