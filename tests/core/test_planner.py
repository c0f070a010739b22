# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The planner's formulas, held against real frames, real processors, verl's own output and a real episode."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from transformers import Qwen2VLImageProcessor

from verl_videomtr.budget import RowSize
from verl_videomtr.cli import main
from verl_videomtr.model_shapes import KNOWN_CONFIGS, ModelShape, find_shape
from verl_videomtr.planner import ENTROPY_COPIES, FUSED_COPIES, GIB, GPUS, LOGIT_COPIES, PlannedRun, Trained, make_plan
from verl_videomtr.verl_plugin.compose import compose
from verl_videomtr.verl_plugin.plan_command import NODES, read_run

SHAPE = ModelShape.from_config(KNOWN_CONFIGS["Qwen2.5-VL-7B-Instruct"])
PAPER = ("+videomtr/recipe=paper",)


def make_run(**changes):
    """The paper's run at 32 frames."""
    run = PlannedRun(
        shape=SHAPE,
        rows=(RowSize(prompt_tokens=2968, response_tokens=4504, num_frames=32),),
        num_frames=32,
        frame_tokens=128,
        max_turns=3,
        max_response_tokens=512,
        episodes_per_step=32,
        validation_episodes=128,
        checkpoints_kept=2,
        nodes=1,
        gpus_per_node=8,
        actor=Trained(
            num_params=SHAPE.num_params,
            num_trained=SHAPE.num_params,
            num_logit_copies=FUSED_COPIES,
            fused_head=True,
        ),
        critic=Trained(
            num_params=SHAPE.num_value_params,
            num_trained=SHAPE.num_value_params,
            has_logits=False,
            tokens_per_gpu=32768,
        ),
        reference_bytes_per_param=4,
        gpu=GPUS["a100"],
    )
    return dataclasses.replace(run, **changes)


@pytest.fixture(scope="module")
def paper_config():
    return compose(PAPER)


@pytest.mark.parametrize(
    ("patch_px", "height", "width"), [(14, 224, 448), (14, 196, 364), (16, 256, 512), (16, 256, 256)]
)
def test_pixel_bytes_are_what_the_image_processor_makes(patch_px, height, width):
    family = "qwen3_vl" if patch_px == 16 else "qwen2_5_vl"
    shape = next(ModelShape.from_config(config) for config in KNOWN_CONFIGS.values() if config["model_type"] == family)
    processor = Qwen2VLImageProcessor(patch_size=patch_px, merge_size=2, min_pixels=784, max_pixels=10**7)
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    made = processor(images=[Image.fromarray(noise)] * 3, return_tensors="pt")
    tokens = height * width // shape.factor_px**2
    assert made["image_grid_thw"].prod(dim=1).tolist() == [tokens * 4] * 3
    assert made["pixel_values"].nbytes == 3 * shape.pixel_bytes_per_frame(tokens)


def test_a_frame_of_128_tokens_takes_two_and_a_half_megabytes_as_patches_and_an_eighth_as_bytes():
    assert SHAPE.pixel_bytes_per_frame(128) == 512 * 1176 * 4 == 2_408_448
    assert SHAPE.frame_bytes(128) == 224 * 448 * 3 == 301_056


def test_rows_of_float32_patches_are_planned_where_they_are_asked_for(paper_config):
    changed = OmegaConf.merge(paper_config, {"videomtr": {"device_patches": False}})
    run = read_run(changed, shape=SHAPE, gpu=GPUS["a100"])
    assert run == make_run(device_patches=False)
    old, new = make_plan(run), make_plan(make_run())
    assert old.pixel_bytes_per_episode == 32 * 2_408_448 == 8 * new.pixel_bytes_per_episode
    images = "images on the hosts' CPUs"
    assert old.seconds[images] == 2 * new.seconds[images]


