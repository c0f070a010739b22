# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Plausible faults of a configuration: each is found, and the remedy, typed as printed, ends the finding."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from doctor_setting import ACTOR, ROLLOUT, bad

from verl_videomtr.verl_plugin.doctor import agreement, batches, data, engine, machine, model, places, reward, values
from verl_videomtr.verl_plugin.doctor.findings import Level
from verl_videomtr.verl_plugin.doctor.weights import complaint_of

pytest_plugins = ["doctor_setting"]

CORRECTION = "algorithm.rollout_correction"
FILTER = "algorithm.filter_groups"
SAMPLER = "trainer.v1.sampler.custom_sampler"


CHECKS = {
    "config.values": values.check_bounds,
    "config.steps": values.check_values,
    "config.checkpoint": values.check_values,
    "config.correction": values.check_values,
    "config.sampling": values.check_values,
    "config.reward": reward.check_reward,
    "config.": agreement.check_agreement,
    "engine.": engine.check_engine,
    "places.": places.check_places,
    "machine.cpus": machine._cpus,
    "data.dataset": data.check_dataset,
}
"""Which check finds what; the first name that fits."""


def examine(case, check):
    return list(next(function for name, function in CHECKS.items() if check.startswith(name))(case))


def test_the_good_case_is_quiet(measured):
    case = measured("trainer.logger=[console]")
    checks = [*CHECKS.values(), batches.check_batches, reward.check_reward, data._validation]
    assert not [finding.line() for check in checks for finding in bad(check(case))]


