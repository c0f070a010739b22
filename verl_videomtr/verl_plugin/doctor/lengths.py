"""Do the limits hold the longest episode? Tokens of prompt, response, context and micro-batch; images of a request.

What a full episode needs comes from `budget`, with the lengths that were measured on this model, data and prompts (or
round ones). Two frames are considered: the usual one (the largest of the videos that were opened) decides whether the
run would fail, the largest one that the configuration allows is worth a warning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from verl_videomtr.budget import Needs, TextTokens, largest_frame_tokens, round_up, worst_rows
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, error, note, ok, warning

PROMPT = "data.max_prompt_length"
RESPONSE = "data.max_response_length"
CONTEXT = "actor_rollout_ref.rollout.max_model_len"
BATCHED = "actor_rollout_ref.rollout.max_num_batched_tokens"
SHORT_RESPONSE = 16
"""Tokens of a response that says next to nothing: an episode that does not fit with these never fits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episodes:
    """What full episodes need, by the frame's size and the responses' length."""

    usual: Needs
    """With the usual frame and responses of full length."""
    largest: Needs
    """With the largest frame that the configuration allows."""
    terse: Needs
    """With the usual frame and hardly any response."""
    first_prompt: dict[str, int]
    """Tokens of the first prompt: with the `usual` and with the `largest` frame."""
    frame: str
    """What the usual frame is, for the messages."""


