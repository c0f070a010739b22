# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the study fixes: the task, the base model, the seeds, the training and the variants.

A run is stock `verl.trainer.main_ppo` with `+videomtr=paper` and the overrides of its setting and its variant.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DATA_SEED = 0
BASE_SEED = 0
MAX_TURNS = 3
FRAME_BUDGET = 22
"""B: an overview of 8, then 7 a look."""
BATCH = 32
"""Trajectories of a step."""
CHANCE = 0.25
BLIND_SWEEP = 0.452
"""What the best fixed looks reach, whatever the question and the overview; `blind_bound` computes it."""
ONE_LOOK = 0.433
"""What one look at the whole frame budget reaches over all places of the needle; likewise."""
TEST_EVERY = 20
SAVE_EVERY = 20

DEVICE = ("+videomtr=paper", "+videomtr/device=cpu", "+videomtr/model=tiny")
OPTIMISATION = (
    # At 5e-4 and without a KL term the noise of a few steps erased what the thoughts had been taught.
    "actor_rollout_ref.actor.optim.lr=3e-4",
    "critic.optim.lr=1e-3",
    "actor_rollout_ref.actor.use_kl_loss=true",
    "actor_rollout_ref.actor.kl_loss_coef=0.05",
    "actor_rollout_ref.actor.kl_loss_type=low_var_kl",
)
"""What a model of this size is trained with; the demo shares it."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A task and its episodes, and the base model that is taught for them."""

    episode: tuple[str, ...]
    """Hydra overrides."""
    base: str = "study"
    """Of `teach`."""
    task: tuple[str, ...] = ()
    """Options of `data_prep.synthetic`; without any: eight scenes in random order, a pool of 128, needles of 2."""
    only_videos: tuple[str, ...] = ()
    """Such options that the lessons do not have: what the base is never taught."""
    group_by: tuple[str, ...] = ()
    """Keys of the samples' groups by which a run's episodes are told apart in its record."""
    steps: int = 80
    data_rows: Mapping[str, int] = field(default_factory=lambda: {"train": 3200, "val": 256, "test": 0})
    """Rows of each split; the videos of the splits differ. No choice is made by the validation rows: the last step's
    policy is the run's, so they serve as the held-out ones."""


def _episode(*, max_turns: int, frame_budget: int, pool_size: int) -> tuple[str, ...]:
    return (
        f"videomtr.episode.max_turns={max_turns}",
        f"videomtr.episode.frame_budget={frame_budget}",
        "videomtr.episode.initial_frames=8",
        f"videomtr.episode.pool_size={pool_size}",
    )


STUDY = Setting(episode=_episode(max_turns=MAX_TURNS, frame_budget=FRAME_BUDGET, pool_size=128))
GATE = Setting(
    # Four looks of four frames, all in the context as in the lessons; five turns need more room than three.
    episode=(
        *_episode(max_turns=5, frame_budget=24, pool_size=64),
        "videomtr.episode.window=4",
        "data.max_prompt_length=256",
        "data.max_response_length=448",
        "actor_rollout_ref.rollout.max_model_len=704",
    ),
    base="gate",
    task=("--pool-size", "64", "--no-random-order"),
    only_videos=("--unreadable-percent", "50"),
    group_by=("evidence",),
    steps=60,
)
"""Half of the evidence can be found and not read; docs/learning.md says what must come of it."""

MIXTURE = Setting(
    episode=STUDY.episode,
    base="mixture",
    task=("--mixture", "--questions-per-video", "2"),
    group_by=("length", "detail"),
    # As many held-out videos of each of the six kinds.
    data_rows={"train": 3200, "val": 384, "test": 0},
)
"""Short, medium and long videos, of one detail and of two: at the same budget a look at everything sees less of a
longer one, and two signs are harder to meet than one. docs/appendix/learning.md says what must come of it."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the study."""

    overrides: tuple[str, ...]
    """Hydra overrides behind those of the setting."""
    says: str
    """What it is, in words."""
    setting: Setting = STUDY
    group_size: int = 1
    """Trajectories of one question; the step's trajectories stay BATCH."""
    base_options: tuple[str, ...] = ()
    """Options of `teach` for a base model with other habits than the setting's."""


