# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The first-light kit: what needs no GPU, and a rehearsal of the whole."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch

from benchmarks.first_light import __main__ as kit
from benchmarks.first_light import models, planned, scripted_model, trainer, wheels
from benchmarks.first_light.credit import one_level_loop
from benchmarks.first_light.record import Record, read, write_table
from benchmarks.first_light.shapes import model_shape
from benchmarks.gae import make_batch
from recipes.learning_study import tiny_model


def test_the_loop_is_verls():
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    batch = make_batch(3, 60, "dense", "cpu")
    batch["response_mask"][:, 7] = 0
    expected = core_algos.compute_gae_advantage_return(
        batch["token_level_rewards"], batch["values"], batch["response_mask"], 1.0, 1.0
    )
    for ours, theirs in zip(one_level_loop(batch, whiten=True), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_cut_results_file_still_says_what_came_before(tmp_path):
    Record(tmp_path, "a").write("one|two", seconds=1.23456)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"stage": "b", "che')
    assert [line["seconds"] for line in read(tmp_path)] == [1.23456]
    write_table(tmp_path)
    assert "seconds 1.235" in (tmp_path / "results.md").read_text()


def test_a_stage_out_of_time_is_ended_and_written(tmp_path):
    assert kit.run_stage("a", tmp_path, rehearse=True, limit_seconds=0.01) == "out of time"
    assert read(tmp_path)[-1]["check"] == "out of time"


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"no GPU.*--rehearse"):
        kit.main(["--out", str(tmp_path / "out")])


def test_the_lock_less_what_the_machine_has():
    lock = (
        "Torch==2.11.0 \\\n    --hash=sha256:" + "a" * 64 + "\nray[default]==2.60.0 \\\n    --hash=sha256:" + "b" * 64
    )
    lock += "\nnvidia-nccl-cu13==2.28.9\ntransformers==5.9.0\n"
    left = wheels.missing(lock, "torch==2.11.0+cu130\ntransformers==5.17.0\n", ["nvidia-*"])
    assert left == {"ray": ("2.60.0", ["b" * 64]), "transformers": ("5.9.0", [])}