def test_the_papers_run_is_read_from_its_recipe(paper_config):
    shape, where = find_shape(str(paper_config.actor_rollout_ref.model.path))
    assert where == "the known sizes of Qwen2.5-VL-7B-Instruct"
    assert read_run(paper_config, shape=shape, gpu=GPUS["a100"]) == make_run()


def test_numbers_of_the_papers_run():
    plan = make_plan(make_run())
    assert (plan.tokens_per_episode, plan.tokens_per_row, plan.frames_per_episode) == (7472, 7472, 32)
    assert plan.pixel_bytes_per_episode == 32 * 301_056
    # 40 B a token of the row, 8 a prompt token, 32 + 28 a response token, 32 a frame.
    assert plan.other_bytes_per_episode == 7472 * 40 + 2968 * 8 + 4504 * 60 + 32 * 32
    assert plan.stored_bytes_per_step == 32 * plan.bytes_per_episode
    assert plan.kv_bytes_per_token == 57_344
    # fp32 weights and gradients, two states of Adam, over eight GPUs.
    states = sum(plan.actor_update[part] for part in ("weights", "gradients", "optimizer"))
    assert states == pytest.approx(SHAPE.num_params * 16 / 8)
    assert plan.actor_update["the other model, idle"] == pytest.approx(SHAPE.num_value_params * 12 / 8)
    assert plan.actor_update["logits"] == 512 * 152064 * 2 * FUSED_COPIES
    assert plan.host["reference"] == SHAPE.num_params * 4
    room = (0.5 * 79.2 - 3) * GIB - 2 * SHAPE.num_params
    assert plan.kv_tokens == int(room / 57_344)


def test_several_rows_of_one_episode_store_a_frame_once_as_bytes_and_each_as_patches():
    row = RowSize(prompt_tokens=1000, response_tokens=1000, num_frames=10)
    run = make_run(rows=(row, row), num_frames=14)
    plan, old = make_plan(run), make_plan(dataclasses.replace(run, device_patches=False))
    assert (plan.frames_per_episode, old.frames_per_episode) == (14, 20)
    assert plan.pixel_bytes_per_episode == 14 * SHAPE.frame_bytes(128)
    assert old.pixel_bytes_per_episode == 20 * SHAPE.pixel_bytes_per_frame(128)
    assert plan.other_bytes_per_episode == old.other_bytes_per_episode
    assert (plan.tokens_per_episode, plan.tokens_per_row) == (4000, 2000)


def test_nodes_divide_states_and_stored_trajectories():
    one, four = (make_plan(make_run(nodes=nodes)) for nodes in (1, 4))
    for part in ("weights", "gradients", "optimizer", "the other model, idle"):
        assert one.actor_update[part] == pytest.approx(4 * four.actor_update[part])
    for part in ("trajectories stored", "trajectories in the workers", "reference"):
        assert one.host[part] == pytest.approx(4 * four.host[part])
    assert one.host["servers' image caches, at most"] == four.host["servers' image caches, at most"]


def test_states_divided_among_fewer_gpus_are_kept_in_copies():
    all_gpus, copies = make_plan(make_run(nodes=2)), make_plan(make_run(nodes=2, fsdp_size=8))
    assert copies.actor_update["weights"] == pytest.approx(2 * all_gpus.actor_update["weights"])
    assert copies.host["reference"] == pytest.approx(2 * all_gpus.host["reference"])
    assert copies.host["trajectories stored"] == all_gpus.host["trajectories stored"]


def test_a_batch_is_raised_to_what_the_ranks_can_share():
    assert make_run(nodes=8).episodes == 64
    assert make_run(nodes=8, sequence_parallel=4).episodes == 32
    assert make_run(episodes_per_step=33).episodes == 40


