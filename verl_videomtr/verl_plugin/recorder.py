# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The lines of a training run: trajectories with their credit, losses and validations in, JSONL files out."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verl_videomtr.settings import DumpConfig
from verl_videomtr.trajectory import Trajectory
from verl_videomtr.trajectory_files import (
    STEP_FILES,
    VAL_FOLDER,
    append_to_file,
    lost_record,
    read_run,
    step_file,
    write_file,
    write_run,
)
from verl_videomtr.verl_plugin.batch_rows import TrajectoryRow

logger = logging.getLogger(__name__)


class Recorder:
    """Writes the run's lines; does nothing where no folder is configured."""

    def __init__(self, config: DumpConfig, *, describe: Callable[[], dict[str, Any]]) -> None:
        """
        Args:
            describe: what run.json says; asked for when the first lines are written.
        """
        self._share = config.share
        self._folder = None if config.dir is None else Path(config.dir)
        self._describe = describe
        self._started: set[Path] = set()
        """Files that this process has begun; what an earlier one wrote of the same step is replaced."""
        self._has_warned = False

    @property
    def is_on(self) -> bool:
        return self._folder is not None

    def record_step(
        self,
        trajectories: Sequence[Trajectory],
        lost: Iterable[Mapping[str, Any]],
        *,
        step: int,
        num_without_record: int = 0,
    ) -> None:
        """Write a training batch's lines, the configured share of the played ones and all of the lost.

        Args:
            num_without_record: the batch's rows of other agent loops, which have nothing to write.
        """
        if self._folder is None:
            return
        if num_without_record and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "step %d: %d rows of another agent loop than video_mtr leave no line in %s; see docs/tool.md",
                step,
                num_without_record,
                self._folder,
            )
        # By chance, not the first ones: verl has sorted the batch by length.
        num_kept = round(self._share * len(trajectories))
        places = sorted(random.Random(step).sample(range(len(trajectories)), num_kept))
        played = [{**trajectories[place].to_dict(), "step": step} for place in places]
        self._write(step_file(self._folder, step), [*played, *_lost_records(lost, step=step)])

    def record_validation(self, texts: Iterable[str | None], *, step: int) -> None:
        """Write a validation's played trajectories.

        Args:
            texts: each record as the agent loop gave it to verl, JSON; None where another loop gave none.
        """
        if self._folder is None:
            return
        records = [{**json.loads(text), "step": step} for text in texts if text is not None]
        self._write(step_file(self._folder / VAL_FOLDER, step), records)

    def record_validation_losses(self, lost: Iterable[Mapping[str, Any]], *, step: int) -> None:
        """Add a validation's lost trajectories."""
        if self._folder is not None:
            self._write(step_file(self._folder / VAL_FOLDER, step), _lost_records(lost, step=step))

    def _write(self, path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        if not self._started:
            self._write_run()
            self._name_later_steps(path)
        if path in self._started:
            append_to_file(path, records)
        else:
            write_file(path, records)
            self._started.add(path)

    def _write_run(self) -> None:
        """Write run.json. A run that goes on with other settings says so, and the newer ones stand."""
        assert self._folder is not None
        run, before = self._describe(), read_run(self._folder)
        changed = [name for name in run if before is not None and before.get(name) != run[name]]
        if changed:
            logger.warning(
                "%s was made with other settings (%s); its run.json now says those of the run that goes on",
                self._folder,
                ", ".join(changed),
            )
        write_run(self._folder, run)

    def _name_later_steps(self, path: Path) -> None:
        """Warn of lines that a run which got further has left: they are of weights that this run does not have."""
        assert self._folder is not None
        later = sorted(each.name for each in self._folder.glob(STEP_FILES) if each.name > path.name)
        if later:
            logger.warning(
                "%s holds lines of an earlier run up to %s; expected none behind %s; they stay until their steps are "
                "trained again; give a run that starts from step 0 a videomtr.dump.dir of its own",
                self._folder,
                later[-1],
                path.name,
            )


def with_credit(
    rows: Sequence[TrajectoryRow],
    *,
    bonus: float | None,
    advantages: Sequence[Any],
    returns: Sequence[Any],
    values: Sequence[Any] | None,
) -> list[Trajectory]:
    """Return a batch's trajectories with what credit assignment gave them at each turn's last token.

    Args:
        rows: the batch's rows that are no padding.
        bonus: of every retrieval that brought frames back; None where the estimator pays none.
        advantages: of each row of the batch, one per response token.
        values: the critic's; None without a critic.
    """
    # A turn's credit lies in the row that trains it, and verl has sorted the rows by length.
    places: dict[tuple[str | None, int | None], dict[int, int]] = {}
    for row in rows:
        places.setdefault((row.trajectory.uid, row.trajectory.session), {})[row.number] = row.place
    result = []
    for row in rows:
        if row.number != 0:
            continue
        trajectory = row.trajectory
        place_of = places[trajectory.uid, trajectory.session]
        ends = [
            (place_of[number], end - 1) if end > start and number in place_of else None
            for number, (start, end) in zip(trajectory.turn_rows, trajectory.turn_spans, strict=True)
        ]
        result.append(
            dataclasses.replace(
                trajectory,
                bonus=[]
                if bonus is None
                else [bonus if trajectory.earns_bonus(turn) else 0.0 for turn in range(trajectory.num_turns)],
                advantages=_at(ends, advantages),
                returns=_at(ends, returns),
                values=None if values is None else _at(ends, values),
            )
        )
    return result


def _at(ends: Sequence[tuple[int, int] | None], rows: Sequence[Any]) -> list[float | None]:
    return [None if end is None else float(rows[end[0]][end[1]]) for end in ends]


def _lost_records(reports: Iterable[Mapping[str, Any]], *, step: int) -> list[dict[str, Any]]:
    known = ("sample_id", "kind", "error", "uid", "session", "split")
    values: list[dict[str, Any]] = [{name: report.get(name) for name in known} for report in reports]
    return [lost_record(**each, step=step) for each in values]