def test_wheels_are_cut_into_pieces_and_joined_again(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    content = {"big.whl": bytes(range(256)) * 10, "small.whl": b"x" * 300, "middle.whl": b"y" * 900}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    wheels.cut(folder, tmp_path / "pieces", limit=1000)
    pieces = sorted((tmp_path / "pieces").iterdir())
    assert [sum(file.stat().st_size for file in piece.iterdir()) for piece in pieces] == [1000, 1000, 1000, 760]
    known = {hashlib.sha256(data).hexdigest() for data in content.values()}
    wheels.join(tmp_path / "pieces", tmp_path / "joined", known)
    assert {path.name: path.read_bytes() for path in (tmp_path / "joined").iterdir()} == content
    next(pieces[1].iterdir()).write_bytes(b"spoilt")
    with pytest.raises(SystemExit, match=r"expected one of the lock's"):
        wheels.join(tmp_path / "pieces", tmp_path / "again", known)


@pytest.mark.parametrize(("name", "layers"), [("tiny", None), (models.MODEL, None), (models.LARGE, 4)])
@pytest.mark.parametrize("role", ["actor", "critic"])
def test_the_models_have_the_sizes_that_are_planned(name, layers, role):
    model = models.build(models.Update(name, role, 32, "padded", "sdpa", layers), "meta")
    shape = model_shape(name, layers)
    expected = shape.num_params if role == "actor" else shape.num_value_params
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_flex_attention_is_the_language_models_alone():
    model = models.build(models.Update("tiny", "actor", 4, "packed", "flex_attention"), "meta")
    assert model.model.language_model.config._attn_implementation == "flex_attention"
    assert model.model.visual.config._attn_implementation == models.NAME


def test_packed_is_what_padded_is_without_padding():
    torch.manual_seed(0)
    padded, packed = (models.Update("tiny", "actor", 4, layout, "sdpa") for layout in ("padded", "packed"))
    model = models.build(padded, "cpu").float()
    results = []
    for case in (padded, packed):
        inputs, labels = models.make_inputs(case, "cpu")
        inputs["pixel_values"] = inputs["pixel_values"].float()
        results.append(model(**inputs, use_cache=False).logits[labels >= 0])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_ratios_are_of_the_measured_to_the_foretold(tmp_path):
    shapes = {"model": models.MODEL, "layers": None, "budget": 32, "role": "actor", "device": "NVIDIA H100 80GB HBM3"}
    Record(tmp_path, "b").write("case", **shapes, padded_tokens=0, update_seconds=2.0, peak_gib=60.0)
    planned.run(Record(tmp_path, "d"), rehearse=False)
    line = read(tmp_path)[-1]
    assert line["data_sheet"] == "H100 80 GB"
    assert line["measured_over_foretold_seconds"] == pytest.approx(2.0 / line["foretold_seconds"])
    assert line["measured_over_foretold_memory"] == pytest.approx(60.0 / line["foretold_gib"])
    states = 4 * 2 * model_shape(models.MODEL).num_params / 2**30
    assert states < line["foretold_gib"] < 2 * states


@pytest.mark.slow
@torch.no_grad()
def test_flex_attention_packs_as_sdpa_does():
    case = models.Update("tiny", "actor", 4, "packed", "sdpa")
    model = models.build(case, "cpu").float().eval()
    inputs, _ = models.make_inputs(case, "cpu")
    inputs["pixel_values"] = inputs["pixel_values"].float()
    expected = model(**inputs, use_cache=False).logits
    model.model.language_model.config._attn_implementation = "flex_attention"
    torch.testing.assert_close(model(**inputs, use_cache=False).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_rehearsal_of_every_stage(tmp_path):
    command = [sys.executable, "-m", "benchmarks.first_light", "--rehearse", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "out/results.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if line["check"] == "done"] == list(kit.STAGES)
    assert all(sum(line["stage"] == name for line in lines) > 1 for name in kit.STAGES)


def test_a_demo_that_ends_before_it_trains_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainer, "NEEDED", ())
    monkeypatch.setattr(trainer, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(RuntimeError, match="ended with exit status 3 before it trained"):
        trainer.run(Record(tmp_path, "e"), rehearse=False)


SCRIPT = {
    (20, 21): {22: scripted_model.RETRIEVE},
    (21, 22): {23: scripted_model.RETRIEVE, 24: scripted_model.ANSWER},
    (22, 23): {20: scripted_model.RETRIEVE},
    (22, 24): {20: scripted_model.ANSWER},
}


@pytest.fixture(scope="module")
def scripted():
    torch.manual_seed(0)
    config = tiny_model.make_config(tiny_model.make_tokenizer(), num_layers=2, hidden_size=128)
    config.tie_word_embeddings = True
    return *scripted_model.make_model(config, SCRIPT), config


def test_a_scripted_model_writes_its_script_in_any_context(scripted):
    model, hidden, _ = scripted
    scripted_model.check(hidden, model.get_input_embeddings().weight.detach(), SCRIPT)
    context = torch.arange(100, 160).tolist()
    with torch.no_grad():
        odds = (model(input_ids=torch.tensor([[*context, 20, 21]])).logits[0, -1] / 0.7).softmax(-1)
    assert odds[22] > 0.99


def test_a_scripted_model_that_says_something_else_is_found(scripted):
    model, hidden, _ = scripted
    with pytest.raises(RuntimeError, match="expected"):
        scripted_model.check(hidden.flip(0), model.get_input_embeddings().weight.detach(), SCRIPT)


def test_a_script_longer_than_the_models_table_is_refused(scripted):
    *_, config = scripted
    long = {(i, i + 1): {i + 2: scripted_model.ANSWER} for i in range(config.text_config.intermediate_size + 1)}
    with pytest.raises(ValueError, match="257 pairs of tokens; expected at most 256"):
        scripted_model.make_model(config, long)


@pytest.mark.parametrize(("role", "budget", "measured_gib"), [("actor", 32, 70.0), ("critic", 32, 70.05)])
def test_the_plan_of_a_float32_update_is_what_an_h200_measured(role, budget, measured_gib):
    plan = planned.foretell(
        models.MODEL, None, budget, role=role, gpu=planned.GPUS["h200"], bytes_per_param=4, padded=True
    )
    memory = sum(size for part, size in plan.actor_update.items() if part not in planned.NOT_THERE)
    assert memory / 2**30 == pytest.approx(measured_gib, rel=0.02)