FAULTS = [
    # Numbers.
    ("config.values", [f"{ACTOR}.optim.lr=0"], "expected more than 0"),
    ("config.values", ["critic.optim.lr=0"], "expected more than 0"),
    ("config.values", [f"{ACTOR}.optim.lr=small"], "expected more than 0"),
    ("config.values", [f"{ACTOR}.optim.clip_grad=0"], "expected more than 0"),
    ("config.values", [f"{ROLLOUT}.temperature=0"], "expected more than 0"),
    ("config.values", [f"{ROLLOUT}.top_p=0"], "at most 1"),
    ("config.values", [f"{ROLLOUT}.val_kwargs.top_p=1.5"], "at most 1"),
    ("config.values", [f"{ROLLOUT}.top_k=-2"], "-1 (all tokens)"),
    ("config.values", [f"{ROLLOUT}.top_k=1"], "at least 2"),
    ("config.values", [f"{ACTOR}.optim.lr=1"], "less than 0.1"),
    ("config.values", [f"{ROLLOUT}.n=0"], "at least 1"),
    ("config.values", [f"{ROLLOUT}.val_kwargs.n=0"], "at least 1"),
    ("config.values", [f"{ROLLOUT}.agent.num_workers=0"], "at least 1"),
    ("config.values", ["data.train_batch_size=0"], "at least 1"),
    ("config.values", ["trainer.total_epochs=0"], "at least 1"),
    ("config.values", ["trainer.max_actor_ckpt_to_keep=0"], "at least 1"),
    ("config.values", ["algorithm.kl_ctrl.kl_coef=-0.1"], "0 or more"),
    ("config.values", [f"{ROLLOUT}.seed=first"], "0 or more"),
    ("config.steps", ["trainer.total_training_steps=9", "trainer.total_epochs=2"], "end the run after"),
    ("config.checkpoint", ["trainer.total_epochs=30", "trainer.save_freq=-1"], "trainer.save_freq=-1 with"),
    ("config.sampling", [f"{ROLLOUT}.logprobs_mode=raw_logits"], "logprobs_mode=raw_logits"),
    ("config.reward", [f"{FILTER}.enable=true", f"{FILTER}.metric=null"], "metric=None; expected one of acc,"),
    ("config.reward", [f"{FILTER}.enable=true", f"{FILTER}.metric=seq_reward"], "metric=seq_reward; expected"),
    # What verl's data set reads.
    ("data.dataset", ["data.prompt_key=question"], "no entry 'question'"),
    ("data.dataset", ["data.image_key=extra_info"], "image_offset"),
    ("data.dataset", ["data.shuffle=true", "data.seed=first"], "manual_seed"),
    ("data.dataset", ["data.custom_cls.path=/no/set.py", "data.custom_cls.name=Set"], "file not found"),
    ("data.dataset", ["data.custom_cls.path=pkg://collections", "data.custom_cls.name=Counter"], "must inherit"),
    ("data.dataset", ["data.filter_overlong_prompts=true", "data.max_prompt_length=8"], "leaves out the first row"),
    # Names.
    ("config.learning", [f"{ACTOR}.policy_loss.loss_mode=ppo"], "Unsupported loss mode"),
    ("config.learning", [f"{ACTOR}.use_kl_loss=true", f"{ACTOR}.kl_loss_type=k7"], "no KL form 'k7'"),
    ("config.learning", [f"{ACTOR}.strategy=fsdp3"], "expected one of fsdp"),
    ("config.learning", [f"{ACTOR}.clip_ratio_c=0.5"], "should be greater than 1.0"),
    ("config.learning", [f"{ACTOR}.policy_loss.loss_mode=dro"], "dro_beta must be a positive value"),
    ("config.learning", ["critic.loss_agg_mode=mean"], "Invalid loss_agg_mode: mean"),
    ("config.classes", [f"{SAMPLER}.path=/no/sampler.py", f"{SAMPLER}.name=Sampler"], "sampler.py"),
    ("config.classes", [f"{ROLLOUT}.checkpoint_engine.backend=copy"], "Checkpoint engine copy not registered"),
    ("config.classes", ["transfer_queue.backend.storage_backend=Store"], "storage_backend=Store"),
    ("config.checkpoint", [f"{ACTOR}.checkpoint.load_contents=[weights]"], "has weights"),
    ("config.checkpoint", ["critic.checkpoint.load_contents=[optimizer]"], "is without model"),
    ("config.values", ["transfer_queue.backend.SimpleStorage.num_data_storage_units=0"], "at least 1"),
    ("config.learning", [f"{CORRECTION}.rollout_is=tokens"], "Invalid rollout_is: tokens"),
    ("config.learning", [f"{CORRECTION}.rollout_is=token", f"{CORRECTION}.rollout_is_threshold=0"], "must be positive"),
    ("config.learning", [f"{CORRECTION}.rollout_rs=token_k1"], "rollout_rs_threshold must be explicitly provided"),
    ("config.optimizer", [f"{ACTOR}.optim.lr_scheduler_type=cosine", f"{ACTOR}.optim.min_lr_ratio=2"], "min_lr_ratio"),
    ("config.optimizer", [f"{ACTOR}.optim.optimizer=Adamw"], "not found in module"),
    ("config.optimizer", [f"{ACTOR}.optim.optimizer_impl=no_such.optim"], "Failed to import module"),
    ("config.dtypes", [f"{ACTOR}.fsdp_config.model_dtype=bfloat"], "expected bf16, fp16 or fp32"),
    ("config.dtypes", [f"{ACTOR}.fsdp_config.mixed_precision.param_dtype=half16"], "expected bf16, fp16 or fp32"),
    ("config.dtypes", ["critic.fsdp.model_dtype=half"], "critic.fsdp.model_dtype=half; expected bf16"),
    ("config.verl", [f"{ACTOR}.optim.lr_scheduler_type=linear"], "assert self.lr_scheduler_type in"),
    ("config.classes", [f"{ROLLOUT}.agent.default_agent_loop=video_mtrr"], "expected video_mtr"),
    ("config.classes", [f"{ROLLOUT}.agent.agent_loop_config_path=/no/loops.yaml"], "is no file"),
    ("config.classes", ["critic.model.external_lib=no_such_library"], "no_such_library"),
    ("config.ray", ["+ray_kwargs.ray_init.num_cpu=4"], "ray_init.num_cpus"),
    ("engine.name", [f"{ROLLOUT}.name=vlm"], "expected one of vllm"),
    ("engine.name", [f"{ROLLOUT}.name=trtllm"], "is not installed"),
    # What excludes something else.
    ("config.steps", ["trainer.critic_warmup=50"], "with 1 steps"),
    ("config.steps", ["trainer.val_only=true", "trainer.val_before_train=false"], "val_only"),
    ("config.steps", ["skip.rollout_tq.enable=true"], "skip.rollout_tq"),
    ("config.checkpoint", [f"{ACTOR}.checkpoint.save_contents=[models,optimizer,extra]"], "has models"),
    ("config.checkpoint", ["critic.checkpoint.save_contents=[model]"], "is without optimizer, extra"),
    ("config.checkpoint", [f"{ACTOR}.checkpoint.async_save=true"], "async_save"),
    ("config.checkpoint", ["trainer.max_actor_ckpt_to_keep=2"], "max_critic_ckpt_to_keep=None"),
    ("config.checkpoint", ["trainer.del_local_ckpt_after_load=true"], "del_local_ckpt"),
    ("config.sampling", [f"{ROLLOUT}.ignore_eos=true"], "ignore_eos=true"),
    ("config.sampling", [f"{ROLLOUT}.calculate_log_probs=false"], "max_rollout_difference"),
    ("config.correction", [f"{CORRECTION}.bypass_mode=true", f"{ROLLOUT}.top_p=0.9"], "top_p=0.9 with"),
    ("config.correction", [f"{CORRECTION}.rollout_is=sequence", f"{ROLLOUT}.top_k=50"], "top_k=50 with"),
    (
        "config.correction",
        [f"{CORRECTION}.rollout_is=token", f"{ROLLOUT}.calculate_log_probs=false"],
        "calculate_log_probs=false",
    ),
    ("config.plugin", ["trainer.use_v1=false"], "verl's old trainer"),
    ("config.plugin", ["reward.reward_model.enable=true"], "over the rewards of the turns"),
    ("config.plugin", ["custom_reward_function.path=my_reward.py"], "keys of verl before 0.8"),
    # Places.
    ("places.logger", ["trainer.logger=[console,tensorbord]"], "'tensorbord'; expected some of"),
    ("places.logger", ["trainer.logger=[console,swanlab]"], "swanlab is not installed"),
    ("places.resume", ["trainer.resume_mode=atuo"], "expected one of auto"),
    ("places.resume", ["trainer.resume_mode=resume_path"], "ends in global_step_N"),
    (
        "places.resume",
        ["trainer.resume_mode=resume_path", "trainer.resume_from_path=/no/global_step_5"],
        "is not there",
    ),
    ("places.resume", ["trainer.resume_from_path=/no/global_step_5"], "reads no path"),
    ("places.folder", ["videomtr.dump.dir={file}"], "is a file"),
    ("places.folder", ["trainer.default_local_dir={file}/x", "trainer.save_freq=5"], "is a file"),
    ("places.folder", ["trainer.validation_data_dir={file}/y"], "is a file"),
    ("machine.cpus", ["ray_kwargs.ray_init.num_cpus=4"], "reserve 5"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "fault", "says"), FAULTS, ids=[" ".join(fault) for _, fault, _ in FAULTS])