def test_sequence_parallelism_divides_tokens_but_not_images():
    long = RowSize(prompt_tokens=38488, response_tokens=40024, num_frames=512)
    actor = dataclasses.replace(make_run().actor, tokens_per_gpu=19628, fused_head=False)
    alone = make_plan(make_run(rows=(long,), actor=dataclasses.replace(actor, tokens_per_gpu=78512)))
    four = make_plan(make_run(rows=(long,), actor=actor, sequence_parallel=4))
    assert alone.actor_update["logits"] == pytest.approx(4 * four.actor_update["logits"])
    # The inputs of the vision tower's 32 layers: 512 frames of 512 patches, on every rank.
    vision = 512 * 512 * 1280 * 2 * 32
    assert four.actor_update["activations"] > vision
    assert four.host["trajectories in the workers"] == pytest.approx(4 * four.host["trajectories stored"])


def test_a_head_that_is_not_fused_holds_the_logits_of_a_whole_micro_batch(paper_config):
    whole = OmegaConf.merge(paper_config, {"actor_rollout_ref": {"model": {"use_fused_kernels": False}}})
    for entropy, copies in ((0.001, ENTROPY_COPIES), (0.0, LOGIT_COPIES)):
        whole.actor_rollout_ref.actor.entropy_coeff = entropy
        plan = make_plan(read_run(whole, shape=SHAPE, gpu=GPUS["a100"]))
        assert plan.actor_update["logits"] == 16384 * 152064 * 2 * copies


def test_padding_counts_in_the_fullest_micro_batch(paper_config):
    padded = {"model": {"use_remove_padding": False, "use_fused_kernels": False}}
    config = OmegaConf.merge(paper_config, {"actor_rollout_ref": padded})
    plan = make_plan(read_run(config, shape=SHAPE, gpu=GPUS["a100"]))
    # 7,472 tokens, and two rows of 2,968 + 512 that are padded to as many, in micro-batches of 16,384 real ones.
    assert plan.actor_update["logits"] == 3 * 7472 * 152064 * 2 * ENTROPY_COPIES
    few = OmegaConf.merge(config, {"data": {"train_batch_size": 16}})
    assert make_plan(read_run(few, shape=SHAPE, gpu=GPUS["a100"])).actor_update["logits"] == (
        2 * 7472 * 152064 * 2 * ENTROPY_COPIES
    )


def test_offloading_moves_states_from_gpus_to_hosts():
    base = make_run()
    offloaded = dataclasses.replace(base.critic, param_offload=True, optimizer_offload=True)
    before, after = make_plan(base), make_plan(dataclasses.replace(base, critic=offloaded))
    assert after.actor_update["the other model, idle"] == 0
    assert after.host["offloaded states"] == SHAPE.num_value_params * 12
    assert after.critic_update["optimizer"] == before.critic_update["optimizer"]
    assert before.rollout["models, idle"] - after.rollout["models, idle"] == pytest.approx(
        SHAPE.num_value_params * 12 / 8
    )


def test_adapters_alone_have_gradients_and_states():
    config = compose(["+videomtr/recipe=lora_1gpu"])
    shape, _ = find_shape(str(config.actor_rollout_ref.model.path))
    run = read_run(config, shape=shape, gpu=GPUS["a100"])
    adapters = shape.num_lora_params(64)
    plan = make_plan(run)
    assert run.actor.num_params == shape.num_params + adapters
    assert plan.actor_update["gradients"] == adapters * 4
    assert plan.actor_update["optimizer"] == adapters * 8
    assert run.critic is None
    assert run.reference_bytes_per_param is None
    assert plan.critic_update == {}
    assert "reference" in plan.seconds


def test_a_server_without_room_plays_no_episode():
    assert make_plan(make_run(memory_share=0.2)).server_episodes == 0
    assert make_plan(make_run(memory_share=0.2)).kv_tokens == 0
    # Eight GPUs hold copies of four key-value heads.
    four, eight = (make_plan(make_run(tensor_parallel=parallel)) for parallel in (4, 8))
    assert four.kv_tokens < eight.kv_tokens < 2 * four.kv_tokens


