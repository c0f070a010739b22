# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of a whole configuration, of its installation and its machine; the report."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from doctor_setting import ACTOR, ROLLOUT, bad, only

from verl_videomtr.planner import make_plan
from verl_videomtr.sample import read_rows, write_rows
from verl_videomtr.verl_plugin.doctor import agreement, batches, installation, lengths, machine
from verl_videomtr.verl_plugin.doctor.findings import Level, as_json, exit_code, ok, summary
from verl_videomtr.verl_plugin.drift import PLUG_POINTS

pytest_plugins = ["doctor_setting"]


# The healthy case.


def test_a_configuration_that_runs_has_no_complaint(healthy, monkeypatch):
    checks = [installation.check_versions, agreement.check_agreement, batches.check_batches]
    checks += [lengths.check_lengths, machine.check_machine]
    findings = [finding for check in checks for finding in check(healthy)]
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    findings += installation.check_platform(healthy)
    assert not bad(findings)
    assert {"install.versions", "config.trainer", "batches", "lengths", "machine.attention"} <= {
        finding.check for finding in findings
    }


# What the parts of the configuration say to each other. Here the doctor calls the code that would fail.


@pytest.mark.parametrize(
    ("overrides", "check", "says"),
    [
        (["critic.enable=false"], "config.plugin", "critic.enable=False"),
        (["videomtr.video.root=/no/such/folder"], "config.plugin", "is no directory"),
        (["trainer.v1.trainer_mode=sync"], "config.launch", "hands the critic's"),
        ([f"{ACTOR}.use_dynamic_bsz=false"], "config.verl", "ppo_micro_batch_size"),
        ([f"{ROLLOUT}.expert_parallel_size=3"], "config.workers", "expert_parallel_size must be equal"),
        (["trainer.v1.trainer_mode=video_mtr_snyc"], "config.trainer", "video_mtr_snyc"),
        (["trainer.v1.trainer_mode=video_mtr_separate_async"], "config.trainer", "parameter_sync_step"),
    ],
)
def test_parts_that_disagree(composed, overrides, check, says):
    finding = only(agreement.check_agreement(composed.case(*overrides)), check)
    assert says in finding.what


def test_rows_without_ground_truth_and_rewards_that_need_it(composed, videos, tmp_path):
    bare = [dataclasses.replace(sample, segments=None) for sample in read_rows(videos / "train.parquet")]
    write_rows(tmp_path / "bare.parquet", bare)
    overrides = [f"data.train_files={tmp_path / 'bare.parquet'}"]
    finding = only(agreement.check_agreement(composed.case(*overrides)), "config.launch")
    assert "no row has ground-truth segments" in finding.what
    fixed = composed.case(*overrides, "+reward.custom_reward_function.reward_kwargs.turn_level=false")
    assert not bad(agreement.check_agreement(fixed))


def test_models_of_the_hub_do_not_disturb_the_other_checks(composed):
    overrides = ["actor_rollout_ref.model.path=nobody/has-this-model", "critic.model.path=nobody/has-this-model"]
    assert not bad(agreement.check_agreement(composed.case(*overrides)))


# Installation.


def test_versions_outside_the_range(healthy, composed, tmp_path, monkeypatch):
    info = tmp_path / "tensordict-0.7.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tensordict\nVersion: 0.7.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = only(installation.check_versions(healthy), "install.versions", Level.WARNING)
    assert "tensordict 0.7.0" in finding.what


def test_another_verl_is_an_error(healthy, tmp_path, monkeypatch):
    info = tmp_path / "verl-0.10.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: verl\nVersion: 0.10.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "verl 0.10.0" in only(installation.check_versions(healthy), "install.versions").what


def test_a_verl_whose_inside_differs(healthy):
    point = dataclasses.replace(PLUG_POINTS[0], name="no_such_function")
    finding = only(
        installation.check_plug_points(healthy, [point, *PLUG_POINTS[1:]]), "install.plug_points", Level.WARNING
    )
    assert f"{point.file}:no_such_function is not there" in finding.what
    assert "'verl<0.10,>=0.9.1'" in finding.fix
    assert not bad(installation.check_plug_points(healthy))


def test_the_cpu_build_of_vllm_does_not_serve_gpus(composed):
    if installation._installed("vllm", stand_ins=False):
        pytest.skip("vLLM's own build is installed here")
    case = composed.case("trainer.device=cuda")
    assert "vllm is not installed" in only(installation.check_versions(case), "install.versions").what


