# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Lengths: each finding beside the episode, or the code of verl and vLLM, that runs into the limit; then fixed."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from doctor_setting import ACTOR, REF, ROLLOUT, bad, only

from verl_videomtr.budget import Needs, RowSize
from verl_videomtr.episode import StopReason
from verl_videomtr.prompts import Prompts
from verl_videomtr.sample import question_text
from verl_videomtr.verl_plugin.doctor import agreement, lengths
from verl_videomtr.verl_plugin.doctor.findings import Level

pytest_plugins = ["doctor_setting"]


# Lengths. An episode is really played, with a stand-in for the server that answers as long and as often as it may.


class FullLengthEngine:
    """Answers with a retrieval of everything, as long as it is allowed to."""

    def __init__(self, tokenizer, last_index, length):
        self.tokenizer, self.length = tokenizer, length
        encode = tokenizer.encode
        self.head, self.filler = encode("<think>"), encode("0")
        self.tail = [*encode(f"</think><retrieve>0,{last_index}</retrieve>"), tokenizer.eos_token_id]

    async def generate(self, *, request_id, prompt_ids, sampling_params, image_data):
        room = min(self.length, sampling_params["max_tokens"]) - len(self.head) - len(self.tail)
        ids = [*self.head, *self.filler * room, *self.tail][: sampling_params["max_tokens"]]
        return SimpleNamespace(
            token_ids=ids, log_probs=[0.0] * len(ids), num_preempted=None, extra_fields={}, stop_reason="completed"
        )


def play(case, *, length=None):
    """Play the agent loop's own episode on the first video; return the finished episode and its segments."""
    from verl_videomtr.rollout import open_episode
    from verl_videomtr.rollout import play as play_out
    from verl_videomtr.verl_plugin.doctor.rendering import Renderer
    from verl_videomtr.verl_plugin.token_policy import TokenLimits, TokenPolicy
    from verl_videomtr.verl_plugin.turn_end import read_turn_end
    from verl_videomtr.video.service import FrameService

    sample = max(case.samples["train"], key=lambda sample: len(question_text(sample)))
    settings = case.settings

    async def run():
        frames = FrameService(config=settings.video.pool)
        try:
            rollout = await open_episode(
                sample,
                config=settings.episode,
                prompts=Prompts.load(settings.prompts),
                frames=frames,
                root=settings.video.root,
            )
            last_index = len(rollout.episode.times_seconds) - 1
            server = FullLengthEngine(case.model.tokenizer, last_index, length or settings.max_response_tokens)
            policy = TokenPolicy(
                generate=server.generate,
                builder=Renderer(case).builder,
                tokenizer=case.model.tokenizer,
                turn_end=read_turn_end(case.model.tokenizer, case.model.processor),
                as_sent=lambda ids, images: ids,
                limits=TokenLimits(
                    response=settings.max_response_tokens,
                    segment_prompt=case.rollout.prompt_length,
                    segment_response=case.rollout.response_length,
                    context=case.rollout.max_model_len,
                ),
                sampling_params={},
                system_text=rollout.episode.system_text,
                sends_arrays=True,
            )
            await play_out(rollout, policy)
            return SimpleNamespace(episode=rollout.episode, segments=policy.segments)
        finally:
            frames.close()

    return asyncio.run(run())


SLIDING = ["videomtr.episode.max_turns=4", "videomtr.episode.window=1", "videomtr.episode.retrieval_frames=2"]


@pytest.mark.parametrize("overrides", [[], SLIDING, ["videomtr.episode.max_turns=5", "videomtr.episode.window=4"]])
def test_needs_are_those_of_a_played_episode(measured, overrides):
    case = measured(*overrides)
    played = play(case)
    assert played.episode.stop_reason is StopReason.TURN_LIMIT
    rows = [
        RowSize(
            prompt_tokens=row.num_prompt_tokens,
            response_tokens=len(row.mask),
            num_frames=len(row.images),
        )
        for row in played.segments
    ]
    real, needs = Needs.of(rows), lengths.episodes(case).usual
    for name in ("prompt_tokens", "response_tokens", "row_tokens"):
        # Never too few; a few too many, as an announcement is counted at its longest.
        assert 0 <= getattr(needs, name) - getattr(real, name) <= 0.2 * getattr(real, name) + 4, name
    assert needs.num_frames == real.num_frames