NO_BONUS = "videomtr.bootstrap.enabled=false"
UNAIMED = ("--rate", "0.01", "--aim", "0")
SELDOM = ("--rate", "0.005")
SCARCE = ("--rate", "0.002", "--settling-share", "0.5")
"""Half of the lessons have the base's own rate: in a quarter of them `--rate 0.005` came to 1.6%."""
SINGLE_LOOK = ("videomtr.episode.max_turns=1", "videomtr.episode.initial_frames=null", NO_BONUS)
REWARD = "+reward.custom_reward_function.reward_kwargs"

VARIANTS: dict[str, Variant] = {
    "full": Variant(overrides=(), says="the full method"),
    "full_engine_log_probs": Variant(
        overrides=("algorithm.rollout_correction.bypass_mode=true",),
        says="the full method with vLLM's probabilities for the old policy's",
    ),
    "no_gate": Variant(overrides=(f"{REWARD}.gate=none",), says="turn rewards are paid whatever the answer"),
    "no_turn_reward": Variant(overrides=(f"{REWARD}.turn_level=false",), says="no reward for the frames found"),
    "no_bootstrapping": Variant(overrides=(NO_BONUS,), says="no exploration bonus"),
    "no_bootstrapping_rare": Variant(
        overrides=(NO_BONUS,),
        says="no exploration bonus, from a base that hardly ever retrieves, and never aims",
        base_options=("--rate", "0.002", "--aim", "0"),
    ),
    "full_unaimed": Variant(
        overrides=(),
        says="the full method, from a base that retrieves now and then, and never aims",
        base_options=UNAIMED,
    ),
    "no_bootstrapping_unaimed": Variant(
        overrides=(NO_BONUS,), says="no exploration bonus, from that base", base_options=UNAIMED
    ),
    "full_seldom": Variant(
        overrides=(), says="the full method, from a base taught a quarter of the study's rate", base_options=SELDOM
    ),
    "no_bootstrapping_seldom": Variant(
        overrides=(NO_BONUS,), says="no exploration bonus, from that base", base_options=SELDOM
    ),
    "single_turn": Variant(overrides=SINGLE_LOOK, says="PPO on one look at the whole frame budget"),
    "plain_gae": Variant(overrides=("videomtr.credit.form=plain",), says="one GAE over all tokens"),
    "literal_credit": Variant(overrides=("videomtr.credit.form=literal",), says="credit by the paper's sentence"),
    "grpo": Variant(
        overrides=("algorithm.adv_estimator=grpo", "critic.enable=false", NO_BONUS),
        says="GRPO, eight trajectories a question, no critic, no bonus",
        group_size=8,
    ),
    "gated": Variant(overrides=(), setting=GATE, says="the full method where half of the evidence cannot be read"),
    "ungated": Variant(overrides=(f"{REWARD}.gate=none",), setting=GATE, says="the same without the gate"),
    "full_scarce": Variant(
        overrides=(), says="the full method, from a base that aims and truly seldom retrieves", base_options=SCARCE
    ),
    "no_bootstrapping_scarce": Variant(
        overrides=(NO_BONUS,), says="no exploration bonus, from that base", base_options=SCARCE
    ),
    "full_firm": Variant(
        overrides=("actor_rollout_ref.actor.kl_loss_coef=0.2",),
        says="the full method, four times as firmly held to the base",
    ),
    "full_mixture": Variant(
        overrides=(), setting=MIXTURE, says="the full method on one and two details, in videos of three lengths"
    ),
    "single_turn_mixture": Variant(overrides=SINGLE_LOOK, setting=MIXTURE, says="one look at the whole budget there"),
}

SEEDS = range(3)
MAIN = ("full", "no_bootstrapping_scarce", "full_scarce", "single_turn", "no_gate", "no_turn_reward")
"""The variants of the main comparisons."""

ORDER: tuple[tuple[str, int], ...] = (
    *((variant, seed) for seed in SEEDS for variant in MAIN),
    *((variant, seed) for seed in SEEDS for variant in ("gated", "ungated")),
    *((variant, seed) for seed in SEEDS for variant in ("full_mixture", "single_turn_mixture")),
    *(("full_firm", seed) for seed in SEEDS),
    *(("no_bootstrapping", seed) for seed in SEEDS),
    *((variant, 0) for variant in ("full_engine_log_probs", "plain_gae", "literal_credit", "grpo")),
    *((variant, 0) for variant in ("full_seldom", "no_bootstrapping_seldom")),
    *((variant, 0) for variant in ("full_unaimed", "no_bootstrapping_unaimed", "no_bootstrapping_rare")),
)
"""(variant, seed) of every run of the sweep, most telling first."""


