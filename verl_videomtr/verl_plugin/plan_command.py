# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`videomtr plan`: what a launch would need, from its overrides alone. No Ray, no weights.

videomtr plan +videomtr/recipe=paper videomtr/budget=b64
videomtr plan +videomtr/recipe=paper --table
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from verl_videomtr.budget import largest_frame_tokens, most_frames, worst_rows
from verl_videomtr.model_shapes import ModelShape, find_shape
from verl_videomtr.planner import (
    ENTROPY_COPIES,
    FUSED_COPIES,
    GIB,
    GPUS,
    LOGIT_COPIES,
    Gpu,
    Plan,
    PlannedRun,
    Trained,
    make_plan,
)
from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin.compose import ComposeError, compose

DEFAULT = ["+videomtr/recipe=paper"]
BUDGETS = (32, 64, 80, 128, 256, 512)
NODES = (1, 2, 4, 8, 16, 32, 64)
ESTIMATES = ("host", "actor_update", "critic_update", "rollout", "kv_tokens", "server_episodes", "seconds")
"""Fields of a plan that no one has measured; the others are formulas that tests hold."""
BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help=f"as for verl.trainer.main_ppo (default: {' '.join(DEFAULT)})"
    )
    parser.add_argument("--gpu", choices=sorted(GPUS), default="a100", help="the GPU to plan for (default: a100)")
    parser.add_argument("--table", action="store_true", help=f"budgets {BUDGETS[0]} to {BUDGETS[-1]}, 1 to 64 nodes")
    parser.add_argument("--json", action="store_true", help="numbers in bytes and seconds, as JSON")


def run(args: argparse.Namespace) -> int:
    """Plan and print.

    Raises:
        ValueError: the overrides do not compose, or the model's sizes are not known.
    """
    overrides, gpu = args.overrides or DEFAULT, GPUS[args.gpu]
    if args.table:
        runs = list(table_runs(overrides, gpu=gpu))
        plans = [(budget, each, make_plan(each)) for budget, each in runs]
        if args.json:
            rows = [{"frame_budget": budget, "nodes": r.nodes, **_plain(r, p)} for budget, r, p in plans]
            text = json.dumps(rows, indent=1)
        else:
            text = render_table(plans)
    else:
        config = compose(overrides)
        shape, where = find_shape(str(config.actor_rollout_ref.model.path))
        planned = read_run(config, shape=shape, gpu=gpu)
        plan = make_plan(planned)
        text = json.dumps(_plain(planned, plan), indent=1) if args.json else render(planned, plan, where=where)
    sys.stdout.write(text + "\n")
    return 0


def read_run(config: DictConfig, *, shape: ModelShape, gpu: Gpu) -> PlannedRun:
    """Take what a plan needs from a composed configuration.

    Raises:
        ValueError: the `videomtr` part is missing or wrong.
    """
    settings = load_settings(config)
    pool = settings.video.pool
    policy = config.actor_rollout_ref
    frame_tokens = largest_frame_tokens(pool)
    rows = worst_rows(settings.episode, frame_tokens=frame_tokens, max_response_tokens=settings.max_response_tokens)
    rank = int(OmegaConf.select(policy, "model.lora.rank") or policy.model.get("lora_rank") or 0)
    has_reference = bool(config.algorithm.use_kl_in_reward or policy.actor.use_kl_loss)
    return PlannedRun(
        shape=shape,
        rows=tuple(rows),
        num_frames=most_frames(settings.episode),
        frame_tokens=frame_tokens,
        max_turns=settings.episode.max_turns,
        max_response_tokens=settings.max_response_tokens,
        episodes_per_step=int(config.data.train_batch_size) * int(policy.rollout.n),
        validation_episodes=_validation_rows(config) * int(policy.rollout.val_kwargs.n),
        checkpoints_kept=config.trainer.max_actor_ckpt_to_keep,
        nodes=int(config.trainer.nnodes),
        gpus_per_node=int(config.trainer.n_gpus_per_node),
        sequence_parallel=max(
            int(policy.actor.ulysses_sequence_parallel_size),
            int(policy.actor.fsdp_config.ulysses_sequence_parallel_size),
        ),
        fsdp_size=int(policy.actor.fsdp_config.fsdp_size),
        actor=_actor(policy, shape=shape, rank=rank),
        critic=_critic(config, shape=shape),
        reference_bytes_per_param=_bytes(policy.ref.fsdp_config) if has_reference and not rank else None,
        tensor_parallel=int(policy.rollout.tensor_model_parallel_size),
        memory_share=float(policy.rollout.gpu_memory_utilization),
        device_patches=settings.device_patches,
        max_server_episodes=int(policy.rollout.max_num_seqs),
        gpu=gpu,
    )


