# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Stored trajectories scored anew: lines and a reward in, lines and what changed out. No data file, model or video.

Each episode is played again from its own record first, so that what is scored is what the responses say, and a line
that was changed by hand is found.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from verl_videomtr.replay import WORDS, differences, replay
from verl_videomtr.reward_function import OWN, is_own, load_reward_function
from verl_videomtr.rewards import RewardConfig
from verl_videomtr.scoring import EpisodeScore, score_record
from verl_videomtr.trajectory_files import (
    TrajectoryFileError,
    broken_line,
    list_files,
    read_file,
    read_run,
    write_file,
    write_run,
)

SCORED = ("turn_rewards", "turn_components", "components", "gate_open", "correct")
"""Parts of a line that the reward function decides."""
OF_TRAINING = ("advantages", "returns")
"""Parts that follow from the rewards of a whole batch; they are taken out where the rewards are others."""

_OF_THE_ROW = ("question_type", "options", "segments", "split", "video")


@dataclasses.dataclass(kw_only=True)
class Summary:
    """What scoring anew has changed."""

    reward: dict[str, Any]
    reward_before: dict[str, Any] | None
    num_played: int = 0
    num_lost: int = 0
    num_cut: int = 0
    not_replayed: list[str] = dataclasses.field(default_factory=list)
    """Lines whose record is not what their responses give, with what differs."""
    changed: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(SCORED, 0))
    """Lines that differ, by part."""
    num_changed: int = 0
    totals: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """Name -> sums over the lines, before and after."""
    largest: list[tuple[float, str, float, float]] = dataclasses.field(default_factory=list)
    """The largest changes of an episode's reward: (size, where, before, after)."""

    def add(self, before: Mapping[str, Any], after: Mapping[str, Any], *, where: str) -> None:
        """Compare a line with what has become of it."""
        self.num_played += 1
        differ = [name for name in SCORED if before[name] != after[name]]
        for name in differ:
            self.changed[name] += 1
        self.num_changed += bool(differ)
        rewards = [math.fsum(line["turn_rewards"]) for line in (before, after)]
        numbers = {"reward": rewards, "accuracy": [float(line["correct"]) for line in (before, after)]}
        for name in sorted(before["components"].keys() | after["components"].keys()):
            numbers[name] = [line["components"].get(name, 0.0) for line in (before, after)]
        for name, pair in numbers.items():
            total = self.totals.setdefault(name, [0.0, 0.0])
            total[0] += pair[0]
            total[1] += pair[1]
        if rewards[0] != rewards[1]:
            self.largest.append((abs(rewards[1] - rewards[0]), where, rewards[0], rewards[1]))
            self.largest = sorted(self.largest, reverse=True)[:5]


async def rescore(
    folder: Path, out: Path, *, preset: str | None = None, changes: Mapping[str, Any] | None = None
) -> Summary:
    """Score a folder's lines anew into another folder.

    Args:
        folder: of `videomtr.dump.dir`, or of an evaluation.
        out: a folder that does not exist yet, or is empty.
        preset: of the package's rewards, in place of all that the run had set; None leaves the run's reward.
        changes: arguments of the reward function, on top.
    Raises:
        ValueError: the folder has no lines of schema version 2 or no reward, or the reward is not a possible one.
        FileExistsError: `out` holds something.
    """
    files = list_files(folder)
    run = read_run(folder)
    before = None if run is None else run.get("reward")
    reward = choose_reward(before, preset=preset, changes=changes or {}, where=folder)
    function = load_reward_function(reward)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} holds something; expected a new folder; give another --out")
    summary = Summary(reward=reward, reward_before=before)
    for path in files:
        write_file(out / path.relative_to(folder), await _rescore_file(path, function, summary))
    if summary.num_changed:
        # Only now: one changed reward changes the whole batch's credit, and lines are held a file at a time.
        for path in files:
            scored = out / path.relative_to(folder)
            write_file(scored, [{**line, **_without_credit(line)} for line in read_file(scored).records])
    write_run(out, {**(run or {}), "reward": reward, "rescored_from": str(folder.resolve())})
    return summary


