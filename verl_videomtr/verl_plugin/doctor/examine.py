# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""All checks of one configuration, in the order in which a run would meet them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence

from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin.compose import compose
from verl_videomtr.verl_plugin.doctor import (
    agreement,
    batches,
    data,
    engine,
    family,
    installation,
    lengths,
    machine,
    model,
    places,
    reward,
    unread,
    values,
)
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, refused, warning

logger = logging.getLogger(__name__)


def examine(overrides: Sequence[str], *, elsewhere: bool = False, fresh: bool = True) -> list[Finding]:
    """Compose a configuration and look at everything.

    Args:
        overrides: as for main_ppo.
        elsewhere: the run will start on another machine; what depends on this one is left out.
        fresh: also import verl in a process of its own, as its workers do.
    Raises:
        ComposeError: the overrides do not compose.
    """
    config = compose(overrides)
    try:
        settings = load_settings(config)
    except (ValueError, OSError) as wrong:
        return [refused("config.settings", wrong, why="the trainer and every agent-loop worker refuse it", is_own=True)]
    case = Case.of(config, settings, elsewhere=elsewhere)
    if outside := list(values.check_bounds(case)):
        return outside
    process = installation.start_fresh_process(case) if fresh else None
    try:
        with _quietly():
            return [finding for check in _checks(process) for finding in _run(check, case)]
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()


def _checks(process: object) -> list[Callable[[Case], Iterator[Finding]]]:
    return [
        installation.check_versions,
        installation.check_plug_points,
        installation.check_platform,
        agreement.check_agreement,
        unread.check_unread,
        batches.check_batches,
        data.check_data,
        values.check_values,
        reward.check_reward,
        places.check_places,
        engine.check_engine,
        model.check_model,
        data.check_dataset,
        family.check_family,
        lengths.check_lengths,
        machine.check_machine,
        lambda case: installation.check_registration(case, process),  # type: ignore[arg-type]  # last: it has to wait
    ]


def _run(check: Callable[[Case], Iterator[Finding]], case: Case) -> Iterator[Finding]:
    try:
        yield from check(case)
    except Exception as failure:  # the doctor's own edge: the other checks still have something to say
        logger.exception("a check failed")
        name = getattr(check, "__module__", "").rpartition(".")[2]
        yield warning(
            f"doctor.{name}",
            f"this check itself failed: {type(failure).__name__}: {failure}",
            why="what it looks at is not known",
            advice="report it, with the overrides",
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what verl and transformers print out of the report; errors still reach stderr."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