def steps_of(variant: str) -> int:
    """How many steps a whole run of a variant has."""
    return VARIANTS[variant].setting.steps


def run_name(variant: str, seed: int) -> str:
    return f"{variant}_seed{seed}"


def data_command(out: Path, setting: Setting = STUDY) -> list[str]:
    """Make videos and rows."""
    rows = [part for split, number in setting.data_rows.items() for part in (f"--num-{split}", str(number))]
    options = [*setting.task, *setting.only_videos, *rows]
    return [sys.executable, "-m", "data_prep.synthetic", "--out", str(out), "--seed", str(DATA_SEED), *options]


def pools(data: Path) -> Path:
    """Where the decoded frames of the videos are, for all runs."""
    return data / "pools"


def pools_command(data: Path, setting: Setting = STUDY) -> list[str]:
    """Decode every candidate frame once; runs that fetch them a few at a time spend minutes on what takes seconds."""
    files = [str(data / f"{split}.parquet") for split in ("train", "val")]
    command = [sys.executable, "-m", "verl_videomtr.cli", "pools", *DEVICE, *setting.episode]
    command += [f"videomtr.video.root={data.resolve()}", f"videomtr.video.cache.dir={pools(data).resolve()}"]
    return [*command, "--files", *files, "--workers", "2"]


def base_command(out: Path, variant: Variant) -> list[str]:
    """Make a variant's base model."""
    command = [sys.executable, "-m", "recipes.learning_study.teach", "--base", variant.setting.base, "--out", str(out)]
    return [*command, "--seed", str(BASE_SEED), *variant.setting.task, *variant.base_options]


def overrides_of(variant: str, seed: int, *, steps: int | None = None) -> list[str]:
    """The Hydra overrides that decide what a run learns: everything but paths and logging."""
    chosen = VARIANTS[variant]
    return [
        *DEVICE,
        *chosen.setting.episode,
        *OPTIMISATION,
        f"data.train_batch_size={BATCH // chosen.group_size}",
        f"actor_rollout_ref.rollout.n={chosen.group_size}",
        *seed_overrides(seed),
        f"trainer.total_training_steps={steps or chosen.setting.steps}",
        "trainer.total_epochs=1000",
        *chosen.overrides,
    ]


def seed_overrides(seed: int) -> list[str]:
    """Seed the order of rows, the sampling and the first weights of the critic's head."""
    keys = ("data.seed", "actor_rollout_ref.rollout.seed", "actor_rollout_ref.actor.data_loader_seed")
    keys += ("critic.data_loader_seed", "actor_rollout_ref.actor.fsdp_config.seed", "critic.fsdp.seed")
    return [f"{key}={seed}" for key in keys]


def run_command(
    overrides: Sequence[str], *, folder: Path, data: Path, base: Path, resume: bool, steps: int
) -> list[str]:
    """The whole command of a run, for a folder of its own."""
    return [
        sys.executable, "-m", "verl.trainer.main_ppo", *overrides,
        f"data.train_files={(data / 'train.parquet').resolve()}",
        f"data.val_files={(data / 'val.parquet').resolve()}",
        f"videomtr.video.root={data.resolve()}",
        f"videomtr.video.cache.dir={pools(data).resolve()}",
        f"actor_rollout_ref.model.path={base.resolve()}",
        f"critic.model.path={base.resolve()}",
        f"videomtr.dump.dir={(folder / 'trajectories').resolve()}",
        f"trainer.validation_data_dir={(folder / 'validation').resolve()}",
        f"trainer.default_local_dir={(folder / 'checkpoints').resolve()}",
        f"trainer.save_freq={min(SAVE_EVERY, steps)}", f"trainer.test_freq={min(TEST_EVERY, steps)}",
        "trainer.max_actor_ckpt_to_keep=1", "trainer.max_critic_ckpt_to_keep=1",
        f"trainer.resume_mode={'auto' if resume else 'disable'}", f"trainer.val_before_train={str(not resume).lower()}",
        "trainer.project_name=learning_study", f"trainer.experiment_name={folder.name}",
        "trainer.logger=[console,file]",
    ]  # fmt: skip
