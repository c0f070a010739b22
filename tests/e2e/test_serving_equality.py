# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Greedy, a served model plays what it plays in verl's own validation; and a server that is killed costs nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from served import free_port, serve
from trainer_runs import ROOT, build_model, make_needles, train

from verl_videomtr.cli import main
from verl_videomtr.trajectory_files import read_file

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]

NUM_ROWS = 48
GREEDY = "actor_rollout_ref.rollout.val_kwargs.temperature=0"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_needles(tmp_path_factory.mktemp("equal") / "data", num_train=8, num_val=NUM_ROWS, seed=3)


@pytest.fixture(scope="module")
def model() -> Path:
    return build_model()


@pytest.fixture(scope="module")
def validated(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("verl")
    train(
        folder, "data.train_batch_size=8", "trainer.val_only=true", "trainer.val_before_train=true", GREEDY,
        data=data, model=model, probe="stock_probe",
    )  # fmt: skip
    (path,) = (folder / "trajectories" / "val").glob("step_*.jsonl")
    return read_file(path).played


def evaluate(data: Path, out: Path, url: str, *extra: str) -> int:
    command = ["eval", str(data / "val.parquet"), "--base-url", url, "--out", str(out), "--backoff", "2"]
    return main([*command, "+videomtr=paper", "+videomtr/model=tiny", f"videomtr.video.root={data}", GREEDY, *extra])


@pytest.fixture(scope="module")
def served(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    with serve(model, folder / "server.log") as (url, _):
        assert evaluate(data, folder / "out", url) == 0
    return folder / "out"


def test_served_model_plays_what_verl_validates(validated, served):
    others = {line["sample_id"]: line for line in read_file(served / "trajectories.jsonl").played}
    assert len(others) == len(validated) == NUM_ROWS
    assert sum(len(line["episode"]["responses"]) for line in validated) > NUM_ROWS
    for line in validated:
        other = others[line["sample_id"]]
        for name in ("episode", "turn_rewards", "turn_components", "components", "gate_open", "correct"):
            assert line[name] == other[name], (line["sample_id"], name)


def test_tables_of_both_are_the_same(validated, served, tmp_path):
    path = tmp_path / "validated.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in validated))
    assert main(["eval", str(path), "--out", str(tmp_path / "tables")]) == 0
    tables = [json.loads((folder / "report.json").read_text())["reports"] for folder in (served, tmp_path / "tables")]
    for name in ("micro", "groups", "failures"):
        assert tables[0][0][name] == tables[1][0][name]


def test_server_that_is_killed_and_comes_back_loses_nothing(data, model, tmp_path):
    port = free_port()
    out = tmp_path / "out"
    command = [sys.executable, "-m", "verl_videomtr.cli", "eval", str(data / "val.parquet"), "--out", str(out)]
    command += ["--base-url", f"http://127.0.0.1:{port}/v1", "--concurrency", "4", "--backoff", "5"]
    command += [
        "--max-attempts",
        "12",
        "+videomtr=paper",
        "+videomtr/model=tiny",
        f"videomtr.video.root={data}",
        GREEDY,
    ]
    journal = out / "journal.jsonl"
    with serve(model, tmp_path / "first.log", port=port) as (_, process):
        client = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (not journal.exists() or journal.read_bytes().count(b"\n") < 20):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert client.poll() is None
    with serve(model, tmp_path / "second.log", port=port):
        assert client.wait(300) == 0
    lines = read_file(out / "trajectories.jsonl")
    assert len(lines.played) == NUM_ROWS
    asked = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(asked) == len(set(asked)) == sum(len(line["episode"]["responses"]) for line in lines.played)