def test_an_overview_that_does_not_fit_the_prompt(measured):
    fault = ["data.max_prompt_length=40"]
    case = measured(*fault)
    finding = only(lengths.check_lengths(case), "lengths.prompt")
    with pytest.raises(ValueError, match="the overview takes"):
        play(case)
    fixed = measured(*fault, *finding.overrides)
    assert not bad(lengths.check_lengths(fixed))
    assert play(fixed).episode.stop_reason is StopReason.TURN_LIMIT


def test_without_the_model_s_files_only_what_is_sure_is_an_error(composed):
    case = composed.case("videomtr.episode.frame_budget=128", "data.max_prompt_length=512")
    assert case.measured is None
    # 64 frames of one token each fit; with the 20 and 600 tokens of text that are assumed they do not.
    assert "by formula" in only(lengths.check_lengths(case), "lengths.prompt", Level.WARNING).what
    case = composed.case("videomtr.episode.frame_budget=128", "data.max_prompt_length=63")
    only(lengths.check_lengths(case), "lengths.prompt")


def test_frames_of_an_unusual_shape_that_would_not_fit_are_a_warning(measured, healthy):
    case = measured("data.max_prompt_length=256")
    case.measured = dataclasses.replace(healthy.measured, largest_frame=100)
    assert only(lengths._prompt(case, lengths.episodes(case)), "lengths.prompt", Level.WARNING)


def test_observations_that_outgrow_the_response(measured):
    fault = ["data.max_response_length=60"]
    case = measured(*fault)
    finding = only(lengths.check_lengths(case), "lengths.response")
    assert play(case, length=12).episode.stop_reason is StopReason.LENGTH_LIMIT
    fixed = measured(*fault, *finding.overrides)
    assert not bad(lengths.check_lengths(fixed))
    assert play(fixed).episode.stop_reason is StopReason.TURN_LIMIT


def test_long_responses_that_outgrow_their_limit_are_a_warning(measured):
    fault = ["videomtr.max_response_tokens=30", "data.max_response_length=168"]
    case = measured(*fault)
    finding = only(lengths.check_lengths(case), "lengths.response", Level.WARNING)
    assert play(case, length=30).episode.stop_reason is StopReason.LENGTH_LIMIT
    assert play(case, length=12).episode.stop_reason is StopReason.TURN_LIMIT
    fixed = measured(*fault, *finding.overrides)
    assert not bad(lengths.check_lengths(fixed))
    assert play(fixed, length=30).episode.stop_reason is StopReason.TURN_LIMIT


def test_a_context_that_ends_too_soon(measured):
    fault = [f"{ROLLOUT}.max_model_len=120"]
    case = measured(*fault)
    finding = only(lengths.check_lengths(case), "lengths.model")
    assert play(case, length=12).episode.stop_reason is StopReason.LENGTH_LIMIT
    fixed = measured(*fault, *finding.overrides)
    assert not bad(lengths.check_lengths(fixed))
    assert play(fixed).episode.stop_reason is StopReason.TURN_LIMIT


def test_a_sliding_context_that_outgrows_the_prompt(measured):
    fault = [*SLIDING, "videomtr.max_response_tokens=40", "data.max_prompt_length=120"]
    case = measured(*fault)
    finding = only(lengths.check_lengths(case), "lengths.window", Level.WARNING)
    assert play(case).episode.stop_reason is StopReason.LENGTH_LIMIT
    fixed = measured(*fault, *finding.overrides)
    assert not bad(lengths.check_lengths(fixed))
    assert play(fixed).episode.stop_reason is StopReason.TURN_LIMIT


def test_more_images_than_vllm_is_told_of(measured, checkpoint):
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    fault = [f"{ROLLOUT}.limit_images=12"]
    finding = only(agreement.check_agreement(measured(*fault)), "config.plugin")
    fixed = measured(*fault, *finding.overrides)
    assert not bad(agreement.check_agreement(fixed))
    images = len(play(fixed).segments[0].images)
    for limit, refuses in ((12, True), (fixed.rollout.limit_images, False)):
        served = ModelConfig(model=str(checkpoint), dtype="float32", limit_mm_per_prompt={"image": limit})
        info = MULTIMODAL_REGISTRY.create_processor(served).info
        if refuses:
            with pytest.raises(ValueError, match=r"At most 12 image\(s\) may be provided"):
                info.validate_num_items("image", images)
        else:
            info.validate_num_items("image", images)