def check_lengths(case: Case) -> Iterator[Finding]:
    """Compare what an episode needs with every limit on its way."""
    if not case.uses_own_loop:
        yield note("lengths", "the agent loop is not video_mtr: the lengths of its episodes are not known")
        return
    needs = episodes(case)
    found = [*_prompt(case, needs), *_context(case, needs), *_response(case, needs), *_images(case, needs)]
    found += [*_engine(case), *_micro_batches(case, needs)]
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
        frame = f"frames of {usual} visual tokens, {case.measured.usual_of}"
    else:
        text, largest = TextTokens(), largest_frame_tokens(pool)
        usual = largest
        frame = f"frames of {usual} visual tokens, by formula"
    full = case.settings.max_response_tokens

    def rows(tokens: int, response: int) -> list:
        return worst_rows(episode, frame_tokens=tokens, max_response_tokens=response, text=text)

    return Episodes(
        usual=Needs.of(rows(usual, full)),
        largest=Needs.of(rows(largest, full)),
        terse=Needs.of(rows(usual, min(SHORT_RESPONSE, full))),
        first_prompt={"usual": rows(usual, full)[0].prompt_tokens, "largest": rows(largest, full)[0].prompt_tokens},
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
    fix = f"{PROMPT}={round_up(needs.largest.prompt_tokens)}"
    first = needs.first_prompt
    if first["usual"] > limit:
        yield error(
            "lengths.prompt",
            f"an overview of {case.settings.episode.overview_frames} frames takes {first['usual']} tokens "
            f"({needs.frame}), {PROMPT} is {limit}: {first['usual'] - limit} short",
            why="the agent loop's ct_build_initial_tokens refuses the prompt, and the episode is lost",
            fix=fix,
        )
    elif first["largest"] > limit:
        yield warning(
            "lengths.prompt",
            f"an overview of the largest frames takes {first['largest']} tokens, {PROMPT} is {limit}",
            why=f"videos of an unusual shape lose their episodes; those of {needs.frame} do not",
            fix=fix,
        )
    elif needs.usual.prompt_tokens > limit:  # the prompt of a later row, where the context slides
        say = error if needs.terse.prompt_tokens > limit else warning
        yield say(
            "lengths.window",
            f"a context of {case.settings.episode.window + 1} turns takes up to {needs.usual.prompt_tokens} tokens, "
            f"{PROMPT} is {limit}",
            why="the agent loop ends the episode there as truncated, without an answer",
            fix=fix,
        )


def _context(case: Case, needs: Episodes) -> Iterator[Finding]:
    limit = _context_limit(case)
    if limit is None or needs.usual.row_tokens <= limit:
        return
    fix = case.override(CONTEXT, round_up(needs.largest.row_tokens))
    missing = f"{needs.usual.row_tokens} tokens ({needs.frame}), max_model_len is {limit}"
    if needs.first_prompt["usual"] >= limit:
        yield error(
            "lengths.model",
            f"an overview takes {needs.first_prompt['usual']} tokens, max_model_len is {limit}",
            why="no response fits behind it: every episode is lost",
            fix=fix,
        )
    elif needs.terse.row_tokens > limit:
        yield error(
            "lengths.model",
            f"an episode of all turns takes {missing}",
            why="even with the shortest responses its last turn does not fit: it ends as truncated, unanswered",
            fix=fix,
        )
    else:
        yield warning(
            "lengths.model",
            f"an episode of long responses takes {missing}: {needs.usual.row_tokens - limit} short",
            why="such an episode ends as truncated, unanswered, with R_acc = 0",
            fix=fix,
        )


def _response(case: Case, needs: Episodes) -> Iterator[Finding]:
    limit = _response_limit(case)
    fix = f"{RESPONSE}={round_up(needs.largest.response_tokens)}"
    if needs.terse.response_tokens > limit:
        yield error(
            "lengths.response",
            f"the observations between {case.settings.episode.max_turns} responses take "
            f"{needs.terse.response_tokens} tokens ({needs.frame}), {RESPONSE} is {limit}",
            why="an episode that retrieves in every turn never reaches its last one: it ends as truncated, unanswered",
            fix=fix,
        )
    elif needs.usual.response_tokens > limit:
        yield warning(
            "lengths.response",
            f"an episode of long responses takes {needs.usual.response_tokens} tokens behind its prompt "
            f"({needs.frame}), {RESPONSE} is {limit}: {needs.usual.response_tokens - limit} short",
            why="such an episode ends as truncated, unanswered, with R_acc = 0",
            fix=fix,
        )


def _images(case: Case, needs: Episodes) -> Iterator[Finding]:
    # verl's vLLM server replaces the engine's own limit by limit_images wherever that is set.
    limit = case.get("actor_rollout_ref.rollout.limit_images")
    if limit is None:
        limit = case.get("actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt.image")
    if limit is not None and int(limit) < needs.usual.num_frames:
        yield error(
            "lengths.images",
            f"a request holds up to {needs.usual.num_frames} images, the limit is {limit}",
            why="vLLM refuses the request ('At most ... image(s) may be provided'), and the episode is lost",
            fix=case.override("actor_rollout_ref.rollout.limit_images", case.settings.episode.frame_budget),
        )


def _engine(case: Case) -> Iterator[Finding]:
    batched, sequences = int(case.rollout.max_num_batched_tokens), int(case.rollout.max_num_seqs)
    if batched < sequences:
        yield error(
            "lengths.batched",
            f"{BATCHED}={batched}, fewer than max_num_seqs={sequences}",
            why="vLLM's scheduler refuses it at its start",
            fix=f"{BATCHED}={max(8192, sequences)}",
        )
    frame = case.measured.largest_frame if case.measured else largest_frame_tokens(case.settings.video.pool)
    whole = case.get("actor_rollout_ref.rollout.engine_kwargs.vllm.disable_chunked_mm_input")
    if whole and frame > batched:
        yield error(
            "lengths.batched",
            f"{BATCHED}={batched}, fewer than the {frame} tokens of one frame, which may not be cut",
            why="vLLM refuses it when it plans its encoder cache",
            fix=f"{BATCHED}={round_up(frame)}",
        )


def _micro_batches(case: Case, needs: Episodes) -> Iterator[Finding]:
    """Where micro-batches are filled by tokens, one row must fit into one."""
    if not case.is_fsdp:
        return
    actor, ref = "actor_rollout_ref.actor", "actor_rollout_ref.ref"
    limits = []
    if case.get(f"{actor}.use_dynamic_bsz"):
        limits.append(("actor", f"{actor}.ppo_max_token_len_per_gpu", "the actor's update"))
        limits.append(
            ("actor", "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu", "the old log-probabilities")
        )
    if "ref" in case.sequence_parallel and case.get(f"{ref}.log_prob_use_dynamic_bsz"):
        limits.append(("ref", f"{ref}.log_prob_max_token_len_per_gpu", "the reference log-probabilities"))
    if "critic" in case.sequence_parallel:
        # verl's V1 trainer fills the critic's micro-batches by this key, whatever the others of the critic say.
        limits.append(("critic", "critic.ppo_infer_max_token_len_per_gpu", "the critic's values"))
    for role, key, where in limits:
        limit = int(case.get(key, 32768)) * case.sequence_parallel[role]
        usual, largest = (_longest_row(case, need) for need in (needs.usual, needs.largest))
        if largest <= limit:
            continue
        say = error if usual > limit else warning
        spread = case.sequence_parallel[role]
        yield say(
            "lengths.micro",
            f"a row of up to {usual if usual > limit else largest} tokens, {key}={case.get(key, 32768)}"
            + (f" on {spread} GPUs" if spread > 1 else ""),
            why=f"{where} fail at the first longer row ('max_token_len must be greater than the sequence length')",
            fix=case.override(key, round_up(-(-largest // spread))),
        )


def _longest_row(case: Case, needs: Needs) -> int:
    """Tokens of the longest row that the other limits let through."""
    limit = _context_limit(case)
    allowed = min(needs.prompt_tokens, _prompt_limit(case)) + min(needs.response_tokens, _response_limit(case))
    longest = min(needs.row_tokens, allowed)
    return longest if limit is None else min(longest, limit)