def test_a_device_that_the_environment_does_not_name(composed, monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    finding = only(installation.check_platform(composed.case()), "install.platform")
    assert finding.fix.startswith("export VERL_PLATFORM=cpu")
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert not bad(installation.check_platform(composed.case()))
    only(installation.check_platform(composed.case("trainer.device=cuda")), "install.platform")


# The machine.


def test_flash_attention_that_is_not_installed(measured, checkpoint):
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("flash-attn is installed here")
    from transformers import AutoModelForImageTextToText
    from verl.models.transformers import qwen2_vl

    for key in ("override_config.attn_implementation=flash_attention_2", "use_remove_padding=true"):
        case = measured(f"actor_rollout_ref.model.{key}")
        finding = only(machine._attention(case), "machine.attention")
        assert key.partition("=")[0] in finding.what
    with pytest.raises(ImportError, match="FlashAttention2 has been toggled on"):
        AutoModelForImageTextToText.from_pretrained(checkpoint, attn_implementation="flash_attention_2")
    heads = torch.zeros(1, 4, 2, 32)
    with pytest.raises(NameError, match="_flash"):
        qwen2_vl._custom_flash_attention_forward(heads, heads, heads, None, query_length=4)
    AutoModelForImageTextToText.from_pretrained(checkpoint, attn_implementation="sdpa")


def test_which_families_verl_packs_by_flash_attention_is_read_in_verls_source():
    from verl.models.transformers import glm4v, qwen2_vl, qwen3_vl

    found = machine._families_packed_by_flash()
    for module, families in ((qwen2_vl, {"qwen2_vl", "qwen2_5_vl"}), (glm4v, {"glm4v"})):
        assert hasattr(module, "_custom_flash_attention_forward")
        assert families <= found
    assert not hasattr(qwen3_vl, "_custom_flash_attention_forward")
    assert not {"qwen3_vl", "qwen3_vl_moe", "qwen3_5"} & found


def test_fewer_gpus_than_asked_for(measured, monkeypatch):
    import ray._private.state
    from verl.single_controller.ray.base import ResourcePoolManager

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    have = torch.cuda.device_count()
    case = measured("trainer.device=cuda", f"trainer.n_gpus_per_node={have + 1}")
    only(machine._gpus(case), "machine.gpus")
    monkeypatch.setattr(ray._private.state, "available_resources_per_node", lambda: {"node": {"GPU": have}})
    for asked, enough in ((have + 1, False), (have, True)):
        pools = SimpleNamespace(resource_pool_spec={"pool": [asked]})
        if enough:
            ResourcePoolManager._check_resource_available(pools)
        else:
            with pytest.raises(ValueError, match="is less than total desired GPUs"):
                ResourcePoolManager._check_resource_available(pools)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert [finding.level for finding in machine._gpus(case)] == [Level.NOTE]


def test_resources_named_to_a_cluster_that_is_up(measured, monkeypatch):
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    finding = only(machine._cluster(measured()), "machine.cluster")  # +videomtr/device=cpu names some
    assert finding.fix == "ray_kwargs.ray_init.num_cpus=null ray_kwargs.ray_init.num_gpus=null"
    with pytest.raises(ValueError, match="num_cpus and num_gpus must not be provided"):
        ray.init(num_cpus=16)
    assert not list(machine._cluster(measured(*finding.overrides)))
    # Its own cluster, whatever is up: Ray reads the variable only where the configuration says nothing.
    assert not list(machine._cluster(measured("+ray_kwargs.ray_init.address=local")))
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert not list(machine._cluster(measured()))


def test_the_cluster_that_ray_start_left_word_of(measured, monkeypatch, tmp_path):
    import ray
    from ray._private.utils import write_ray_address

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    case = measured(f"+ray_kwargs.ray_init._temp_dir={tmp_path}")
    assert not list(machine._cluster(case))
    write_ray_address("127.0.0.1:1", str(tmp_path))
    assert "the Ray cluster at 127.0.0.1:1" in only(machine._cluster(case), "machine.cluster").what
    with pytest.raises(ValueError, match="num_cpus and num_gpus must not be provided"):
        ray.init(num_cpus=16, _temp_dir=str(tmp_path))
    assert not list(machine._temporary_files(case))


def test_weights_larger_than_their_bucket(measured):
    # By its file: the package around it insists on a vLLM for GPUs.
    package = Path(importlib.util.find_spec("verl.workers.rollout").origin).parent
    spec = importlib.util.spec_from_file_location("bucket", package / "vllm_rollout/bucketed_weight_transfer.py")
    transfer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(transfer)
    fault = [f"{machine.BUCKET}=0"]
    finding = only(machine._bucket(measured(*fault)), "machine.bucket")
    fixed = measured(*fault, *finding.overrides)
    assert not list(machine._bucket(fixed))
    config = measured().model.hf_config.text_config
    weight = torch.zeros(config.vocab_size, config.hidden_size)
    for megabytes, fits in ((0, False), (fixed.get(machine.BUCKET), True)):
        sender = transfer.BucketedWeightSender("ipc:///nowhere", bucket_size_mb=megabytes, use_shm=True)
        sender._init_socket = lambda: None
        sender._init_buffer = lambda size=megabytes, of=sender: setattr(
            of, "buffer", torch.zeros(size << 20, dtype=torch.uint8)
        )
        sender._cleanup = lambda: None
        # Past the assertion it misses its socket, or a device.
        with pytest.raises((AttributeError, RuntimeError) if fits else AssertionError) as stopped:
            asyncio.run(sender.async_send_weights(iter([("embedding", weight)])))
        assert ("too large to fit" in str(stopped.value)) is not fits


def test_a_temporary_folder_too_deep_for_sockets(measured, monkeypatch):
    from ray._private.utils import validate_socket_filepath

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for folder, fits in (("/tmp/" + "deep/" * 10, False), ("/tmp", True)):
        monkeypatch.setenv("RAY_TMPDIR", folder)
        found = [finding for finding in bad(machine._temporary_files(measured())) if finding.level is Level.ERROR]
        assert bool(found) is not fits
        path = f"{folder}/{machine.SOCKET}"
        if fits:
            validate_socket_filepath(path)
        else:
            assert path in found[0].what
            with pytest.raises(OSError, match="AF_UNIX path length cannot exceed"):
                validate_socket_filepath(path)


def test_states_that_no_gpu_holds(measured):
    # The paper's 7B model, actor and critic, in float32 on two GPUs: weights, gradients and two moments of the one that
    # is trained, weights and moments of the other.
    setting = ["actor_rollout_ref.model.path=Qwen/Qwen2.5-VL-7B-Instruct", "trainer.n_gpus_per_node=2",
               "actor_rollout_ref.model.use_fused_kernels=true"]  # fmt: skip
    case = measured(*setting)
    run = case.planned
    states = (16 * run.actor.num_params + 12 * run.critic.num_params) / 2 / 2**30
    assert not bad(machine._memory(case, states + 3))
    (found,) = bad(machine._memory(case, states - 1))
    assert (found.check, f"about {states:.0f} GiB of each" in found.what) == ("machine.memory", True)
    offloaded = measured(*setting, *found.overrides)
    assert not bad(machine._memory(offloaded, states - 1))


def test_logits_that_no_gpu_holds(measured):
    fault = ["actor_rollout_ref.model.path=Qwen/Qwen2.5-VL-7B-Instruct", "trainer.n_gpus_per_node=8",
             "data.train_batch_size=512", "actor_rollout_ref.actor.entropy_coeff=0.001"]  # fmt: skip
    case = measured(*fault)
    parts = make_plan(case.planned).actor_update
    states = sum(parts[name] for name in machine.STATES) / 2**30
    logits = parts["logits"] / 2**30
    assert logits > 20
    assert not bad(machine._memory(case, states + logits + 1))
    (found,) = bad(machine._memory(case, states + logits - 1))
    assert (found.check, f"{states:.0f} + {logits:.0f} GiB of each" in found.what) == ("machine.memory", True)
    fused = measured(*fault, *found.overrides)
    assert not bad(machine._memory(fused, states + logits - 1))
    parts = make_plan(fused.planned).actor_update
    (found,) = bad(machine._memory(fused, (sum(parts[name] for name in machine.STATES) + parts["logits"] / 2) / 2**30))
    assert found.overrides == ()
    assert "ppo_max_token_len_per_gpu" in found.advice


# The report.


def test_a_finding_is_one_line(composed):
    for overrides in (["critic.enable=false"], ["trainer.v1.trainer_mode=nothing"]):
        for finding in agreement.check_agreement(composed.case(*overrides)):
            assert "\n" not in finding.line()


def test_the_report_for_programs(healthy):
    findings = [ok("batches", "8 of 8"), *installation.check_versions(healthy)]
    report = json.loads(as_json(findings, seconds=1.25))
    assert (report["ok"], report["errors"], exit_code(findings)) == (True, 0, 0)
    assert report["findings"][0] == {
        "level": "ok",
        "check": "batches",
        "what": "8 of 8",
        "why": "",
        "fix": "",
        "overrides": [],
    }
    assert "nothing found" in summary(findings, seconds=1)
