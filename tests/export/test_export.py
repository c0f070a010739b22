# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Exporting checkpoints that were made here in verl's form: shards of one and two ranks, a critic, adapters, damage."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForImageTextToText

from recipes.learning_study.tiny_model import make_model, make_processor
from verl_videomtr.export.adapters import merge
from verl_videomtr.export.checkpoints import ExportError, find_checkpoint, join, read_model
from verl_videomtr.export.command import export
from verl_videomtr.export.writing import check_model
from verl_videomtr.verl_plugin.value_heads import load_value_model

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def model(processor):
    return make_model(processor.tokenizer, seed=3)


@pytest.fixture(scope="module")
def mesh():
    """A mesh of two ranks that exist on paper: tensors are cut and described as FSDP does, nothing is sent."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield DeviceMesh("cpu", [0, 1])
    torch.distributed.destroy_process_group()


def cut(tensor: torch.Tensor, mesh: DeviceMesh) -> list[torch.Tensor]:
    """One part for each rank, unequal where the first dimension is odd."""
    meta = TensorMeta(tensor.shape, tensor.stride(), tensor.dtype)
    spec = DTensorSpec(mesh, (Shard(0),), tensor_meta=meta)
    return [DTensor(part.clone(), spec, requires_grad=False) for part in tensor.detach().tensor_split(2)]


def write_checkpoint(run: Path, model, processor, shards: list[dict], *, role="actor", step=7) -> Path:
    """Write shards and what lies beside them as verl's FSDP engine does."""
    folder = run / "checkpoints" / f"global_step_{step}" / role
    (folder / "huggingface").mkdir(parents=True)
    for rank, shard in enumerate(shards):
        torch.save(shard, folder / f"model_world_size_{len(shards)}_rank_{rank}.pt")
    (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": len(shards)}))
    model.config.save_pretrained(folder / "huggingface")
    if model.can_generate():
        model.generation_config.save_pretrained(folder / "huggingface")
    processor.save_pretrained(folder / "huggingface")
    (run / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(step))
    return folder


def test_one_shard_is_exported_in_the_dtype_that_was_trained(tmp_path, model, processor):
    write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()])
    record = export(tmp_path / "run", tmp_path / "out")
    assert (record["step"], record["dtype"], record["role"]) == (7, "float32", "actor")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == model.generation_config.eos_token_id
    assert json.loads((tmp_path / "out" / "export.json").read_text())["parameters"] == sum(
        weight.numel() for weight in model.state_dict().values()
    )


def test_two_shards_make_the_same_model_as_one(tmp_path, model, processor, mesh):
    state = model.state_dict()
    parts = {name: cut(tensor, mesh) for name, tensor in state.items()}
    write_checkpoint(
        tmp_path / "run", model, processor, [{name: part[rank] for name, part in parts.items()} for rank in (0, 1)]
    )
    export(tmp_path / "run" / "checkpoints" / "global_step_7" / "actor", tmp_path / "out")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_bfloat16_is_the_rounded_model_and_is_compared_as_such(tmp_path, model, processor):
    write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()])
    assert export(tmp_path / "run", tmp_path / "out", dtype="bfloat16")["dtype"] == "bfloat16"
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    assert all(torch.equal(loaded[name], tensor.bfloat16()) for name, tensor in model.state_dict().items())


def test_critic_comes_with_its_value_head(tmp_path, model, processor):
    model.save_pretrained(tmp_path / "base")
    config = model.config.from_pretrained(tmp_path / "base")
    config.num_labels, config.classifier_dropout = 1, 0.0
    critic = load_value_model(str(tmp_path / "base"), torch.float32, config, False)
    write_checkpoint(tmp_path / "run", critic, processor, [critic.state_dict()], role="critic")
    export(tmp_path / "run", tmp_path / "out", role="critic")
    again = load_value_model(str(tmp_path / "out"), torch.float32, config, False)
    assert torch.equal(again.score.weight, critic.score.weight)
    assert critic.score.weight.any()


def with_adapters(model, *, rank=2):
    """peft's names and random adapters on two layers; also the model that they make of it."""
    torch.manual_seed(5)
    state, merged = {}, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = [name for name in merged if name.endswith("q_proj.weight") and ".layers." in name][:2]
    for name, tensor in model.state_dict().items():
        if name not in adapted:
            state[f"base_model.model.{name}".replace("q_proj.bias", "q_proj.base_layer.bias")] = tensor
            continue
        layer = name.removesuffix(".weight")
        a, b = torch.randn(rank, tensor.shape[1]), torch.randn(tensor.shape[0], rank)
        state[f"base_model.model.{layer}.base_layer.weight"] = tensor
        state[f"base_model.model.{layer}.lora_A.default.weight"] = a
        state[f"base_model.model.{layer}.lora_B.default.weight"] = b
        merged[name] = tensor + 3.0 * b @ a  # alpha 6 over rank 2
    return state, merged


