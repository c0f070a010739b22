# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A validation's sample episodes in verl's loggers (`videomtr.log_val_episodes`): records in, tables with pictures out.

verl's own table (`trainer.log_val_generations`) takes texts alone. Tensorboard and wandb get pictures through the
writers that verl's `Tracking` has opened; loggers that verl itself gives texts get texts, through its own class.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from verl.utils.tracking import Tracking, ValidationGenerationsLogger

from verl_videomtr.report.sample_table import PicturedEpisode, columns_of, make_rows, to_markdown
from verl_videomtr.video.decode_workers import WorkerConfig

logger = logging.getLogger(__name__)

KEY = "videomtr/val/episodes"
TEXT_ALONE = ("swanlab", "mlflow", "trackio", "clearml")
"""Backends of verl's `ValidationGenerationsLogger` that are given no pictures here."""


class EpisodeTable:
    """Gives some played episodes of each validation to the loggers; says once what a logger cannot show."""

    def __init__(self, number: int, *, run: Mapping[str, Any], workers: WorkerConfig) -> None:
        """
        Args:
            number: episodes of each validation; 0 does nothing.
            run: as run.json has it; its `videomtr` part says where videos and cached frames lie.
        """
        self._number = number
        self._run = run
        self._workers = workers
        self._has_said: set[str] = set()

    def log(
        self, texts: Iterable[str | None], *, tracking: Tracking, generations: ValidationGenerationsLogger, step: int
    ) -> dict[str, float]:
        """Log the table of one validation; whatever goes wrong with it is logged, and the training goes on.

        Args:
            texts: each record as the agent loop gave it to verl, JSON; None where another loop gave none.
            tracking: the loggers that verl has started.
            generations: verl's own table, for the loggers that get text.
        Returns:
            The seconds that it took, {} where it does nothing.
        """
        if self._number == 0:
            return {}
        started = time.monotonic()
        try:
            records = [json.loads(text) for text in texts if text is not None]
            self._log(records, tracking=tracking, generations=generations, step=step)
        except Exception:
            # A logger's client, its network or its disk is no reason to end a run of days.
            logger.exception(
                "the table of validation episodes at step %d could not be logged; the training goes on; "
                "videomtr.log_val_episodes=0 turns it off",
                step,
            )
        return {"videomtr/val/seconds/log_episodes": time.monotonic() - started}

    def _log(
        self,
        records: Sequence[Mapping[str, Any]],
        *,
        tracking: Tracking,
        generations: ValidationGenerationsLogger,
        step: int,
    ) -> None:
        pictured = [name for name in PICTURED if name in tracking.logger]
        told = [name for name in TEXT_ALONE if name in tracking.logger]
        if told:
            self._say("%s: videomtr.log_val_episodes gives text without pictures", ", ".join(told))
        if not pictured and not told:
            self._say(
                "videomtr.log_val_episodes=%d reaches nobody: trainer.logger has %s, which take numbers alone; "
                "expected one of %s; add it, or set the key to 0",
                self._number, ", ".join(tracking.logger), ", ".join([*PICTURED, *TEXT_ALONE]),
            )  # fmt: skip
            return
        rows = make_rows(records, self._number, run=self._run, workers=self._workers)
        if problem := next((row.problem for row in rows if row.problem), ""):
            self._say("the pictures of videomtr.log_val_episodes have grey frames; the first: %s", problem)
        for name in pictured:
            PICTURED[name](tracking.logger[name], rows, step)
        if told:
            samples = [(row.cells["question"], row.response, row.cells["reward"]) for row in rows]
            generations.log(told, samples, step)

    def _say(self, message: str, *values: object) -> None:
        if message not in self._has_said:
            self._has_said.add(message)
            logger.warning(message, *values)


def _log_to_tensorboard(adapter: Any, rows: Sequence[PicturedEpisode], step: int) -> None:
    """Add one text with the table, and one picture a sample: its slider goes through the steps."""
    adapter.writer.add_text(KEY, to_markdown(rows), step)
    for row in rows:
        adapter.writer.add_image(f"{KEY}/{row.sample_id}", np.asarray(row.picture), step, dataformats="HWC")
    adapter.writer.flush()


def _log_to_wandb(wandb: Any, rows: Sequence[PicturedEpisode], step: int) -> None:
    """Log a new table each time: one that has been logged can be added to no more."""
    names = columns_of(rows)
    table = wandb.Table(columns=["step", *names, "what it looked at"])
    for row in rows:
        table.add_data(step, *(row.cells.get(name) for name in names), wandb.Image(row.picture))
    wandb.log({KEY: table}, step=step)


PICTURED: dict[str, Callable[[Any, Sequence[PicturedEpisode], int], None]] = {
    "tensorboard": _log_to_tensorboard,
    "wandb": _log_to_wandb,
    "vemlp_wandb": _log_to_wandb,
}
"""Backend of verl's `Tracking` -> what gives it a table with pictures."""