def choose_reward(
    before: Mapping[str, Any] | None, *, preset: str | None, changes: Mapping[str, Any], where: Path
) -> dict[str, Any]:
    """Decide what to score with: the run's own reward, or a preset of the package's, with single arguments changed.

    Raises:
        ValueError: there is nothing to begin with, or an argument is none of the package's rewards.
    """
    if preset is not None:
        reward = {**OWN, "preset": preset, **changes}
    elif before is not None:
        reward = {**before, **changes}
    else:
        raise TrajectoryFileError(
            f"no run.json says what the lines were scored with; expected one beside them; {where}; give --preset paper"
        )
    if is_own(reward):
        arguments = {name: value for name, value in reward.items() if name not in OWN}
        RewardConfig.preset(arguments.pop("preset", "paper"), **arguments)
    return reward


async def _rescore_file(path: Path, function: Callable[..., Any], summary: Summary) -> list[dict[str, Any]]:
    read = read_file(path)
    summary.num_cut += read.num_cut
    summary.num_lost += len(read.lost)
    lines = []
    for line in read.records:
        if line["status"] == "played":
            where = f"{path.name}, sample {line['sample_id']!r}"
            scored = await _rescore_line(line, function, summary, where=where)
            summary.add(line, scored, where=where)
            lines.append(scored)
        else:
            lines.append(line)
    return lines


async def _rescore_line(
    line: dict[str, Any], function: Callable[..., Any], summary: Summary, *, where: str
) -> dict[str, Any]:
    if line["schema_version"] < 2:
        raise TrajectoryFileError(
            f"a line of schema version 1, which names neither question type nor frame times; expected version 2; "
            f"{where}; make the run's lines with this version of verl-videomtr"
        )
    try:
        episode = replay(line["episode"], question=line["question"], segments=line["segments"])
        # The prompt set may have changed since; what the policy was told then stays.
        record = {**episode.record(), **{name: line["episode"][name] for name in WORDS}}
        data_source, truth = line["data_source"], line["ground_truth"]
        extra_info = {**{name: line[name] for name in ("sample_id", *_OF_THE_ROW)}, **line["extra_info"]}
        _require_scores(line)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise broken_line(error, where=where) from error
    if differ := differences(line["episode"], episode):
        summary.not_replayed.append(f"{where}: {', '.join(differ)}")
    score = await score_record(function, record, data_source=data_source, ground_truth=truth, extra_info=extra_info)
    return {**line, "episode": record, **_scored_parts(score)}


def _require_scores(line: Mapping[str, Any]) -> None:
    """Read what the new scores will be compared with, as the summary does."""
    math.fsum([float(line["correct"]), *line["turn_rewards"], *line["components"].values()])
    for name in SCORED:
        line[name]


def _scored_parts(score: EpisodeScore) -> dict[str, Any]:
    gate = score.components.get("gate_open")
    return {
        "turn_rewards": score.turn_rewards,
        "turn_components": score.turn_components,
        "components": score.components,
        "gate_open": None if gate is None else bool(gate),
        "correct": score.correct,
    }


def _without_credit(line: Mapping[str, Any]) -> dict[str, None]:
    return {name: None for name in OF_TRAINING if name in line}


def say(summary: Summary) -> Iterable[str]:
    """Word a summary, line by line."""
    yield f"reward: {_say_reward(summary.reward_before)} -> {_say_reward(summary.reward)}"
    yield (
        f"{summary.num_played} played trajectories, {summary.num_lost} lost ones copied"
        + (f", {summary.num_cut} cut line(s) skipped" if summary.num_cut else "")
    )
    replayed = summary.num_played - len(summary.not_replayed)
    yield f"replayed to the stored record: {replayed} of {summary.num_played}"
    yield from (f"  differs: {line}" for line in summary.not_replayed[:5])
    parts = ", ".join(f"{name} {number}" for name, number in summary.changed.items() if number)
    yield f"score changed: {summary.num_changed} of {summary.num_played}" + (f" ({parts})" * bool(parts))
    if summary.num_played:
        yield f"{'mean':12}{'before':>10}{'after':>10}"
        for name, (before, after) in summary.totals.items():
            yield f"{name:12}{before / summary.num_played:10.4f}{after / summary.num_played:10.4f}"
    yield from (f"  {where}: {before:.4f} -> {after:.4f}" for _, where, before, after in summary.largest)
    if summary.num_changed:
        yield "advantages and returns belong to the old rewards and are left out"


def _say_reward(reward: Mapping[str, Any] | None) -> str:
    if reward is None:
        return "not known"
    arguments = " ".join(f"{name}={value}" for name, value in reward.items() if name not in OWN)
    name = "paper" if is_own(reward) else f"{reward.get('path')}:{reward.get('name')}"
    return arguments or name
