# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The paper's recipe at real token counts on a CPU: prompts, budgets, vocabulary, frame sizes.

    four videos as cameras make them -> frames of up to 128 visual tokens -> rows of 6,000 tokens -> two steps

The model is narrow, and responses have at most 192 tokens. The longest episode that the budget allows is among those
played: a wide question, frames of 128 tokens, both looks, responses near their limit. What `videomtr plan` says of it
is held against what the trainer got.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from awkward_videos import write_video
from doctor_setting import bad
from family_models import INTERNVL_CONTROL, INTERNVL_NAMED, make_internvl
from record_checks import check_line
from trainer_runs import processes_of, read_metrics, read_trajectories, train
from transformers import AutoModelForImageTextToText

from benchmarks.first_light import qwen_vocabulary, scripted_model
from verl_videomtr.cli import main
from verl_videomtr.model_shapes import find_shape
from verl_videomtr.planner import GPUS, Plan, make_plan
from verl_videomtr.sample import Sample, write_rows
from verl_videomtr.verl_plugin.compose import compose
from verl_videomtr.verl_plugin.doctor.examine import examine
from verl_videomtr.verl_plugin.plan_command import read_run

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(2400)]

GROUPS = ("+videomtr/recipe=paper", "videomtr/model=qwen2_5_vl_3b", "+videomtr/device=cpu")
BATCH, STEPS, MAX_RESPONSE_TOKENS = 4, 2, 192
THOUGHT_WORDS = 170
MEMORY_BOUND_GIB = 20
"""What a machine of 24 GiB has for a run."""
OVERRIDES = (
    f"data.train_batch_size={BATCH}", f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
    f"trainer.total_training_steps={STEPS}", "actor_rollout_ref.rollout.max_num_seqs=8",
    # 512 take a CPU minutes a turn to decode.
    f"videomtr.max_response_tokens={MAX_RESPONSE_TOKENS}",
    # The embedding alone takes 74 MiB.
    "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=128",
    "actor_rollout_ref.rollout.gpu_memory_utilization=0.03",
)  # fmt: skip
SIZES = {"tall": (720, 360), "wide": (360, 640), "phone": (640, 360), "square": (480, 480)}
"""Of videos, (height, width). Frames of the first have 128 visual tokens, the most that the pool allows."""
PLAYED = ("tall", "wide", "tall", "square", "tall", "phone", "tall", "square")
"""Videos of the questions of both steps."""
SHORT = (
    "What does the man in the blue coat do after he has put the bag down?",
    ("opens the door", "picks up the dog", "waves at the camera", "sits down on the stairs", "drinks some water"),
)
LONG_OPTION = (
    "the {} one, because shortly before the second speaker comes back into the room and closes the window, it is moved "
    "from the shelf to the table"
)
LONG = (
    "At the beginning the presenter lists five objects that stand on the shelf behind her, and while the camera moves "
    "around the room several of them are taken away, exchanged or put somewhere else by the people who come in. Which "
    "of the objects is the last one that is touched before the lights go out, and how can that be told from the order "
    "of what happens?",
    tuple(LONG_OPTION.format(colour) for colour in ("red", "green", "blue", "yellow", "white")),
)
FPS, SECONDS = 8, {"tall": 118, "wide": 90, "phone": 75, "square": 104}


@pytest.fixture(scope="module")
def vocabulary() -> Path:
    try:
        return qwen_vocabulary.fetch()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"Qwen's vocabulary cannot be had: {error}")


@pytest.fixture(scope="module")
def model(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "scripted"
    scripted_model.make_checkpoint(folder, size="narrow", num_words=THOUGHT_WORDS)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, size in SIZES.items():
        write_video(folder / f"{name}.mp4", count=FPS * SECONDS[name], fps=FPS, size=size)
    samples = []
    for index in range(len(PLAYED) + len(SIZES)):
        name = (*PLAYED, *SIZES)[index]
        question, options = LONG if name == "tall" else SHORT
        is_val = index >= len(PLAYED)
        samples.append(
            Sample(
                data_source="rehearsal",
                sample_id=f"{name}-{index}",
                index=index,
                split="val" if is_val else "train",
                video=f"{name}.mp4",
                duration_seconds=float(SECONDS[name]),
                question=f"Again: {question}" if is_val else question,
                options=options,
                answer="B",
                question_type="multiple_choice",
                segments=((20.0, 40.0),),
            )
        )
    for split in ("train", "val"):
        write_rows(folder / f"{split}.parquet", [sample for sample in samples if sample.split == split])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path, model: Path) -> tuple[Path, float]:
    """Two steps; the folder, and the most memory in GiB that all processes together took."""
    folder, most, looked = tmp_path_factory.mktemp("run"), 0.0, 0.0

    def watch() -> bool:
        nonlocal most, looked
        if time.monotonic() > looked + 1:
            looked = time.monotonic()
            most = max(most, sum(map(_own_bytes, processes_of(folder))) / 2**30)
        return False

    train(folder, *OVERRIDES, data=data, model=model, groups=GROUPS, kill_when=watch, timeout=1800)
    return folder, most