def scheduler(case):
    from vllm.config import SchedulerConfig

    return SchedulerConfig(
        max_model_len=512,
        is_encoder_decoder=False,
        max_num_batched_tokens=case.rollout.max_num_batched_tokens,
        max_num_seqs=case.rollout.max_num_seqs,
        disable_chunked_mm_input=bool(case.get(f"{ROLLOUT}.engine_kwargs.vllm.disable_chunked_mm_input")),
    )


def test_a_frame_that_may_not_be_cut_and_does_not_fit(measured, healthy):
    from vllm.v1.core.encoder_cache_manager import compute_mm_encoder_budget

    fault = [
        f"{ROLLOUT}.max_num_batched_tokens=64",
        f"+{ROLLOUT}.engine_kwargs.vllm.disable_chunked_mm_input=true",
    ]

    def make(*overrides):
        case = measured(*overrides)
        case.measured = dataclasses.replace(healthy.measured, largest_frame=100)
        return case

    case = make(*fault)
    found = list(lengths._engine(case))
    finding = only(found, "lengths.batched")
    with pytest.raises(ValueError, match="is larger than max_num_batched_tokens"):
        compute_mm_encoder_budget(scheduler(case), {"image": 100})
    fixed = make(*fault, *finding.overrides)
    assert not list(lengths._engine(fixed))
    compute_mm_encoder_budget(scheduler(fixed), {"image": 100})


def fill(tokens, limit, spread):
    from verl.utils import tensordict_utils as tu
    from verl.workers.engine.utils import prepare_micro_batches

    ids = torch.nested.as_nested_tensor(
        [torch.ones(tokens, dtype=torch.long), torch.ones(3, dtype=torch.long)], layout=torch.jagged
    )
    settings = {"use_dynamic_bsz": True, "max_token_len_per_gpu": limit, "sp_size": spread}
    prepare_micro_batches(tu.get_tensordict({"input_ids": ids}, settings))


@pytest.mark.parametrize(
    ("key", "spread"),
    [
        (f"{ACTOR}.ppo_max_token_len_per_gpu", 1),
        (f"{ACTOR}.ppo_max_token_len_per_gpu", 2),
        (f"{ROLLOUT}.log_prob_max_token_len_per_gpu", 1),
        (f"{REF}.log_prob_max_token_len_per_gpu", 1),
        ("+critic.ppo_infer_max_token_len_per_gpu", 1),
    ],
)
def test_rows_longer_than_a_micro_batch(measured, key, spread):
    others = [f"{ROLLOUT}.log_prob_max_token_len_per_gpu=8192", f"{REF}.log_prob_max_token_len_per_gpu=8192"]
    others += ["algorithm.use_kl_in_reward=true", "trainer.n_gpus_per_node=2"]
    fault = [*others, f"{ACTOR}.ulysses_sequence_parallel_size={spread}", f"{key}=80"]
    case = measured(*fault)
    finding = only(lengths.check_lengths(case), "lengths.micro")
    assert key.removeprefix("+") in finding.what
    row = lengths.episodes(case).usual.row_tokens
    real = play(case).segments[0]
    assert len(real.ids) > 80 * spread
    with pytest.raises(AssertionError, match="max_token_len must be greater than the sequence length"):
        fill(len(real.ids), 80, spread)
    fixed = measured(*[item for item in fault if not item.startswith("+")], *_added(finding.overrides))
    assert not bad(lengths.check_lengths(fixed))
    fill(row, int(fixed.get(key.removeprefix("+"))), spread)


def _added(overrides):
    """The same for a configuration that lacks the key."""
    return [item if item.startswith("+") or "ppo_infer" not in item else f"+{item}" for item in overrides]


def test_the_critic_s_micro_batches_are_bounded_by_the_key_that_the_doctor_names():
    """verl's trainer hands on the bound for inference for training too, and fills by tokens whatever was asked for."""
    import inspect

    from verl.trainer.ppo.v1 import PPOTrainer
    from verl.workers.config import FSDPEngineConfig

    source = inspect.getsource(PPOTrainer._setup)
    assert "critic_cfg.engine.max_token_len_per_gpu = critic_cfg.ppo_infer_max_token_len_per_gpu" in source
    assert "critic_cfg.engine.use_dynamic_bsz" not in source
    assert FSDPEngineConfig(strategy="fsdp").use_dynamic_bsz is True
