# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a run needs, before it is launched: a run's sizes in, bytes, memory and time out.

Bytes and tokens are formulas that the tests hold against real frames and real episodes. Memory and time are estimates:
each says what it leaves out, and none has been compared with a GPU yet. docs/appendix/plan_formulas.md has them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from verl_videomtr.budget import RowSize
from verl_videomtr.model_shapes import ModelShape

GIB = 2**30

REPLY_FIELDS_BYTES = 8 * 3 + 4 * 2
"""Of one response token, as the agent loop stores it: responses, response_mask, loss_mask; log-probs and rewards."""
SEQUENCE_FIELDS_BYTES = 8 + 4 * 8
"""Of one token of the whole row: input_ids, and four rows of position ids."""
TRAINER_FIELDS_BYTES = 4 * 7
"""Of one response token, added by the trainer: two log-probs, values, scores, rewards, advantages, returns."""
FRAME_FIELDS_BYTES = 8 * 4
"""Of one frame: its grid (three numbers) and its length."""

SERVER_CACHE_GIB = 4.0
"""vLLM's cache of processed images, by default, in each of a server's two processes."""
SERVER_RESERVE_GIB = 3.0
"""Estimate: what a vLLM server takes beside weights and cache (activations of one batch, CUDA graphs)."""
CONTEXT_GIB = 2.0
"""Estimate: CUDA and NCCL in the training processes of one GPU."""
TRAIN_SHARE = 0.14
"""Measured: reached share of an H200's bf16 arithmetic in an update of the 3B through verl's FSDP engine, without
flash-attn and with float32 weights (docs/performance.md). With bf16 weights 0.25 to 0.32; flash-attn is not measured.
"""
PREFILL_SHARE, READ_SHARE = 0.5, 0.6
"""Estimates: reached share of a GPU's arithmetic in prefill, and of its memory's speed in decoding."""
PROCESSOR_SECONDS = 0.06 / 16 / (224 * 392)
"""Measured: one thread of a shared x86-64 core takes 60 ms to process 16 frames of 224 x 392; per pixel."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU's data sheet."""

    name: str
    memory_gib: float
    flops: float
    """Dense bf16 operations a second."""
    bytes_per_second: float
    """Of its memory."""


GPUS = {
    "a100": Gpu(name="A100 80 GB", memory_gib=79.2, flops=312e12, bytes_per_second=2.0e12),
    "h100": Gpu(name="H100 80 GB", memory_gib=79.2, flops=989e12, bytes_per_second=3.35e12),
    "h200": Gpu(name="H200 141 GB", memory_gib=139.8, flops=989e12, bytes_per_second=4.8e12),
    "l40s": Gpu(name="L40S 48 GB", memory_gib=44.5, flops=362e12, bytes_per_second=0.864e12),
}


