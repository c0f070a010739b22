# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the study fixes: the task, the base model, the seeds, the training and the variants.

A run is stock `verl.trainer.main_ppo` with `+videomtr=paper`, `COMMON` and its variant's overrides, and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DATA_SEED = 0
BASE_SEED = 0
DATA_ROWS = {"train": 3200, "val": 256, "test": 0}
"""Rows of each split; the videos of the splits differ. No choice is made by the validation rows: the last step's
policy is the run's, so they serve as the held-out ones."""
TASK: tuple[str, ...] = ()
"""Options of `data_prep.synthetic` beside its defaults: eight scenes in random order, a pool of 128, needles of 2."""
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
STEPS = 80
TEST_EVERY = 20
SAVE_EVERY = 20

OPTIMISATION = (
    # At 5e-4 and without a KL term the noise of a few steps erased what the thoughts had been taught.
    "actor_rollout_ref.actor.optim.lr=3e-4",
    "critic.optim.lr=1e-3",
    "actor_rollout_ref.actor.use_kl_loss=true",
    "actor_rollout_ref.actor.kl_loss_coef=0.05",
    "actor_rollout_ref.actor.kl_loss_type=low_var_kl",
)
"""What a model of this size is trained with; the demo shares it."""
COMMON = (
    f"videomtr.episode.max_turns={MAX_TURNS}",
    f"videomtr.episode.frame_budget={FRAME_BUDGET}",
    "videomtr.episode.initial_frames=8",
    "videomtr.episode.pool_size=128",
    *OPTIMISATION,
)
"""Overrides of every run, beside paths, seeds and step counts."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the study."""

    overrides: tuple[str, ...]
    """Hydra overrides behind COMMON."""
    says: str
    """What it is, in words."""
    group_size: int = 1
    """Trajectories of one question; the step's trajectories stay BATCH."""
    base_options: tuple[str, ...] = ()
    """Options of `teach` for a base model other than the study's."""


NO_BONUS = "videomtr.bootstrap.enabled=false"
UNAIMED = ("--rate", "0.01", "--aim", "0")
SELDOM = ("--rate", "0.005")
REWARD = "+reward.custom_reward_function.reward_kwargs"

VARIANTS: dict[str, Variant] = {
    "full": Variant(overrides=(), says="the full method"),
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
    "single_turn": Variant(
        overrides=("videomtr.episode.max_turns=1", "videomtr.episode.initial_frames=null", NO_BONUS),
        says="PPO on one look at the whole frame budget",
    ),
    "plain_gae": Variant(overrides=("videomtr.credit.form=plain",), says="one GAE over all tokens"),
    "literal_credit": Variant(overrides=("videomtr.credit.form=literal",), says="credit by the paper's sentence"),
    "grpo": Variant(
        overrides=("algorithm.adv_estimator=grpo", "critic.enable=false", NO_BONUS),
        says="GRPO, eight trajectories a question, no critic, no bonus",
        group_size=8,
    ),
}

ORDER: tuple[tuple[str, int], ...] = (
    ("full", 0),
    ("single_turn", 0),
    ("no_bootstrapping", 0),
    ("no_gate", 0),
    ("no_turn_reward", 0),
    ("no_bootstrapping_rare", 0),
    ("no_bootstrapping_unaimed", 0),
    ("full_unaimed", 0),
    ("full", 1),
    ("single_turn", 1),
    ("no_gate", 1),
    ("no_bootstrapping", 1),
    ("plain_gae", 0),
    ("literal_credit", 0),
    ("no_bootstrapping_seldom", 0),
    ("full_seldom", 0),
    ("grpo", 0),
    ("no_turn_reward", 1),
)
"""(variant, seed) of every run of the sweep, most telling first."""


def run_name(variant: str, seed: int) -> str:
    return f"{variant}_seed{seed}"


def data_command(out: Path) -> list[str]:
    """Make videos and rows."""
    rows = [part for split, number in DATA_ROWS.items() for part in (f"--num-{split}", str(number))]
    return [sys.executable, "-m", "data_prep.synthetic", "--out", str(out), "--seed", str(DATA_SEED), *TASK, *rows]


def pools(data: Path) -> Path:
    """Where the decoded frames of the videos are, for all runs."""
    return data / "pools"


def pools_command(data: Path) -> list[str]:
    """Decode every candidate frame once; runs that fetch them a few at a time spend minutes on what takes seconds."""
    files = [str(data / f"{split}.parquet") for split in ("train", "val")]
    command = [sys.executable, "-m", "verl_videomtr.cli", "pools", *overrides_of("full", 0)]
    command += [f"videomtr.video.root={data.resolve()}", f"videomtr.video.cache.dir={pools(data).resolve()}"]
    return [*command, "--files", *files, "--workers", "2"]


def base_command(out: Path, options: Sequence[str] = ()) -> list[str]:
    """Make a base model; `options` are a variant's base_options."""
    command = [sys.executable, "-m", "recipes.learning_study.teach", "--base", "study", "--out", str(out)]
    return [*command, "--seed", str(BASE_SEED), *TASK, *options]


def overrides_of(variant: str, seed: int, *, steps: int = STEPS) -> list[str]:
    """The Hydra overrides that decide what a run learns: everything but paths and logging."""
    chosen = VARIANTS[variant]
    return [
        "+videomtr=paper",
        "+videomtr/device=cpu",
        "+videomtr/model=tiny",
        *COMMON,
        f"data.train_batch_size={BATCH // chosen.group_size}",
        f"actor_rollout_ref.rollout.n={chosen.group_size}",
        *seed_overrides(seed),
        f"trainer.total_training_steps={steps}",
        "trainer.total_epochs=1000",
        *chosen.overrides,
    ]


def seed_overrides(seed: int) -> list[str]:
    """Seed the order of rows, the sampling and the first weights of the critic's head."""
    keys = ("data.seed", "actor_rollout_ref.rollout.seed", "actor_rollout_ref.actor.data_loader_seed")
    keys += ("critic.data_loader_seed", "actor_rollout_ref.actor.fsdp_config.seed", "critic.fsdp.seed")
    return [f"{key}={seed}" for key in keys]


def run_command(
    overrides: Sequence[str], *, folder: Path, data: Path, base: Path, resume: bool, steps: int = STEPS
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