def test_adapters_are_merged_with_their_scale(tmp_path, model, processor):
    state, merged = with_adapters(model)
    folder = write_checkpoint(tmp_path / "run", model, processor, [state])
    (folder / "lora_train_meta.json").write_text(json.dumps({"r": 2, "lora_alpha": 6, "task_type": "CAUSAL_LM"}))
    assert export(tmp_path / "run", tmp_path / "out")["lora"] == {"rank": 2, "alpha": 6.0, "layers": 2}
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    for name, tensor in merged.items():
        torch.testing.assert_close(loaded[name], tensor, atol=1e-6, rtol=1e-6)
    assert any(not torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_adapters_alone_need_the_model_that_they_adapt(tmp_path, model, processor):
    state, merged = with_adapters(model)
    state = {name: tensor for name, tensor in state.items() if "lora_" in name}
    folder = write_checkpoint(tmp_path / "run", model, processor, [state])
    (folder / "lora_train_meta.json").write_text(json.dumps({"r": 2, "lora_alpha": 6}))
    with pytest.raises(ExportError, match="expected --base"):
        export(tmp_path / "run", tmp_path / "out")
    model.save_pretrained(tmp_path / "base")
    export(tmp_path / "run", tmp_path / "out", base=tmp_path / "base")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    for name, tensor in merged.items():
        torch.testing.assert_close(loaded[name], tensor, atol=1e-6, rtol=1e-6)


def test_adapters_without_their_alpha_are_refused(tmp_path, model):
    state, _ = with_adapters(model)
    with pytest.raises(ExportError, match="without alpha"):
        merge(state, tmp_path)


def test_shard_of_a_missing_rank_is_named(tmp_path, model, processor):
    folder = write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()] * 2)
    (folder / "model_world_size_2_rank_1.pt").unlink()
    with pytest.raises(ExportError, match=r"1 of 2 shards .*rank_1\.pt.*copy the checkpoint folders of all nodes"):
        read_model(folder)


def test_shard_that_was_cut_short_is_an_error_with_its_name(tmp_path, model, processor):
    folder = write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()])
    path = folder / "model_world_size_1_rank_0.pt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ExportError, match=r"not a readable shard.*rank_0"):
        read_model(folder)


def test_shard_that_would_run_code_is_not_loaded(tmp_path, model, processor):
    folder = write_checkpoint(tmp_path / "run", model, processor, [{"weight": Path("/")}])
    with pytest.raises(ExportError, match="not a readable shard"):
        read_model(folder)


def test_ranks_that_disagree_on_a_whole_tensor_are_refused():
    with pytest.raises(ExportError, match=r"inv_freq is not sharded, but ranks hold different"):
        join([torch.zeros(2), torch.ones(2)], name="inv_freq")


def test_shards_of_another_size_are_refused(mesh):
    parts = cut(torch.arange(10.0).reshape(5, 2), mesh)
    assert torch.equal(join(parts, name="w"), torch.arange(10.0).reshape(5, 2))
    with pytest.raises(ExportError, match=r"make up \(6, 2\); expected \(5, 2\)"):
        join([parts[0], parts[0]], name="w")
    with pytest.raises(ExportError, match=r"w have shapes \[\(3, 2\), \(2, 5\)\]; expected parts of \(5, 2\)"):
        join([parts[0], cut(torch.zeros(5, 5), mesh)[1]], name="w")
    whole = DTensor.from_local(torch.ones(3), mesh, [Replicate()], run_check=False)
    assert torch.equal(join([whole, whole], name="w"), torch.ones(3))