FUSED_TOKENS = 512
"""Tokens of a piece of verl's fused head (FusedLinearForPPO)."""
LOGIT_COPIES, ENTROPY_COPIES, FUSED_COPIES = 5, 13, 14
"""Tensors (tokens, vocabulary) in bf16 that verl's code behind the head holds at once: without an entropy bonus, with
one, and of a piece of the fused head; counted in tests/verl_plugin/test_logit_memory.py."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How one model is trained under FSDP."""

    num_params: int
    num_trained: int
    """All of them, or the adapters alone."""
    bytes_per_param: int = 4
    """Of weights, gradients and each of Adam's two states: verl's model_dtype."""
    param_offload: bool = False
    """Weights and gradients lie on the host while the model is idle."""
    optimizer_offload: bool = False
    """Adam's states lie on the host while the model is idle."""
    tokens_per_gpu: int = 16384
    """Most tokens of a micro-batch on one GPU."""
    has_logits: bool = True
    """A policy has a number per word of the vocabulary for each token, a critic one."""
    num_logit_copies: int = LOGIT_COPIES
    fused_head: bool = False
    """The head and what follows are computed in pieces of FUSED_TOKENS tokens."""
    padded: bool = False
    """Rows of a micro-batch are as long as its longest."""
    gradient_checkpointing: bool = True
    activation_offload: bool = False
    """The layers' checkpointed inputs wait on the host."""

    @property
    def weight_bytes(self) -> int:
        return self.num_params * self.bytes_per_param

    @property
    def gradient_bytes(self) -> int:
        return self.num_trained * self.bytes_per_param

    @property
    def optimizer_bytes(self) -> int:
        return 2 * self.num_trained * self.bytes_per_param

    @property
    def idle_bytes(self) -> int:
        """What stays on the GPUs while another part of the step runs."""
        weights = 0 if self.param_offload else self.weight_bytes
        return weights + (0 if self.optimizer_offload else self.optimizer_bytes)

    @property
    def offloaded_bytes(self) -> int:
        """What lies on the hosts meanwhile."""
        return self.weight_bytes + self.optimizer_bytes - self.idle_bytes


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """What a plan needs to know of a run."""

    shape: ModelShape
    rows: tuple[RowSize, ...]
    """The training sequences of the longest episode."""
    num_frames: int
    """Frames that it shows; several of its rows may show one."""
    frame_tokens: int
    """Visual tokens of the largest frame."""
    max_turns: int
    max_response_tokens: int
    episodes_per_step: int
    """Questions of a step times episodes a question."""
    validation_episodes: int = 0
    """Of one batch of validation; all of them are stored at once."""
    checkpoints_kept: int | None = None
    """Checkpoints that stay on the disk; None keeps all."""
    nodes: int
    gpus_per_node: int
    sequence_parallel: int = 1
    fsdp_size: int = -1
    """GPUs that one copy of a model's states is divided among; -1 is all of them."""
    actor: Trained
    critic: Trained | None
    reference_bytes_per_param: int | None
    """None: no reference, or the actor without its adapters."""
    tensor_parallel: int = 1
    memory_share: float = 0.5
    """rollout.gpu_memory_utilization."""
    device_patches: bool = True
    """videomtr.device_patches: rows carry frames as bytes, each once, and not as float32 patches, each its own."""
    max_server_episodes: int = 256
    """rollout.max_num_seqs."""
    gpu: Gpu

    @property
    def frame_bytes(self) -> int:
        """Of the largest frame, as a row carries it."""
        of_frame = self.shape.frame_bytes if self.device_patches else self.shape.pixel_bytes_per_frame
        return of_frame(self.frame_tokens)

    @property
    def num_gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def data_parallel(self) -> int:
        """Ranks that a batch is divided among."""
        return max(1, self.num_gpus // self.sequence_parallel)

    @property
    def shards(self) -> int:
        """GPUs that one copy of a model's states is divided among."""
        return min(self.fsdp_size, self.num_gpus) if self.fsdp_size > 0 else self.num_gpus

    @property
    def episodes(self) -> int:
        """Episodes of a step, rounded up to what the ranks can share evenly."""
        return math.ceil(self.episodes_per_step / self.data_parallel) * self.data_parallel


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The numbers; bytes unless the name says otherwise."""

    tokens_per_episode: int
    """Of all its rows."""
    tokens_per_row: int
    """Of the longest."""
    frames_per_episode: int
    """Frames stored: patches of those that several rows show are stored with each."""
    pixel_bytes_per_episode: int
    other_bytes_per_episode: int
    stored_bytes_per_step: int
    stored_bytes_per_validation: int
    """Of one batch of validation."""
    checkpoint_bytes: int
    """Of one checkpoint: weights and optimizers of actor and critic."""
    disk_bytes: int | None
    """Of the checkpoints that are kept, and the one that is being written; None where all are kept."""
    host: dict[str, float]
    """Part -> bytes on one node."""
    actor_update: dict[str, float]
    """Part -> bytes on one GPU while the actor is trained."""
    critic_update: dict[str, float]
    """The same for the critic; empty without one."""
    rollout: dict[str, float]
    """The same while episodes are played."""
    kv_bytes_per_token: int
    kv_tokens: int
    """Tokens that one server's cache holds; 0 where the weights leave no room."""
    server_episodes: int
    """Longest episodes that one server can play at once."""
    seconds: dict[str, float]
    """Part of a step -> seconds."""

    @property
    def bytes_per_episode(self) -> int:
        return self.pixel_bytes_per_episode + self.other_bytes_per_episode

    @property
    def host_bytes(self) -> float:
        return sum(self.host.values())

    @property
    def gpu_bytes(self) -> float:
        """Of the fullest moment."""
        return max(sum(part.values()) for part in (self.actor_update, self.critic_update, self.rollout))

    @property
    def step_seconds(self) -> float:
        return sum(self.seconds.values())


def make_plan(run: PlannedRun) -> Plan:
    """Compute every number of a run."""
    shown = sum(row.num_frames for row in run.rows)
    frames = min(shown, run.num_frames) if run.device_patches else shown
    replies = sum(row.response_tokens for row in run.rows)
    tokens = sum(row.tokens for row in run.rows)
    pixels = frames * run.frame_bytes
    other = tokens * SEQUENCE_FIELDS_BYTES + sum(row.prompt_tokens for row in run.rows) * 8
    other += replies * (REPLY_FIELDS_BYTES + TRAINER_FIELDS_BYTES) + shown * FRAME_FIELDS_BYTES
    kv_tokens = _cache_tokens(run)
    longest = max(row.tokens for row in run.rows)
    servers = min(run.max_server_episodes, kv_tokens // longest)
    stored, validated = (number * (pixels + other) for number in (run.episodes, run.validation_episodes))
    checkpoint, kept = checkpoint_bytes(run), run.checkpoints_kept
    return Plan(
        tokens_per_episode=tokens,
        tokens_per_row=longest,
        frames_per_episode=frames,
        pixel_bytes_per_episode=pixels,
        other_bytes_per_episode=other,
        stored_bytes_per_step=stored,
        stored_bytes_per_validation=validated,
        checkpoint_bytes=checkpoint,
        disk_bytes=None if kept is None else checkpoint * (kept + 1),
        host=_host_parts(run, stored, validated),
        actor_update=_update_parts(run, run.actor, run.critic),
        critic_update=_update_parts(run, run.critic, run.actor) if run.critic else {},
        rollout=_rollout_parts(run),
        kv_bytes_per_token=run.shape.kv_bytes_per_token(),
        kv_tokens=kv_tokens,
        server_episodes=servers,
        seconds=_seconds(run, servers),
    )


def checkpoint_bytes(run: PlannedRun) -> int:
    """Weights and Adam's two states of every trained model, as FSDP's ranks write them."""
    trained = [run.actor] + ([run.critic] if run.critic else [])
    return sum(model.weight_bytes + model.optimizer_bytes for model in trained)


def _host_parts(run: PlannedRun, stored: int, validated: int) -> dict[str, float]:
    """What a step or a validation holds in one node's memory; Python, Ray and cached files come on top."""
    share = 1 / run.nodes
    states = run.gpus_per_node / run.shards
    parts = {
        "trajectories stored": stored * share,
        # Every rank of a sequence-parallel group fetches the whole of its group's share.
        "trajectories in the workers": stored * run.sequence_parallel * share,
        # Of validation nothing goes to the workers.
        "a batch of validation, beyond that": max(0, validated - stored * (1 + run.sequence_parallel)) * share,
        "servers' image caches, at most": 2 * SERVER_CACHE_GIB * GIB * run.num_gpus / run.tensor_parallel * share,
    }
    if run.reference_bytes_per_param is not None:
        parts["reference"] = run.actor.num_params * run.reference_bytes_per_param * states
    offloaded = run.actor.offloaded_bytes + (run.critic.offloaded_bytes if run.critic else 0)
    if offloaded:
        parts["offloaded states"] = offloaded * states
    return {name: size for name, size in parts.items() if size}


def _update_parts(run: PlannedRun, trained: Trained, idle: Trained | None) -> dict[str, float]:
    """Of one GPU while one model is trained: its states in shards, the layer at work in full, and who waits beside.

    The paper's 7B run on 8 GPUs: 8.29e9 parameters of 4 bytes in 8 shards are 3.9 GiB of weights, as much of gradients,
    twice as much of Adam; the same states of the critic wait beside them, less the gradients.
    """
    shard = 1 / run.shards
    parts = {
        "weights": trained.weight_bytes * shard,
        "gradients": trained.gradient_bytes * shard,
        "optimizer": trained.optimizer_bytes * shard,
    }
    passes = {"gathered weights": _gathered_bytes(run.shape), "activations": _activation_bytes(run, trained)}
    if trained.has_logits:  # (tokens, vocabulary) in bf16, for the whole micro-batch at once unless fused
        tokens = _micro_batch_tokens(run, trained)
        tokens = min(tokens, FUSED_TOKENS) if trained.fused_head else tokens
        passes["logits"] = tokens * run.shape.vocab * 2.0 * trained.num_logit_copies
    # torch's AdamW steps over all tensors at once: the roots of its second moments are one more copy of the weights.
    step = {"the optimizer's step": trained.gradient_bytes * shard}
    parts |= passes if sum(passes.values()) > sum(step.values()) else step
    if idle is not None:
        parts["the other model, idle"] = idle.idle_bytes * shard
    parts["contexts"] = CONTEXT_GIB * GIB
    return parts


def _rollout_parts(run: PlannedRun) -> dict[str, float]:
    idle = run.actor.idle_bytes + (run.critic.idle_bytes if run.critic else 0)
    return {
        "server": run.memory_share * run.gpu.memory_gib * GIB,
        "models, idle": idle / run.shards,
        "contexts": CONTEXT_GIB * GIB,
    }


def _gathered_bytes(shape: ModelShape) -> float:
    """FSDP's whole tensors at one moment: the outermost unit (embedding, head), and two layers; bf16."""
    layer = (shape.num_language_params - shape.vocab * shape.hidden) / shape.layers
    return 2.0 * (shape.vocab * shape.hidden + shape.num_head_params + 2 * layer)


def _micro_batch_tokens(run: PlannedRun, trained: Trained) -> float:
    """Tokens of the fullest micro-batch on one GPU, padding counted."""
    per_rank = run.episodes / run.data_parallel * sum(row.tokens for row in run.rows) / run.sequence_parallel
    if not trained.padded:
        return min(trained.tokens_per_gpu, per_rank)
    # verl fills a micro-batch by real tokens: at worst one row is the longest, and the others answered at once.
    longest = max(row.tokens for row in run.rows)
    shortest = run.rows[0].prompt_tokens + run.max_response_tokens
    return min(longest * (1 + max(0, trained.tokens_per_gpu - longest) // shortest), per_rank)


def _activation_bytes(run: PlannedRun, trained: Trained) -> float:
    """With gradient checkpointing: the input of every layer, and all that one layer computes, there and back; bf16.

    The language model's are divided by sequence parallelism. The vision tower's are not: every rank of the group sees
    all images.
    """
    shape, tokens = run.shape, _micro_batch_tokens(run, trained)
    longest = max(run.rows, key=lambda row: row.tokens)
    images = tokens * run.sequence_parallel / longest.tokens * longest.num_frames
    patches = images * run.frame_tokens * shape.merge**2
    language = _layer_bytes(tokens, shape.hidden, shape.heads * shape.head_dim, shape.intermediate)
    vision = _layer_bytes(patches, shape.vision_hidden, shape.vision_hidden, shape.vision_intermediate)
    if not trained.gradient_checkpointing:
        return ((shape.layers + 1) * language + (shape.vision_layers + 1) * vision) / 2
    inputs = 2.0 * (shape.layers * tokens * shape.hidden + shape.vision_layers * patches * shape.vision_hidden)
    # The towers run one after the other, forward and back: only the larger one's layer counts.
    return max(language, vision) + (0.0 if trained.activation_offload else inputs)


def _layer_bytes(tokens: float, hidden: int, attention: int, wide: int) -> float:
    """Norms, queries, keys, values, output and the three tensors of the gated layer, once forward and once back."""
    return 2 * 2.0 * tokens * (4 * hidden + 4 * attention + 3 * wide)


def _cache_tokens(run: PlannedRun) -> int:
    """Tokens that the key-value cache of one server holds."""
    each = run.memory_share * run.gpu.memory_gib - SERVER_RESERVE_GIB
    room = each * GIB * run.tensor_parallel - 2 * run.shape.num_params
    heads = max(1.0, run.tensor_parallel / run.shape.kv_heads)  # more GPUs than heads hold copies
    return max(0, int(room / (run.shape.kv_bytes_per_token() * heads)))


def _forward_flops(run: PlannedRun) -> float:
    """Of one episode: two operations a parameter and token or patch, and causal attention."""
    shape, total = run.shape, 0.0
    for row in run.rows:
        dense = 2 * shape.num_language_params  # looking up embeddings is free, the head is not: as many numbers
        attention = 2 * shape.layers * shape.heads * shape.head_dim * row.tokens
        patches = row.num_frames * run.frame_tokens * shape.merge**2
        total += row.tokens * (dense + attention) + patches * 2 * shape.num_vision_params
    return total


def _seconds(run: PlannedRun, server_episodes: int) -> dict[str, float]:
    """The parts of a synchronous step, longest episodes throughout; weight transfer and decoding are left out."""
    forward = _forward_flops(run) * run.episodes / (run.num_gpus * run.gpu.flops * TRAIN_SHARE)
    servers = max(1, run.num_gpus // run.tensor_parallel)
    # More episodes than the cache has room for are played one wave after the other.
    per_server = math.ceil(run.episodes / servers)
    waves = math.ceil(per_server / max(1, server_episodes))
    # For every token that is decoded a GPU reads its weights once, and the cache of each episode it plays: on average
    # half of what that holds in the end. What the episodes share is the weights, so many at once cost little more.
    read = 2 * run.shape.num_params / run.tensor_parallel
    read += min(per_server, max(1, server_episodes)) * run.rows[0].tokens * run.shape.kv_bytes_per_token() / 2
    replies = run.max_turns * run.max_response_tokens
    pixels = sum(row.num_frames for row in run.rows) * run.frame_tokens * run.shape.factor_px**2
    parts = {
        "images on the hosts' CPUs": (1 if run.device_patches else 2)
        * pixels
        * PROCESSOR_SECONDS
        * run.episodes
        / run.num_gpus,
        "prefill": forward * TRAIN_SHARE / PREFILL_SHARE,
        "decoding": waves * replies * read / (run.gpu.bytes_per_second * READ_SHARE),
        "log-probabilities": forward,
        "actor update": 4 * forward,
    }
    if run.reference_bytes_per_param is not None or run.actor.num_trained < run.actor.num_params:
        parts["reference"] = forward
    if run.critic:
        parts["values"] = forward
        parts["critic update"] = 4 * forward
    return parts
