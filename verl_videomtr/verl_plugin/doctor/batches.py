# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Do the batches divide over the GPUs? Rows of a step, mini-batches, micro-batches, sequence and tensor parallelism.

A step has train_batch_size * rollout.n trajectories. verl pads its rows to a multiple of both mini-batches and of the
actor's data-parallel ranks, hands each rank an equal part, and cuts that into micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from omegaconf import OmegaConf

from verl_videomtr.budget import round_up
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, counted, error, note, ok, warning
from verl_videomtr.verl_plugin.mini_batches import row_multiple
from verl_videomtr.verl_plugin.ranks import common_ranks

MOST_PADDING = 0.25
"""A larger share of padding rows in a step is worth a word."""


def check_batches(case: Case) -> Iterator[Finding]:
    """Everything that must divide, does."""
    if not case.is_fsdp:
        yield note("batches", f"actor.strategy={case.get('actor_rollout_ref.actor.strategy')}: only FSDP is checked")
        return
    found = [*_parallelism(case)]
    if not found:  # ranks are not known before that
        found = [*_mini_batches(case), *_micro_batches(case), *_roles(case)] or [*_padding(case)]
    yield from found
    if not any(finding.level.value == "error" for finding in found):
        rows = case.config.data.train_batch_size * case.rollout.n
        yield ok("batches", f"{rows} trajectories a step, {counted(case.num_gpus, 'GPU')}")


def _parallelism(case: Case) -> Iterator[Finding]:
    gpus = case.num_gpus
    names = {
        "actor": "actor_rollout_ref.actor.ulysses_sequence_parallel_size",
        "ref": "actor_rollout_ref.ref.ulysses_sequence_parallel_size",
        "critic": "critic.fsdp.ulysses_sequence_parallel_size",
    }
    for role, size in case.sequence_parallel.items():
        if gpus % size:
            yield error(
                "batches.sp",
                f"{names[role]}={size} does not divide {gpus} GPUs",
                why=f"the {role} cannot lay out its ranks: its worker fails when it makes its device mesh",
                overrides=[f"{names[role]}={_largest_divisor(gpus, size)}"],
            )
    engine = int(case.rollout.tensor_model_parallel_size) * int(case.rollout.data_parallel_size)
    if gpus % engine and case.get("actor_rollout_ref.hybrid_engine", True):
        yield error(
            "batches.tp",
            f"rollout.tensor_model_parallel_size * data_parallel_size={engine} does not divide {gpus} GPUs",
            why="verl's workers assert it when they build the rollout engine",
            overrides=[f"actor_rollout_ref.rollout.tensor_model_parallel_size={_largest_divisor(gpus, engine)}"],
        )


def _mini_batches(case: Case) -> Iterator[Finding]:
    for role, key in (("actor", "actor_rollout_ref.actor"), ("critic", "critic")):
        if role not in case.sequence_parallel or case.follows(f"{key}.ppo_mini_batch_size"):
            continue
        ranks = case.num_gpus // case.sequence_parallel[role]
        size = int(case.get(f"{key}.ppo_mini_batch_size")) * int(case.rollout.n)
        if size % ranks:
            step = ranks // math.gcd(ranks, int(case.rollout.n))
            yield error(
                "batches.mini",
                f"{key}.ppo_mini_batch_size * rollout.n = {size} does not divide over {ranks} data-parallel ranks",
                why=f"the {role}'s first update fails in train_mini_batch, after a whole rollout",
                overrides=[f"{key}.ppo_mini_batch_size={round_up(int(case.get(f'{key}.ppo_mini_batch_size')), step)}"],
            )


