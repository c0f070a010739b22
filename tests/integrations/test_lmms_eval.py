# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The adapter inside the real lmms-eval, installed beside, against a scripted server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from scripted_server import ScriptedServer, say

ROOT = Path(__file__).resolve().parents[2]
# Without their own dependencies: those that are missing here, and none of its older pins.
PACKAGES = (
    "lmms-eval==0.7.3", "sacrebleu", "portalocker", "tabulate", "colorama", "lxml", "evaluate", "pytz", "tenacity",
)  # fmt: skip
TASK = """
task: needles
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function needles.visual
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 16}}
process_results: !function needles.score
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
CODE = """
def visual(doc):
    return [doc["video"]]

def score(doc, results):
    return {"acc": float(results[0] == doc["answer"])}
"""


@pytest.mark.slow
def test_task_of_lmms_eval_is_played_and_scored_by_its_own_rule(tmp_path):
    beside = tmp_path / "beside"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(beside), *PACKAGES]
    if (done := subprocess.run(install, capture_output=True, text=True)).returncode:
        pytest.skip(f"lmms-eval cannot be installed: {done.stderr[-300:]}")
    info = beside / "adapter-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: adapter\nVersion: 0\n")
    (entry,) = (entry for entry in entry_points(group="lmms_eval.models") if "verl_videomtr" in entry.value)
    (info / "entry_points.txt").write_text(f"[lmms_eval.models]\n{entry.name} = {entry.value}\n")
    make = ["-m", "data_prep.synthetic", "--out", str(tmp_path / "data"), "--num-train", "4", "--num-val", "4"]
    subprocess.run([sys.executable, *make, "--num-test", "4", "--pool-size", "64"], cwd=ROOT, check=True)
    videos = sorted((tmp_path / "data").rglob("*.mp4"))
    rows = [
        {"video": str(videos[0]), "question": f"Question {number}?\nA. x\nB. y", "answer": "AB"[number % 2]}
        for number in range(4)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "needles.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    (tmp_path / "tasks" / "needles.py").write_text(CODE)

    def script(request):
        if "Where is it?" in request.text:
            return say("x", usage={"prompt_tokens": len(request.text)})  # the question before the run
        if "Question 3?" in request.text:
            return say("nothing of use")
        return say("<think>0 nothing</think><answer>A</answer>")

    with ScriptedServer(script) as server:
        overrides = "+videomtr=paper +videomtr/model=tiny"
        arguments = f"base_url={server.url},out={tmp_path / 'out'},overrides={overrides},concurrency=2"
        run = subprocess.run(
            [sys.executable, "-m", "lmms_eval", "--model", "video_mtr", "--model_args", arguments, "--tasks", "needles"]
            + ["--include_path", str(tmp_path / "tasks"), "--batch_size", "1", "--output_path", str(tmp_path / "log")],
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{beside}",
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_OFFLINE": "1",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=400,
        )
        # It exits with 0 after errors too.
        assert any((tmp_path / "log").rglob("*results.json")), run.stdout[-2000:] + run.stderr[-4000:]
        results = json.loads(next((tmp_path / "log").rglob("*results.json")).read_text())
        # Rows 0 and 2 are right; row 1 is answered A; row 3 has no answer in any of its turns.
        assert results["results"]["needles"]["acc,none"] == 0.5
        played = [request for request in server.requests if "Where is it?" not in request.text]
        assert len(played) == 3 + 3
        assert all(request.body["max_completion_tokens"] > 0 for request in played)
    assert len((tmp_path / "out" / "journal.jsonl").read_text().splitlines()) == 6