def test_tensor_that_the_model_has_no_place_for_fails_the_export(tmp_path, model, processor):
    write_checkpoint(tmp_path / "run", model, processor, [{**model.state_dict(), "extra.weight": torch.ones(2)}])
    with pytest.raises(ExportError, match=r"no place in .*extra\.weight"):
        export(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_tensor_that_was_not_saved_fails_the_export(tmp_path, model, processor):
    state = {name: tensor for name, tensor in model.state_dict().items() if "norm" not in name}
    write_checkpoint(tmp_path / "run", model, processor, [state])
    with pytest.raises(ExportError, match="missing_keys"):
        export(tmp_path / "run", tmp_path / "out")


def test_folder_in_use_is_left_alone(tmp_path, model, processor):
    write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(ExportError, match="not empty"):
        export(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize("taken", ["file", "folder", "below a file"])
def test_folder_that_cannot_be_made_is_told_before_a_shard_is_read(tmp_path, model, processor, monkeypatch, taken):
    """Reading takes minutes with a model of some size."""
    write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()])
    out = tmp_path / "out"
    if taken == "folder":
        (out / "model").mkdir(parents=True)
    else:
        out.write_text("precious")
    monkeypatch.setattr("verl_videomtr.export.checkpoints.read_model", lambda folder: pytest.fail("it was read"))
    with pytest.raises(ExportError, match=r"not empty|cannot be made"):
        export(tmp_path / "run", out / "model" if taken == "below a file" else out)


def test_weights_that_are_no_numbers_are_not_exported(tmp_path, model, processor):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["lm_head.weight"][0, 0] = float("nan")
    write_checkpoint(tmp_path / "run", model, processor, [state])
    with pytest.raises(ExportError, match=r"1 of \d+ tensors hold NaN .*lm_head.*the training has diverged"):
        export(tmp_path / "run", tmp_path / "out")
    state["lm_head.weight"][0, 0] = 7e4
    torch.save(state, tmp_path / "run/checkpoints/global_step_7/actor/model_world_size_1_rank_0.pt")
    with pytest.raises(ExportError, match=r"dtype='float16'.*not float16"):
        export(tmp_path / "run", tmp_path / "out", dtype="float16")
    assert export(tmp_path / "run", tmp_path / "out")["dtype"] == "float32"


@pytest.mark.parametrize("state", [{}, {"a": torch.ones(2, dtype=torch.int)}])
def test_shard_without_a_weight_is_named(tmp_path, model, processor, state):
    write_checkpoint(tmp_path / "run", model, processor, [state])
    with pytest.raises(ExportError, match=r"no weight; expected a model; .*rank_0\.pt"):
        export(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize("config", ["{", '{"model_type": "of the future"}'])
def test_description_that_cannot_be_read_is_named_where_it_lies(tmp_path, model, processor, config):
    folder = write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()])
    (folder / "huggingface" / "config.json").write_text(config)
    with pytest.raises(ExportError, match=r"cannot be read .*actor/huggingface/config\.json; take an earlier"):
        export(tmp_path / "run", tmp_path / "out")


def test_tokenizer_that_was_not_saved_fails_the_export(tmp_path, model, processor):
    folder = write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "huggingface" / name).unlink()
    with pytest.raises(ExportError, match=r"has no tokenizer; expected one of .*tokenizer\.json"):
        export(tmp_path / "run", tmp_path / "out")


def test_base_that_is_not_there_is_not_looked_for_elsewhere(tmp_path, model, processor):
    write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()])
    with pytest.raises(ExportError, match=r"no config\.json in the folder of --base.*models/gone"):
        export(tmp_path / "run", tmp_path / "out", base=Path("models/gone"))


def test_full_disk_is_one_error_and_leaves_nothing(tmp_path, model, processor):
    write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The tokenizer has room, the weights have not.
    largest = max(path.stat().st_size for path in (tmp_path / "run").rglob("huggingface/*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 10_000, hard))
    try:
        with pytest.raises(ExportError, match=r"weights cannot be written .*GB of room"):
            export(tmp_path / "run", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_run_without_a_critic_says_so(tmp_path, model, processor):
    write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()])
    assert find_checkpoint(tmp_path / "run").step == 7
    assert find_checkpoint(tmp_path / "run" / "checkpoints" / "global_step_7").role == "actor"
    with pytest.raises(ExportError, match="no critic in the checkpoint"):
        find_checkpoint(tmp_path / "run", role="critic")
    with pytest.raises(ExportError, match="no checkpoint found"):
        find_checkpoint(tmp_path)


def test_comparison_sees_one_changed_value(tmp_path, model, processor):
    write_checkpoint(tmp_path / "run", model, processor, [model.state_dict()])
    export(tmp_path / "run", tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name][3, 4] += 1e-6
    save_file(weights, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"1 of \d+ tensors load with other values than were trained"):
        check_model(model.state_dict(), tmp_path / "out")