def _validation_rows(config: DictConfig) -> int:
    """Rows of a batch of validation; 0 where that is the whole file, and the file is not here."""
    if config.data.val_batch_size is not None:
        return int(config.data.val_batch_size)
    files = config.data.val_files
    names = [files] if isinstance(files, str) else list(files or [])
    here = [name for name in map(str, names) if Path(name).expanduser().is_file()]
    return sum(pq.read_metadata(Path(name).expanduser()).num_rows for name in here)


def _actor(policy: DictConfig, *, shape: ModelShape, rank: int) -> Trained:
    adapters, fused = shape.num_lora_params(rank), bool(policy.model.use_fused_kernels)
    has_entropy = policy.actor.entropy_coeff or policy.actor.calculate_entropy
    return Trained(
        num_params=shape.num_params + adapters,
        num_trained=adapters or shape.num_params,
        bytes_per_param=_bytes(policy.actor.fsdp_config),
        param_offload=bool(policy.actor.fsdp_config.param_offload),
        optimizer_offload=bool(policy.actor.fsdp_config.optimizer_offload),
        tokens_per_gpu=int(policy.actor.ppo_max_token_len_per_gpu),
        num_logit_copies=FUSED_COPIES if fused else ENTROPY_COPIES if has_entropy else LOGIT_COPIES,
        fused_head=fused,
        **_activations(policy.model),
    )


def _critic(config: DictConfig, *, shape: ModelShape) -> Trained | None:
    if not config.critic.enable:
        return None
    return Trained(
        num_params=shape.num_value_params,
        num_trained=shape.num_value_params,
        bytes_per_param=_bytes(config.critic.fsdp),
        param_offload=bool(config.critic.fsdp.param_offload),
        optimizer_offload=bool(config.critic.fsdp.optimizer_offload),
        tokens_per_gpu=int(config.critic.get("ppo_infer_max_token_len_per_gpu", 32768)),
        has_logits=False,
        **_activations(config.critic.model),
    )


def _activations(model: DictConfig) -> dict[str, bool]:
    return {
        "gradient_checkpointing": bool(model.enable_gradient_checkpointing),
        "activation_offload": bool(model.enable_activation_offload),
        "padded": not model.use_remove_padding,
    }


def _bytes(engine: Any) -> int:
    return BYTES.get(str(engine.get("model_dtype") or "fp32"), 4)


def table_runs(overrides: Sequence[str], *, gpu: Gpu) -> Iterator[tuple[int, PlannedRun]]:
    """Every budget's group in place of the one chosen, on every number of nodes."""
    shape = None
    for budget in BUDGETS:
        config = _with_budget(overrides, budget)
        if shape is None:
            shape, _ = find_shape(str(config.actor_rollout_ref.model.path))
        planned = read_run(config, shape=shape, gpu=gpu)
        for nodes in NODES:
            yield budget, dataclasses.replace(planned, nodes=nodes)


def _with_budget(overrides: Sequence[str], budget: int) -> DictConfig:
    others = [override for override in overrides if not override.lstrip("+").startswith("videomtr/budget=")]
    try:
        return compose([*others, f"videomtr/budget=b{budget}"])
    except ComposeError:
        return compose([*others, f"+videomtr/budget=b{budget}"])


