# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Do the limits hold the longest episode? Tokens of prompt, response, context and micro-batch; images of a request.

What a full episode needs comes from `budget`, with the lengths that were measured on this model, data and prompts (or
round ones). Two frames are considered: the usual one (the largest of the videos that were opened) decides whether the
run would fail, the largest one that the configuration allows is worth a warning.

The paper's episode (K_max 3, w 2, 16 + 8 + 8 frames) is one row, all of it in the context:

    prompt                              response
    instructions, overview (16 frames)  reply 1, 8 frames, reply 2, 8 frames, reply 3
    <= data.max_prompt_length           <= data.max_response_length
    <------------------ <= rollout.max_model_len, and a micro-batch ------------------>

With K_max 4 the window drops the overview before reply 4, which so gets a row of its own, whose prompt is the
observation before reply 2 and all behind it: from there on data.max_prompt_length limits that context too
(`lengths.window`). An episode whose shortest
replies fit and whose longest do not is a warning; one that fits in no case is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from verl_videomtr.budget import Needs, RowSize, TextTokens, largest_frame_tokens, round_up, worst_rows
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, counted, error, note, ok, warning
from verl_videomtr.verl_plugin.doctor.rendering import usual_size

PROMPT = "data.max_prompt_length"
RESPONSE = "data.max_response_length"
CONTEXT = "actor_rollout_ref.rollout.max_model_len"
BATCHED = "actor_rollout_ref.rollout.max_num_batched_tokens"
NO_TEXT = TextTokens(instructions=0, message=0, frame=0)
SHORT_RESPONSE = 16
"""Tokens of a response that says next to nothing: an episode that does not fit with these never fits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episodes:
    """What full episodes need, by the frame's size and the responses' length."""

    usual: Needs
    """With the usual frame and responses of full length."""
    largest: Needs
    """With the largest frame that the configuration allows."""
    sure: Needs
    """What the usual episode needs without doubt: without the texts, where those could not be measured."""
    terse: Needs
    """The same with hardly any response."""
    first: dict[str, int]
    """Tokens of the first prompt: the `usual`, the `largest` and the `sure` one."""
    frame: str
    """What the usual frame is, for the messages."""


def check_lengths(case: Case) -> Iterator[Finding]:
    """Compare what an episode needs with every limit on its way."""
    if not case.uses_own_loop:
        yield note("lengths", "the agent loop is not video_mtr: the lengths of its episodes are not known")
        return
    if case.is_model_refused:
        yield note("lengths", "not measured before the model's files are in order")
        return
    needs = episodes(case)
    found = [*_prompt(case, needs), *_context(case, needs), *_response(case, needs), *_engine(case)]
    found += _micro_batches(case, needs)
    yield from found
    if not found:
        usual = needs.usual
        yield ok(
            "lengths",
            f"the longest episode ({needs.frame}): prompt {usual.prompt_tokens} of {_prompt_limit(case)}, response "
            f"{usual.response_tokens} of {_response_limit(case)}, {usual.num_frames} images, row {usual.row_tokens}",
        )


def episodes(case: Case) -> Episodes:
    """Measure the longest episodes of a configuration."""
    episode, pool = case.settings.episode, case.settings.video.pool
    if case.measured is not None:
        text, usual, largest = case.measured.text, case.measured.usual_frame, case.measured.largest_frame
        sure, frame = text, f"{counted(usual, 'visual token')} a frame {case.measured.usual_of}"
    else:
        (height, width), of = usual_size(case)
        text, sure, largest = TextTokens(), NO_TEXT, largest_frame_tokens(pool)
        usual = largest if pool.size is not None else height * width // pool.factor_px**2
        frame = f"{counted(usual, 'visual token')} a frame {of}, lengths by formula"
    full = case.settings.max_response_tokens

    def rows(tokens: int, of: TextTokens, response: int) -> list[RowSize]:
        return worst_rows(episode, frame_tokens=tokens, max_response_tokens=response, text=of)

    needs = {"usual": rows(usual, text, full), "largest": rows(largest, text, full), "sure": rows(usual, sure, full)}
    return Episodes(
        **{name: Needs.of(made) for name, made in needs.items()},
        terse=Needs.of(rows(usual, sure, min(SHORT_RESPONSE, full))),
        first={name: made[0].prompt_tokens for name, made in needs.items()},
        frame=frame,
    )


def _prompt_limit(case: Case) -> int:
    return int(case.rollout.prompt_length)


def _response_limit(case: Case) -> int:
    return int(case.rollout.response_length)


def _context_limit(case: Case) -> int | None:
    limit = case.get(CONTEXT)
    if limit is None and case.model is not None:
        config = case.model.hf_config
        limit = getattr(getattr(config, "text_config", None) or config, "max_position_embeddings", None)
    return None if limit is None else int(limit)


def _prompt(case: Case, needs: Episodes) -> Iterator[Finding]:
    limit = _prompt_limit(case)
    fix = [f"{PROMPT}={round_up(needs.largest.prompt_tokens)}"]
    frames = case.settings.episode.overview_frames
    if needs.first["usual"] > limit:
        say = error if needs.first["sure"] > limit else warning
        yield say(
            "lengths.prompt",
            f"an overview of {frames} frames takes {needs.first['usual']} tokens ({needs.frame}), {PROMPT} is {limit}: "
            f"{needs.first['usual'] - limit} short",
            why="verl refuses the prompt (ct_build_initial_tokens), and the episode is lost",
            overrides=fix,
        )
    elif needs.first["largest"] > limit:
        yield warning(
            "lengths.prompt",
            f"an overview of {frames} frames of the largest size takes {needs.first['largest']} tokens, {PROMPT} is "
            f"{limit}",
            why=f"videos of an unusual shape lose their episodes; the usual ones fit ({needs.frame})",
            overrides=fix,
        )
    elif needs.usual.prompt_tokens > limit:  # the prompt of a later row, where the context slides
        say = error if needs.terse.prompt_tokens > limit else warning
        yield say(
            "lengths.window",
            f"a context of {case.settings.episode.window + 1} turns takes up to {needs.usual.prompt_tokens} tokens "
            f"({needs.frame}), {PROMPT} is {limit}",
            why="the agent loop ends the episode there as truncated, without an answer",
            overrides=fix,
        )


def _context(case: Case, needs: Episodes) -> Iterator[Finding]:
    limit = _context_limit(case)
    if limit is None or needs.usual.row_tokens <= limit:
        return
    fix = [case.override(CONTEXT, round_up(needs.largest.row_tokens))]
    if needs.first["sure"] >= limit:
        yield error(
            "lengths.model",
            f"an overview takes {needs.first['usual']} tokens ({needs.frame}), {CONTEXT} is {limit}",
            why="no response fits behind it: every episode is lost",
            overrides=fix,
        )
        return
    takes = f"takes {needs.usual.row_tokens} tokens ({needs.frame}), {CONTEXT} is {limit}"
    yield _cut("lengths.model", takes, fix, is_always=needs.terse.row_tokens > limit)


def _response(case: Case, needs: Episodes) -> Iterator[Finding]:
    limit = _response_limit(case)
    if needs.usual.response_tokens <= limit:
        return
    takes = f"takes {needs.usual.response_tokens} tokens behind its prompt ({needs.frame}), {RESPONSE} is {limit}"
    fix = [f"{RESPONSE}={round_up(needs.largest.response_tokens)}"]
    yield _cut("lengths.response", takes, fix, is_always=needs.terse.response_tokens > limit)


def _cut(check: str, takes: str, fix: list[str], *, is_always: bool) -> Finding:
    """An episode that does not fit: with any responses, or with long ones."""
    if is_always:
        why = "even with the shortest responses its last turn does not fit: it ends as truncated, unanswered"
        return error(check, f"an episode of all turns {takes}", why=why, overrides=fix)
    why = "such an episode ends as truncated, unanswered, with R_acc = 0"
    return warning(check, f"an episode of long responses {takes}", why=why, overrides=fix)


def _engine(case: Case) -> Iterator[Finding]:
    batched = int(case.rollout.max_num_batched_tokens)
    frame = case.measured.largest_frame if case.measured else largest_frame_tokens(case.settings.video.pool)
    whole = case.get("actor_rollout_ref.rollout.engine_kwargs.vllm.disable_chunked_mm_input")
    if whole and frame > batched:
        yield error(
            "lengths.batched",
            f"{BATCHED}={batched}, fewer than the {frame} tokens of one frame, which may not be cut",
            why="vLLM refuses it when it plans its encoder cache",
            overrides=[f"{BATCHED}={round_up(frame)}"],
        )


def _micro_batches(case: Case, needs: Episodes) -> Iterator[Finding]:
    """Where micro-batches are filled by tokens, one row must fit into one."""
    if not case.is_fsdp:
        return
    actor, ref = "actor_rollout_ref.actor", "actor_rollout_ref.ref"
    limits = []
    if case.get(f"{actor}.use_dynamic_bsz"):
        limits.append(("actor", f"{actor}.ppo_max_token_len_per_gpu", "the actor's updates"))
        limits.append(
            ("actor", "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu", "the old log-probabilities")
        )
    if "ref" in case.sequence_parallel and case.get(f"{ref}.log_prob_use_dynamic_bsz"):
        limits.append(("ref", f"{ref}.log_prob_max_token_len_per_gpu", "the reference log-probabilities"))
    if "critic" in case.sequence_parallel and case.get("critic.fsdp.use_dynamic_bsz", True):
        # verl's V1 trainer fills the critic's micro-batches by this key, whatever the others of the critic say.
        limits.append(("critic", "critic.ppo_infer_max_token_len_per_gpu", "the critic's values"))
    for role, key, where in limits:
        spread = case.sequence_parallel[role]
        limit = int(case.get(key, 32768)) * spread
        sure, largest = (_longest_row(case, need) for need in (needs.sure, needs.largest))
        # The actor's own limit has spoken for the keys that follow it, unless they spread a row over fewer GPUs.
        is_said = role != "critic" and case.follows(key) and spread >= case.sequence_parallel["actor"]
        if largest <= limit or is_said:
            continue
        say = error if sure > limit else warning
        yield say(
            "lengths.micro",
            f"a row takes up to {max(_longest_row(case, needs.usual), sure)} tokens ({needs.frame}; {largest} with the "
            f"largest frames), {key} is {case.get(key, 32768)}" + (f" on {spread} GPUs" if spread > 1 else ""),
            why=f"{where} stop the run at the first longer row ('max_token_len must be greater than the sequence "
            "length')",
            overrides=[case.override(key, round_up(-(-largest // spread)))],
        )


def _longest_row(case: Case, needs: Needs) -> int:
    """Tokens of the longest row that the other limits let through."""
    limit = _context_limit(case)
    allowed = min(needs.prompt_tokens, _prompt_limit(case)) + min(needs.response_tokens, _response_limit(case))
    longest = min(needs.row_tokens, allowed)
    return longest if limit is None else min(longest, limit)