def test_a_longer_batch_takes_longer():
    short, long = make_plan(make_run()), make_plan(make_run(episodes_per_step=64))
    for part in ("prefill", "actor update", "critic update", "values", "reference", "log-probabilities"):
        assert long.seconds[part] == pytest.approx(2 * short.seconds[part])
    assert short.step_seconds == pytest.approx(sum(short.seconds.values()))


def test_the_command_prints_one_run(capsys):
    assert main(["plan", *PAPER, "videomtr/budget=b64"]) == 0
    printed = capsys.readouterr().out
    assert "8.29B parameters (the known sizes of Qwen2.5-VL-7B-Instruct), 8 x A100 80 GB" in printed
    assert "12,208  1 row(s); first 5,336 + 6,872" in printed
    assert "0.3 MB a frame, bytes" in printed
    assert printed.count("estimate") >= 4


def test_the_command_prints_json(capsys):
    assert main(["plan", *PAPER, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["pixel_bytes_per_episode"] == 32 * 301_056
    assert set(printed["estimates"]) <= set(printed)


def test_the_table_has_every_budget_on_every_number_of_nodes(capsys):
    assert main(["plan", *PAPER, "--table"]) == 0
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [(int(budget), int(nodes)) for budget, nodes in rows] == [
        (budget, nodes) for budget in (32, 64, 80, 128, 256, 512) for nodes in NODES
    ]


def test_the_documented_numbers_are_what_the_command_prints(capsys):
    docs = Path(__file__).parents[2] / "docs"
    page = "".join((docs / name).read_text(encoding="utf-8") for name in ("plan.md", "appendix/plan_tables.md"))
    for arguments in ((), ("--table",)):
        assert main(["plan", *PAPER, *arguments]) == 0
        assert capsys.readouterr().out.strip() in page


def test_an_unknown_model_ends_in_one_line(capsys):
    assert main(["plan", *PAPER, "actor_rollout_ref.model.path=/no/such"]) == 2
    assert "'/no/such' holds no config.json and is none of Qwen2.5-VL-3B-Instruct" in capsys.readouterr().err


def test_a_batch_of_validation_counts_where_it_is_more_than_a_step(paper_config):
    shape, _ = find_shape("Qwen2.5-VL-7B-Instruct")

    def planned(size):
        paper_config.data.val_batch_size = size
        return make_plan(read_run(paper_config, shape=shape, gpu=GPUS["a100"]))

    few, many = planned(64), planned(2700)
    assert many.stored_bytes_per_validation == 2700 * many.bytes_per_episode
    assert 26e9 < many.stored_bytes_per_validation < 29e9
    # A step's 32 episodes lie once in TransferQueue and once in the workers: as much as 64.
    assert many.host_bytes - few.host_bytes == (2700 - 64) * many.bytes_per_episode
    assert planned(1).host_bytes == few.host_bytes


def test_a_checkpoint_holds_weights_and_two_states(paper_config):
    shape, _ = find_shape("Qwen2.5-VL-7B-Instruct")
    plan = make_plan(read_run(paper_config, shape=shape, gpu=GPUS["a100"]))
    assert plan.checkpoint_bytes == 12 * (shape.num_params + shape.num_value_params)
    assert plan.disk_bytes == 3 * plan.checkpoint_bytes  # two are kept, one is being written


def test_the_fullest_moment_of_an_update_is_the_passes_or_the_optimizers_step():
    short = dataclasses.replace(make_run().critic, tokens_per_gpu=512)
    plan = make_plan(dataclasses.replace(make_run(), critic=short))
    assert "the optimizer's step" not in plan.actor_update
    assert plan.actor_update["activations"] + plan.actor_update["logits"] > plan.actor_update["gradients"]
    assert plan.critic_update["the optimizer's step"] == plan.critic_update["gradients"]
    assert "activations" not in plan.critic_update
