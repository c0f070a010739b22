# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The gated, dual-level reward: what an episode did -> one reward per turn.

    R(tau) = 1{R_acc > 0} * sum_{k<K} (R_fms^k + R_format^k) + R_acc + R_format^K

with K the index of the last turn. R_fms^k is turn k's part in finding the evidence: the IoU of the frames that its
retrieval returned with the ground-truth frames, set against the best IoU so far. The rewards of the turns before the
last count only where the answer is right, so that looking without understanding never pays.
(arXiv 2508.20478v2, section 3.2.)
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from verl_videomtr.actions import Answer, parse_action
from verl_videomtr.answers import is_correct


class Gate(str, enum.Enum):
    """What a wrong answer does to the rewards of the turns before the last."""

    ACCURACY = "accuracy"
    """Takes them all (the paper)."""
    NONE = "none"
    """Nothing (the paper's ablation)."""
    RELEASED_CODE = "released_code"
    """Takes `improvement_reward` off each turn above it, where the last positive turn reward is smaller than it."""


class Baseline(str, enum.Enum):
    """What a retrieval's IoU is compared with."""

    BEST = "best"
    """The best IoU so far, the overview's included (the paper)."""
    PREVIOUS = "previous"
    """The IoU of the frames returned last, or of the overview (the released code)."""


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Every constant and switch of the reward; the defaults are the paper's."""

    accuracy_reward: float = 1.0
    """R_acc of a right answer."""
    accuracy_decay: float = 0.0
    """Taken off R_acc for every turn before the answer; R_acc stays at or above 0."""
    format_reward: float = 0.1
    """R_format of a turn whose response parses."""
    turn_level: bool = True
    """False: R_fms = 0 for every turn (the paper's ablation)."""
    accuracy_only: bool = False
    """True: R_acc alone, without R_fms and R_format."""
    improvement_reward: float = 0.5
    """R_fms of a retrieval that improves on the baseline."""
    improvement_margin: float = 1e-3
    """An IoU improves if it exceeds the baseline by more than this."""
    drop_penalty: float = 0.5
    """c: an IoU below the baseline costs c times the drop."""
    baseline: Baseline = Baseline.BEST
    """What an IoU is compared with."""
    gate: Gate = Gate.ACCURACY
    """What a wrong answer takes away."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, default = getattr(self, field.name), field.default
            if isinstance(default, enum.Enum):
                known = [member.value for member in type(default)]
                is_good, rule = value in known, f"one of {', '.join(known)}"
                value = type(default)(value) if is_good else value
                object.__setattr__(self, field.name, value)
            elif isinstance(default, bool):
                is_good, rule = isinstance(value, bool), "true or false"
            else:
                is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                is_good, rule = is_number and math.isfinite(value) and value >= 0, "a finite number from 0"
            if not is_good:
                raise ValueError(f"{field.name}={value!r}; expected {rule}; videomtr.reward")

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> RewardConfig:
        """Make the config of "paper" or of "released_code", with single fields overridden.

        Raises:
            ValueError: an unknown preset or field.
        """
        if name not in PRESETS:
            raise ValueError(f"preset={name!r}; expected one of {sorted(PRESETS)}; videomtr.reward")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(overrides.keys() - known):
            raise ValueError(f"{unknown=}; expected fields of RewardConfig, {sorted(known)}; videomtr.reward")
        return cls(**{**PRESETS[name], **overrides})


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released_code": {
        "accuracy_decay": 0.1,
        "drop_penalty": 0.0,
        "baseline": Baseline.PREVIOUS,
        "gate": Gate.RELEASED_CODE,
    },
}
"""Departures of each preset from the defaults."""


@dataclass(frozen=True, kw_only=True)
class RewardBreakdown:
    """The reward of one episode, by turn and by component."""

    rewards: tuple[float, ...]
    """Reward of each turn, after the gate."""
    accuracy: float
    """R_acc."""
    fms: float
    """Sum of R_fms over the turns, after the gate."""
    format: float
    """Sum of R_format over the turns, after the gate."""
    gate_open: bool
    """Whether the rewards before the last turn were paid in full."""
    by_turn: tuple[dict[str, float], ...]
    """`acc`, `fms` and `format` of each turn, after the gate; they sum to its reward."""

    @property
    def total(self) -> float:
        """R(tau)."""
        return self.accuracy + self.fms + self.format


def turn_rewards(
    *,
    correct: bool,
    format_ok: Sequence[bool],
    initial_iou: float | None,
    retrieval_ious: Sequence[float | None],
    config: RewardConfig | None = None,
) -> list[float]:
    """Compute the reward of every turn; see `reward_breakdown`."""
    breakdown = reward_breakdown(
        correct=correct,
        format_ok=format_ok,
        initial_iou=initial_iou,
        retrieval_ious=retrieval_ious,
        config=config,
    )
    return list(breakdown.rewards)


def reward_breakdown(
    *,
    correct: bool,
    format_ok: Sequence[bool],
    initial_iou: float | None,
    retrieval_ious: Sequence[float | None],
    config: RewardConfig | None = None,
) -> RewardBreakdown:
    """Compute the reward of every turn and its components.

    r_k = gate * (R_fms^k + R_format^k) for k < K, and r_K = R_acc + R_format^K. With b_k the baseline,
    R_fms^k = improvement_reward if IoU_{k+1} > b_k + improvement_margin, else -c * max(0, b_k - IoU_{k+1}).

    A retrieval at the last turn (an episode cut off by the length limit) earns no R_fms: the sum ends before K. The
    released code has no such rule, and its gate pays that turn.

    Args:
        correct: whether the episode ended with the right answer.
        format_ok: (K + 1,) whether each turn's response parsed.
        initial_iou: IoU of the overview, or None without ground truth; then R_fms = 0 everywhere.
        retrieval_ious: (K + 1,) IoU of the frames that each turn's retrieval returned, None where it returned none.
        config: the constants; None is the paper's preset.
    Raises:
        ValueError: lengths differ, an IoU is not in [0, 1], there is one without ground truth, or the answer is
            right although the last turn holds no valid answer.
    Source: arXiv 2508.20478v2, section 3.2. The constant c is not in the paper; 0.5 keeps |R_fms| <= 0.5.
    """
    config = config or RewardConfig()
    _check_episode(correct, format_ok, initial_iou, retrieval_ious)
    num_turns = len(format_ok)
    if num_turns == 0:
        return RewardBreakdown(rewards=(), accuracy=0.0, fms=0.0, format=0.0, gate_open=False, by_turn=())
    accuracy = max(0.0, config.accuracy_reward - config.accuracy_decay * (num_turns - 1)) if correct else 0.0
    fms = [0.0] * num_turns
    formats = [0.0] * num_turns
    if not config.accuracy_only:
        formats = [config.format_reward if ok else 0.0 for ok in format_ok]
        if config.turn_level and initial_iou is not None:
            fms = _improvement_rewards(initial_iou, retrieval_ious, config)
    if config.gate is Gate.RELEASED_CODE:
        gate_open, fms = _released_code_gate(accuracy, fms, formats, config)
    else:
        fms[-1] = 0.0
        gate_open = correct or config.gate is Gate.NONE
        if not gate_open:
            fms = [0.0] * num_turns
            formats[:-1] = [0.0] * (num_turns - 1)
    rewards = [a + b for a, b in zip(fms, formats, strict=True)]
    rewards[-1] += accuracy
    accuracies = [0.0] * (num_turns - 1) + [accuracy]
    return RewardBreakdown(
        rewards=tuple(rewards),
        accuracy=accuracy,
        fms=math.fsum(fms),
        format=math.fsum(formats),
        gate_open=gate_open,
        by_turn=tuple({"acc": acc, "fms": a, "format": b} for acc, a, b in zip(accuracies, fms, formats, strict=True)),
    )


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    **config: Any,
) -> dict[str, Any]:
    """Score one episode for verl (`reward.custom_reward_function`).

    With `extra_info["episode"]`, the record that the `video_mtr` loop hands over, the turns are rewarded one by one.
    Without it (verl's own loops) only the text is left, behind the last `</tool_response>` if there is one: the last
    answer in it decides R_acc, and the last thought and action decide R_format.

    Args:
        data_source: the sample's data set; not used.
        solution_str: the decoded response; read only without an episode.
        ground_truth: the sample's answer: an option letter, a number or a text.
        extra_info: the row's `question_type` and `options`, and the `episode`: `answer`, `format_ok`, `initial_iou`
            and `retrieval_ious`.
        config: `preset` and fields of RewardConfig, from `reward.custom_reward_function.reward_kwargs`.
    Returns:
        `score`, the sum of the turn rewards, and `acc`, 1.0 or 0.0. With an episode also `turn_rewards`,
        `turn_components` (`acc`, `fms`, `format` of each turn) and `components` (the same and `gate_open`: sums of the
        trajectory). Without one also `format`: verl's loops average what comes back, so all of it is numbers.
    Raises:
        ValueError: the row lacks its question type, or the config or the record is wrong.
    """
    info = extra_info or {}
    # verl adds these two where a reward model runs beside; a rule needs neither.
    overrides = {k: v for k, v in config.items() if k not in ("reward_router_address", "reward_model_tokenizer")}
    reward_config = RewardConfig.preset(overrides.pop("preset", "paper"), **overrides)
    episode = info.get("episode")
    if episode is None:
        answer, format_ok = _last_answer(solution_str)
        record: Mapping[str, Any] = {"format_ok": [format_ok], "initial_iou": None, "retrieval_ious": [None]}
    else:
        answer, record = episode["answer"], episode
    correct = answer is not None and _is_correct(answer, ground_truth, info)
    if episode is None:
        format_score = reward_config.format_reward if format_ok and not reward_config.accuracy_only else 0.0
        accuracy = reward_config.accuracy_reward if correct else 0.0
        return {"score": accuracy + format_score, "acc": float(correct), "format": format_score}
    breakdown = reward_breakdown(
        correct=correct,
        format_ok=record["format_ok"],
        initial_iou=record["initial_iou"],
        retrieval_ious=record["retrieval_ious"],
        config=reward_config,
    )
    return {
        "score": math.fsum(breakdown.rewards),
        "acc": float(correct),
        "turn_rewards": list(breakdown.rewards),
        "turn_components": [dict(parts) for parts in breakdown.by_turn],
        "components": {
            "acc": breakdown.accuracy,
            "fms": breakdown.fms,
            "format": breakdown.format,
            "gate_open": int(breakdown.gate_open),
        },
    }


def _improvement_rewards(
    initial_iou: float, retrieval_ious: Sequence[float | None], config: RewardConfig
) -> list[float]:
    """R_fms of every turn, before the gate."""
    baseline, rewards = initial_iou, []
    for iou in retrieval_ious:
        if iou is None:
            rewards.append(0.0)
            continue
        improves = iou > baseline + config.improvement_margin
        rewards.append(config.improvement_reward if improves else -config.drop_penalty * max(0.0, baseline - iou))
        baseline = iou if config.baseline is Baseline.PREVIOUS else max(baseline, iou)
    return rewards


def _released_code_gate(
    accuracy: float, fms: list[float], formats: list[float], config: RewardConfig
) -> tuple[bool, list[float]]:
    """Take R_fms from improving turns where the last positive turn reward is small; R_format stays.

    An improving retrieval, or an invalid response after one, as the last turn leaves the gate open although there is
    no right answer: that is how the released code behaves.
    """
    rewards = [a + b for a, b in zip(fms, formats, strict=True)]
    rewards[-1] += accuracy
    last_positive = next((reward for reward in reversed(rewards) if reward > 0), None)
    if last_positive is None or last_positive >= config.improvement_reward:
        return True, fms
    limit = config.improvement_reward
    return False, [f - limit if reward > limit else f for f, reward in zip(fms, rewards, strict=True)]


def _last_answer(text: str) -> tuple[str | None, bool]:
    """Find the last answer of a decoded response, and whether it ends with one well-formed thought and answer."""
    # Behind the last answer of a tool: neither what the environment says nor an earlier message is the policy's answer.
    text = text.rpartition("</tool_response>")[2]
    last = parse_action(text[max(0, text.rfind("<think>")) :], pool_size=1, last_turn=True)
    if isinstance(last, Answer):
        return last.text, True
    behind_thoughts = text[text.rfind("</think>") + 1 :]
    start = behind_thoughts.rfind("<answer>")
    end = behind_thoughts.find("</answer>", start)
    answer = behind_thoughts[start + len("<answer>") : end].strip() if 0 <= start < end else ""
    return answer or None, False


def _is_correct(answer: str, ground_truth: str, info: Mapping[str, Any]) -> bool:
    if "question_type" not in info:
        raise ValueError(
            f"extra_info has no question_type; expected multiple_choice, numeric or free_text; "
            f"sample {info.get('sample_id')!r}; write rows with verl_videomtr.sample.write_rows"
        )
    options = info.get("options")
    return is_correct(
        answer,
        str(ground_truth),
        question_type=info["question_type"],
        options=() if options is None else tuple(options),
    )


def _check_episode(
    correct: bool,
    format_ok: Sequence[bool],
    initial_iou: float | None,
    retrieval_ious: Sequence[float | None],
) -> None:
    if len(format_ok) != len(retrieval_ious):
        raise ValueError(
            f"{len(format_ok)} format flags and {len(retrieval_ious)} retrieval IoUs; expected one each per turn; "
            "episode record"
        )
    given = [iou for iou in (initial_iou, *retrieval_ious) if iou is not None]
    if any(not 0 <= iou <= 1 for iou in given):
        raise ValueError(f"{initial_iou=}, {retrieval_ious=}; expected IoUs in [0, 1]; episode record")
    if initial_iou is None and given:
        raise ValueError(
            f"initial_iou=None with {retrieval_ious=}; expected no IoU without ground truth; episode record"
        )
    if correct and not (format_ok and format_ok[-1] and retrieval_ious[-1] is None):
        raise ValueError(
            f"correct=True with {format_ok=}, {retrieval_ious=}; expected a valid answer last; episode record"
        )
