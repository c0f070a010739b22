# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What an episode costs in tokens and frames: constants of the episode in, the rows it becomes out.

A row is a prompt and the response behind it, as the trainer stores it. While all turns fit the window an episode is
one row: the instructions and the overview are its prompt, everything behind them its response. Once the window slides,
every further turn is a row of its own, whose prompt is the instructions, the last w interactions and the new
observation (spec of the window: `EpisodeConfig.window`).
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_videomtr.episode import EpisodeConfig
from verl_videomtr.video.plan import PoolConfig

LENGTH_STEP = 256
"""Proposed lengths are multiples of this."""


@dataclass(frozen=True, kw_only=True)
class TextTokens:
    """Lengths of what surrounds the frames, in tokens. The defaults are round numbers for Qwen's tokenizers."""

    instructions: int = 300
    """The system message, with the chat template's marks around it."""
    message: int = 300
    """One user message without its frames: question, what to do next, the template's marks, and the opening of the
    reply that follows."""
    frame: int = 20
    """What announces one frame, and the marks around its visual tokens."""


@dataclass(frozen=True, kw_only=True)
class RowSize:
    """The size of one training sequence."""

    prompt_tokens: int
    """What stands before the first response of the row."""
    response_tokens: int
    """Responses, and the observations between them."""
    num_frames: int
    """Frames in the whole row: images of the request and of the training sample."""

    @property
    def tokens(self) -> int:
        """Of the whole row."""
        return self.prompt_tokens + self.response_tokens


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What limits must hold so that no row of an episode is cut."""

    prompt_tokens: int
    """data.max_prompt_length."""
    response_tokens: int
    """data.max_response_length."""
    row_tokens: int
    """rollout.max_model_len, and the tokens of one micro-batch."""
    num_frames: int
    """rollout.limit_images."""

    @classmethod
    def of(cls, rows: list[RowSize]) -> Needs:
        """Take the largest of each over an episode's rows."""
        return cls(
            prompt_tokens=max(row.prompt_tokens for row in rows),
            response_tokens=max(row.response_tokens for row in rows),
            row_tokens=max(row.tokens for row in rows),
            num_frames=max(row.num_frames for row in rows),
        )


def largest_frame_tokens(pool: PoolConfig) -> int:
    """Visual tokens of the largest frame that a pool may serve.

    With `size`, of that size as an image processor fits it to its grid; else max_tokens, which a
    frame twice as high as wide reaches (128 at the defaults) and one of 16:9 does not (120).
    """
    if pool.size is None:
        return pool.max_tokens
    height, width = (max(1, round(side / pool.factor_px)) for side in pool.size)
    return height * width


def worst_rows(
    episode: EpisodeConfig, *, frame_tokens: int, max_response_tokens: int, text: TextTokens | None = None
) -> list[RowSize]:
    """The rows of an episode of max_turns responses, each as long as it may be, with as many frames as it may show.

    Each row is the worst one that its place can have: where `retrieval_frames` spends the budget early, invalid turns
    before may have moved its retrievals there.

    Args:
        frame_tokens: visual tokens of one frame.
        max_response_tokens: of one response.
        text: lengths of the texts; None takes the round defaults.
    Returns:
        One row, or max_turns - window rows where the context slides.
    """
    text = text or TextTokens()
    overview, _ = shown_frames(episode)
    frame = frame_tokens + text.frame
    num_looks = min(episode.window, episode.max_turns - 1)
    looked = _looked_frames(episode, num_looks)
    rows = [
        RowSize(
            prompt_tokens=text.instructions + text.message + overview * frame,
            response_tokens=(num_looks + 1) * max_response_tokens + num_looks * text.message + looked * frame,
            num_frames=overview + looked,
        )
    ]
    num_shown = episode.window + 1
    looked = _looked_frames(episode, num_shown)
    slid = RowSize(
        prompt_tokens=text.instructions
        + num_shown * text.message
        + looked * frame
        + episode.window * max_response_tokens,
        response_tokens=max_response_tokens,
        num_frames=looked,
    )
    return rows + [slid] * max(0, episode.max_turns - num_shown)


def played_rows(
    episode: EpisodeConfig,
    *,
    frames_per_turn: list[int],
    response_tokens_per_turn: list[int],
    frame_tokens: int,
    text: TextTokens | None = None,
) -> list[RowSize]:
    """The rows of one particular episode, such as an average one.

    Args:
        frames_per_turn: frames of each turn's observation; the first are the overview's.
        response_tokens_per_turn: tokens of each turn's response, as many as there are turns.
        frame_tokens: visual tokens of one frame.
        text: lengths of the texts; None takes the round defaults.
    Raises:
        ValueError: the two lists differ in length, or hold more turns than max_turns, or none.
    """
    num_turns = len(frames_per_turn)
    if num_turns != len(response_tokens_per_turn) or not 1 <= num_turns <= episode.max_turns:
        raise ValueError(
            f"{num_turns} observations and {len(response_tokens_per_turn)} responses; expected as many of each, 1 to "
            f"videomtr.episode.max_turns={episode.max_turns}; give one number per turn"
        )
    text = text or TextTokens()
    messages = [text.message + num * (frame_tokens + text.frame) for num in frames_per_turn]

    def row(first: int, start: int, end: int) -> RowSize:
        """The context from turn `first` on; the response starts with turn `start`'s, and `end` is the last."""
        before = sum(messages[first : start + 1]) + sum(response_tokens_per_turn[first:start])
        behind = sum(messages[start + 1 : end + 1]) + sum(response_tokens_per_turn[start : end + 1])
        return RowSize(
            prompt_tokens=text.instructions + before,
            response_tokens=behind,
            num_frames=sum(frames_per_turn[first : end + 1]),
        )

    rows = [row(0, 0, min(episode.window, num_turns - 1))]
    return rows + [row(turn - episode.window, turn, turn) for turn in range(episode.window + 1, num_turns)]


def shown_frames(episode: EpisodeConfig) -> tuple[int, int]:
    """Most frames of the overview and of one retrieval: a pool holds no more than pool_size."""
    return min(episode.overview_frames, episode.pool_size), min(episode.frames_per_retrieval, episode.pool_size)


def most_frames(episode: EpisodeConfig) -> int:
    """Most frames that an episode shows over all its turns."""
    overview, _ = shown_frames(episode)
    return overview + _looked_frames(episode, episode.max_turns - 1)


def _looked_frames(episode: EpisodeConfig, num_looks: int) -> int:
    """Most frames that so many looks show, with what the overview leaves of the budget."""
    overview, per_look = shown_frames(episode)
    return min(num_looks * per_look, max(0, episode.frame_budget - overview))


def round_up(tokens: int, step: int = LENGTH_STEP) -> int:
    """The next multiple of `step`."""
    return -(-tokens // step) * step