def _own_bytes(process: psutil.Process) -> int:
    try:
        used = process.memory_info()
    except psutil.Error:
        return 0
    return used.rss - used.shared


def _rows(folder: Path) -> list[dict]:
    steps = [torch.load(folder / f"step_{number}.pt", weights_only=False)["rows"] for number in range(1, STEPS + 1)]
    return [row for rows in steps for row in rows]


@pytest.fixture(scope="module")
def plan(model: Path) -> Plan:
    path = f"actor_rollout_ref.model.path={model}"
    config = compose([*GROUPS, *OVERRIDES, path])
    return make_plan(read_run(config, shape=find_shape(str(model))[0], gpu=GPUS["a100"]))


def test_nothing_is_cut_or_lost(run):
    folder, _ = run
    rows = _rows(folder)
    assert len(rows) == BATCH * STEPS
    assert not any(row["is_padding"] for row in rows)
    for row in rows:
        episode = row["trajectory"]["episode"]
        assert set(row["trajectory"]["finish_reasons"]) == {"stop"}
        assert "invalid" not in episode["actions"][:2]
        assert all(episode["frames"])
        assert all(160 < tokens <= MAX_RESPONSE_TOKENS for tokens in row["trajectory"]["response_tokens"])
    assert max(len(row["trajectory"]["episode"]["actions"]) for row in rows) == 3
    metrics = read_metrics(folder)
    assert sorted(metrics) == [1, 2]
    assert all(metrics[step]["training/rollout_probs_diff_mean"] < 1e-3 for step in metrics)


def test_the_longest_episode_takes_what_the_plan_says(run, plan):
    folder, _ = run
    full = [row for row in _rows(folder) if row["num_images"] == plan.frames_per_episode]
    assert full, "no episode looked twice"
    longest = max(full, key=lambda row: len(row["input_ids"]))
    figures = {
        "tokens": (len(longest["input_ids"]), plan.tokens_per_episode),
        "bytes of frames": (longest["num_frame_bytes"], plan.pixel_bytes_per_episode),
    }
    for name, (measured, planned) in figures.items():
        assert 0.9 * planned <= measured <= planned, name


def test_its_trajectories_can_be_read(run, tmp_path, capsys):
    folder, _ = run
    for step in range(1, STEPS + 1):
        lines = read_trajectories(folder, step)
        assert len(lines) == BATCH
        for line in lines:
            check_line(line, step=step)
            said = ["".join(filter(lambda part: isinstance(part, str), each)) for each in line["episode"]["messages"]]
            assert said[0].startswith("The video lasts ")
            assert all(text.startswith("A closer look (8 frames):\nFrame ") for text in said[1:])
            assert all(text.startswith("<think> ") for text in line["episode"]["responses"])
    assert main(["report", str(folder / "trajectories"), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.startswith(f"{len(PLAYED)} of {len(PLAYED)} episodes")


def test_it_fits_a_small_machine(run):
    _, most = run
    assert 1 < most < MEMORY_BOUND_GIB, f"{most:.1f} GiB"


def _doctor(model: Path, data: Path, *overrides: str) -> list:
    files = [f"data.{split}_files={data / split}.parquet" for split in ("train", "val")]
    paths = [f"actor_rollout_ref.model.path={model}", f"critic.model.path={model}", f"videomtr.video.root={data}"]
    return examine([*overrides, *files, *paths], elsewhere=True, fresh=False)


def test_the_doctor_finds_nothing_in_it(model, data):
    found = _doctor(model, data, *GROUPS, *OVERRIDES)
    assert not bad(found)


def test_a_processor_of_another_family_at_its_real_size(vocabulary, data, tmp_path):
    """InternVL3: Qwen's vocabulary with control tokens of its own, tiles of 448 px, 256 visual tokens a frame."""
    tokenizer = qwen_vocabulary.make_tokenizer(vocabulary, control=INTERNVL_CONTROL, **INTERNVL_NAMED)
    family = make_internvl(448, tokenizer)
    family.config.text_config.max_position_embeddings = 32768
    AutoModelForImageTextToText.from_config(family.config).save_pretrained(tmp_path)
    family.processor.save_pretrained(tmp_path)
    groups = [*GROUPS[:1], "videomtr/model=internvl3_8b", *GROUPS[2:], *OVERRIDES]
    found = _doctor(tmp_path, data, *groups)
    assert not bad(found)
    (line,) = (finding.line() for finding in found if finding.check == "lengths")
    assert "32 images" in line