def test_a_fault_is_found_and_its_remedy_ends_it(measured, tmp_path, monkeypatch, check, fault, says):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "file").write_text("in the way")
    fault = [item.format(file=tmp_path / "file") for item in fault]
    case = measured("trainer.logger=[console]", *fault)
    found = [finding for finding in bad(examine(case, check)) if finding.check == check]
    assert found, [finding.line() for finding in bad(examine(case, check))]
    assert says in found[0].what
    if typed := found[0].overrides:
        fixed = measured("trainer.logger=[console]", *fault, *typed)
        left = [finding for finding in bad(examine(fixed, check)) if finding.check == check]
        assert not left, (typed, left)


def test_a_data_set_that_does_not_load_is_found_without_rows(composed):
    (finding,) = bad(data.check_dataset(composed.case("data.custom_cls.path=/no/set.py", "data.custom_cls.name=Set")))
    assert (finding.check, "file not found" in finding.what) == ("data.dataset", True)


# The reward function is called.

FUNCTIONS = {
    "signature": ("def compute_score(response, answer):\n    return 1.0\n", Level.ERROR, "unexpected keyword argument"),
    "tuple": ("def compute_score(data_source, **rest):\n    return 1.0, {}\n", Level.ERROR, "tuple"),
    "none": ("def compute_score(data_source, **rest):\n    return {'score': None}\n", Level.ERROR, ""),
    "nan": ("def compute_score(data_source, **rest):\n    return float('nan')\n", Level.ERROR, "nan"),
    "raises": ("def compute_score(data_source, **rest):\n    return rest['no_such']\n", Level.ERROR, "KeyError"),
    "constant": ("def compute_score(data_source, **rest):\n    return 0.5\n", Level.WARNING, "0.5 to the right answer"),
    "missing": ("", Level.ERROR, "compute_score"),
    "import": ("import no_such_package\n", Level.ERROR, "no_such_package"),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_reward_function_that_does_not_answer(measured, tmp_path, kind):
    code, level, says = FUNCTIONS[kind]
    (tmp_path / "mine.py").write_text(code)
    case = measured(f"reward.custom_reward_function.path={tmp_path / 'mine.py'}")
    (finding,) = bad(reward.check_reward(case))
    assert (finding.check, finding.level) == ("config.reward", level)
    assert says in finding.what


def test_a_reward_function_that_never_returns_is_not_waited_for(measured, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import time\ndef compute_score(data_source, **rest):\n    time.sleep(60)\n")
    monkeypatch.setattr(reward, "SECONDS", 0.2)
    started = time.monotonic()
    (finding,) = bad(reward.check_reward(measured(f"reward.custom_reward_function.path={tmp_path / 'mine.py'}")))
    assert "did not return" in finding.what
    assert time.monotonic() - started < 30


def test_constants_of_another_function(measured, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return float(f'<answer>{ground_truth}</answer>' in solution_str)\n"
    )
    path = f"reward.custom_reward_function.path={tmp_path / 'mine.py'}"
    assert not bad(reward.check_reward(measured(path)))
    case = measured(path, "+reward.custom_reward_function.reward_kwargs.gate=none")
    (finding,) = bad(reward.check_reward(case))
    assert finding.overrides == ("~reward.custom_reward_function.reward_kwargs",)


# The model's weights.


def test_weights_that_are_not_whole(composed, checkpoint, tmp_path):
    assert not complaint_of(checkpoint)
    cut = tmp_path / "cut"
    shutil.copytree(checkpoint, cut)
    file = cut / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    assert f"cut short: {len(whole) - 1000} bytes of {len(whole)}" in complaint_of(cut)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "pointer of Git LFS" in complaint_of(cut)
    file.unlink()
    assert "no weights" in complaint_of(cut)
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (cut / shards["a"]).write_bytes(whole)
    (cut / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert complaint_of(cut) == f"1 of 2 shards are missing, {shards['b']} first"
    for key, check in (("actor_rollout_ref", "model.weights"), ("critic", "model.critic")):
        (finding,) = bad(model.check_model(composed.case(f"{key}.model.path={cut}")))
        assert (finding.check, finding.level) == (check, Level.ERROR)
        assert "shards are missing" in finding.what


def test_a_tag_that_decoding_loses(measured, monkeypatch):
    case = measured()
    assert not list(model._tags(case))
    tokenizer = type(case.model.tokenizer)
    decode = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda *a, **k: decode(*a, **k).replace("<think>", ""))
    (finding,) = model._tags(case)
    assert finding.what.startswith("<think> of ")


# Checkpoints: room for them, and the one that is resumed.


def test_more_checkpoints_than_room(measured, tmp_path, monkeypatch):
    plenty = [f"trainer.default_local_dir={tmp_path}", "trainer.save_freq=1", "trainer.total_training_steps=100"]
    monkeypatch.setattr(places, "checkpoint_bytes", lambda run: 300 * 2**30)
    monkeypatch.setattr(places.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**13, 0, 1000 * 2**30))
    kept = ["trainer.max_actor_ckpt_to_keep=4", "trainer.max_critic_ckpt_to_keep=4"]
    for given, what in (([], "100 checkpoints of 300 GiB"), (kept, "5 checkpoints of 300 GiB take 1500 GiB")):
        (finding,) = bad(places._room(measured(*plenty, *given)))
        assert (finding.check, finding.level) == ("places.room", Level.WARNING)
        assert what in finding.what
        assert not bad(places._room(measured(*plenty, *given, *finding.overrides)))


def test_a_checkpoint_of_other_gpus_and_one_that_is_done(measured, tmp_path):
    folder = tmp_path / "global_step_1"
    for role in ("actor", "critic"):
        (folder / role).mkdir(parents=True)
        (folder / role / "model_world_size_8_rank_0.pt").touch()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("1")
    given = [f"trainer.default_local_dir={tmp_path}"]
    found = bad(places._resume(measured(*given)))
    assert [finding.level for finding in found] == [Level.ERROR, Level.WARNING]
    assert "saved by 8 GPUs, this run has 1" in found[0].what
    assert "nothing is left to train" in found[1].why
    for role in ("actor", "critic"):
        (folder / role / "model_world_size_8_rank_0.pt").rename(folder / role / "model_world_size_1_rank_0.pt")
    fixed = measured(*given, *found[1].overrides)
    assert [finding.level for finding in places._resume(fixed)] == [Level.NOTE]
    shutil.rmtree(folder / "critic")
    assert "critic is not there" in bad(places._resume(measured(*given)))[0].what


# Validation.


def test_a_validation_file_in_one_batch(measured, healthy, monkeypatch):
    case = measured("data.val_batch_size=null", "videomtr.video.pool.size=[560,560]")
    case.samples = {"val": healthy.samples["val"] * 100_000}
    (finding,) = bad(data._validation(case))
    assert "the whole file" in finding.what
    fixed = measured("data.val_batch_size=null", "videomtr.video.pool.size=[560,560]", *finding.overrides)
    fixed.samples = case.samples
    assert not bad(data._validation(fixed))


def test_validation_on_training_questions(measured, healthy):
    case = measured()
    case.samples = {"train": healthy.samples["train"], "val": healthy.samples["train"][:3]}
    (finding,) = bad(data._validation(case))
    assert finding.what.startswith("3 of 3 validation questions")