def _micro_batches(case: Case) -> Iterator[Finding]:
    """Fixed micro-batches; those filled by tokens are judged by their length (lengths.micro)."""
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    dynamic = bool(case.get(f"{actor}.use_dynamic_bsz"))
    if dynamic != bool(case.get(f"{rollout}.log_prob_use_dynamic_bsz")):
        yield error(
            "batches.micro",
            f"{actor}.use_dynamic_bsz={dynamic} with {rollout}.log_prob_use_dynamic_bsz={not dynamic}",
            why="verl's workers assert that they are the same when they build the actor",
            overrides=[f"{rollout}.log_prob_use_dynamic_bsz={str(dynamic).lower()}"],
        )
        return
    ranks = case.num_gpus // case.sequence_parallel["actor"]
    multiple = step_multiple(case)
    rows = round_up(int(case.config.data.train_batch_size) * int(case.rollout.n), multiple)
    cuts = []
    if not dynamic:
        mini = int(case.get(f"{actor}.ppo_mini_batch_size")) * int(case.rollout.n)
        cuts.append((f"{actor}.ppo_micro_batch_size_per_gpu", mini // ranks, "the actor's first update"))
        cuts.append((f"{rollout}.log_prob_micro_batch_size_per_gpu", rows // ranks, "the first old log-probabilities"))
    if "ref" in case.sequence_parallel and not case.get("actor_rollout_ref.ref.log_prob_use_dynamic_bsz"):
        ref_ranks = case.num_gpus // case.sequence_parallel["ref"]
        key = "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu"
        cuts.append((key, rows // ref_ranks, "the first reference log-probabilities"))
    for key, num_rows, where in cuts:
        size = case.get(key)
        if size is None:
            yield error(
                "batches.micro",
                f"{key} is not set, and micro-batches are not filled by tokens",
                why="verl's workers need it where they build the models, and take no value without `_per_gpu`",
                overrides=[f"{actor}.use_dynamic_bsz=true"],
                advice=f"or {key}=1",
            )
        elif num_rows % int(size):
            yield error(
                "batches.micro",
                f"{key}={size} does not divide the {num_rows} rows that a rank gets",
                why=f"{where} fail in prepare_micro_batches ('data size must be divisible')",
                overrides=[f"{key}={_largest_divisor(num_rows, int(size))}"],
                advice=f"or {actor}.use_dynamic_bsz=true",
            )


def _roles(case: Case) -> Iterator[Finding]:
    """verl's own trainers pad for the actor's ranks; another model may have more of them."""
    multiple = step_multiple(case)
    for role, size in case.sequence_parallel.items():
        shares = case.num_gpus // size
        if multiple % shares:
            yield error(
                "batches.roles",
                f"the rows of a step are a multiple of {multiple}, the {role} divides them among {shares} ranks",
                why="verl asserts it when it hands them out, after a whole rollout",
                overrides=[f"trainer.v1.trainer_mode=video_mtr_{case.get('trainer.v1.trainer_mode')!s}"],
                advice="which pads for all",
            )


def _padding(case: Case) -> Iterator[Finding]:
    rows = int(case.config.data.train_batch_size) * int(case.rollout.n)
    padded = round_up(rows, step_multiple(case))
    if (padded - rows) / padded > MOST_PADDING:
        yield warning(
            "batches.padding",
            f"{rows} trajectories a step are padded to {padded} rows",
            why="verl pads to a multiple of the mini-batches and ranks; padding trains nothing, costs a forward pass "
            "each, and thins out the mini-batches",
            overrides=[f"actor_rollout_ref.actor.ppo_mini_batch_size={case.config.data.train_batch_size}"],
            advice="which the critic's follows",
        )


def step_multiple(case: Case) -> int:
    """What the rows of a step are padded to a multiple of (VideoMTRMixin._get_required_batch_multiple)."""
    sections = ["actor_rollout_ref.actor"] + (["critic"] if case.has_critic else [])
    mode = str(case.get("trainer.v1.trainer_mode"))
    is_own = mode.startswith("video_mtr_")
    multiple = case.num_gpus // case.sequence_parallel["actor"]
    if is_own:
        multiple = common_ranks(case.config, num_gpus=case.num_gpus)
    if is_own and case.settings.episode.slides:
        roles = [OmegaConf.select(case.config, section) for section in sections]
        return row_multiple(case.config, roles, dp_size=multiple, base_mode=mode.removeprefix("video_mtr_"))
    for section in sections:
        multiple = math.lcm(multiple, int(case.get(f"{section}.ppo_mini_batch_size")) * int(case.rollout.n))
    return multiple


def _largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` up to `most`."""
    return next(size for size in range(min(most, number), 0, -1) if number % size == 0)