def render(run: PlannedRun, plan: Plan, *, where: str) -> str:
    """Describe one run in lines."""
    row, shape = run.rows[0], run.shape
    lines = [
        f"{shape.num_params / 1e9:.2f}B parameters ({where}), {run.num_gpus} x {run.gpu.name} on {run.nodes} node(s)",
        *(f"Not known of a {shape.family} model: {doubt}." for doubt in shape.doubts),
        "",
        f"The longest episode (formula): {run.max_turns} turns",
        _line("tokens", f"{plan.tokens_per_episode:,}", f"{len(run.rows)} row(s); first {row.prompt_tokens:,} + "
              f"{row.response_tokens:,}"),
        _line("frames", f"{plan.frames_per_episode:,}", f"at most {run.frame_tokens} visual tokens each"),
        _line("pixel tensors", _size(plan.pixel_bytes_per_episode),
              f"{_size(run.frame_bytes)} a frame, {'bytes' if run.device_patches else 'float32 patches'}"),
        _line("other tensors", _size(plan.other_bytes_per_episode), "ids, masks, positions, log-probs, values"),
        _line("key-value cache", _size(plan.tokens_per_row * plan.kv_bytes_per_token),
              f"{plan.kv_bytes_per_token:,} B a token, bf16"),
        "",
        f"A step of {run.episodes} episodes (formula)" + _rounding(run),
        _line("through the data plane", _size(plan.stored_bytes_per_step), ""),
        _line("a batch of validation", *_validation(run, plan)),
        "",
        "The disk (formula)",
        _line("a checkpoint", _size(plan.checkpoint_bytes), "weights and optimizers"),
        _line("checkpoints in all", "no bound" if plan.disk_bytes is None else _size(plan.disk_bytes),
              "set trainer.max_actor_ckpt_to_keep and max_critic_ckpt_to_keep" if plan.disk_bytes is None else
              f"{run.checkpoints_kept} are kept, one is being written"),
        "",
        f"Host memory of a node (estimate): {_gib(plan.host_bytes)}",
        *_parts(plan.host),
        "",
        f"One GPU of {run.gpu.memory_gib:.0f} GiB (estimates), fullest moment: {_gib(plan.gpu_bytes)}"
        + (" - does not fit" if plan.gpu_bytes > run.gpu.memory_gib * GIB else ""),
    ]  # fmt: skip
    for title, parts in (
        ("actor update", plan.actor_update),
        ("critic update", plan.critic_update),
        ("rollout", plan.rollout),
    ):
        if parts:
            lines += [f"  {title}: {_gib(sum(parts.values()))}", *(f"  {line}" for line in _parts(parts))]
    lines += [
        "",
        f"A server of {run.tensor_parallel} GPU(s) (estimate): room for {plan.kv_tokens:,} tokens, "
        f"{plan.server_episodes} of the longest episodes at once",
        *([] if plan.server_episodes else ["  none fits: raise gpu_memory_utilization or tensor_model_parallel_size"]),
        "",
        f"Time of a step (estimate, longest episodes throughout): {plan.step_seconds:.0f} s",
        *(_line(name, f"{seconds:.1f} s", f"{seconds / plan.step_seconds:.0%}") for name, seconds in
          sorted(plan.seconds.items(), key=lambda item: -item[1])),
    ]  # fmt: skip
    return "\n".join(lines)


def _validation(run: PlannedRun, plan: Plan) -> tuple[str, str]:
    if not run.validation_episodes:
        return "not known", "the whole file at once: set data.val_batch_size"
    return _size(plan.stored_bytes_per_validation), f"{run.validation_episodes} episodes, in memory at once"


def render_table(plans: Sequence[tuple[int, PlannedRun, Plan]]) -> str:
    """A line for each budget and number of nodes, in Markdown."""
    _, first, _ = plans[0]
    lines = [
        f"{first.shape.num_params / 1e9:.2f}B parameters, nodes of {first.gpus_per_node} x {first.gpu.name}. Formulas: "
        "tokens, MB. Estimates: GiB, episodes, seconds.",
        "",
        "| frames | nodes | tokens of an episode | MB of an episode | episodes of a step | host GiB of a node "
        "| GPU GiB, fullest | fits | episodes a server | s of a step |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for budget, run, plan in plans:
        fits = plan.gpu_bytes <= run.gpu.memory_gib * GIB and plan.server_episodes > 0
        cells = (
            budget, run.nodes, f"{plan.tokens_per_episode:,}", f"{plan.bytes_per_episode / 1e6:.0f}",
            f"{run.episodes}" + ("*" if run.episodes != run.episodes_per_step else ""),
            f"{plan.host_bytes / GIB:.0f}", f"{plan.gpu_bytes / GIB:.0f}", "yes" if fits else "no",
            plan.server_episodes, f"{plan.step_seconds:.0f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if any(run.episodes != run.episodes_per_step for _, run, _ in plans):
        lines += ["", "\\* the batch raised to what so many GPUs can share evenly"]
    return "\n".join(lines)


def _plain(run: PlannedRun, plan: Plan) -> dict[str, Any]:
    return {
        "gpu": run.gpu.name,
        "num_gpus": run.num_gpus,
        "episodes_per_step": run.episodes,
        "num_params": run.shape.num_params,
        "doubts": list(run.shape.doubts),
        **dataclasses.asdict(plan),
        "fits": plan.gpu_bytes <= run.gpu.memory_gib * GIB and plan.server_episodes > 0,
        "estimates": [*ESTIMATES, "fits"],
    }


def _rounding(run: PlannedRun) -> str:
    if run.episodes == run.episodes_per_step:
        return ""
    return f"; {run.episodes_per_step} do not divide evenly among {run.data_parallel} ranks"


def _line(name: str, value: str, note: str) -> str:
    return f"  {name:<34}{value:>12}  {note}".rstrip()


def _parts(parts: dict[str, float]) -> list[str]:
    return [_line(name, _gib(size), "") for name, size in sorted(parts.items(), key=lambda item: -item[1])]


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
