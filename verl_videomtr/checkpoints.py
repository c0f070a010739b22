# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints of a folder are complete, which are kept, and what a run resumes from; folders only, no tensors.

verl counts the checkpoints that one process has saved, drops the oldest before the new one is whole, and empties its
tracker file before it writes it. So the plugin keeps count itself: a folder carries a mark while it is being written,
and older ones are removed only once the tracker names the new one.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

TRACKER = "latest_checkpointed_iteration.txt"
"""verl's file that names the newest complete checkpoint's step."""
SAVING_MARK = ".videomtr_saving"
"""In a checkpoint's folder while it is being written; one that has it is never resumed from and never counted."""
_FOLDER = re.compile(r"global_step_(\d+)")


def step_folder(root: Path, step: int) -> Path:
    """Name a checkpoint's folder as verl does."""
    return root / f"global_step_{step}"


def list_complete(root: Path, parts: Collection[str]) -> list[int]:
    """Return the steps of the checkpoints that can be resumed from, oldest first.

    Args:
        parts: folders that one consists of, `actor` and perhaps `critic`; on nodes without a common disk the trainer's
            own may hold none of them, and then they are not asked for.
    """
    folders = _folders(root)
    asked = list(parts) if _any_part(folders.values(), parts) else []
    return sorted(step for step, path in folders.items() if _is_complete(path, asked))


def mark_saving(root: Path, step: int) -> Path:
    """Make a checkpoint's folder and mark it as unfinished, on disk before anything else is."""
    folder = step_folder(root, step)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / SAVING_MARK, "w") as file:
        os.fsync(file.fileno())
    return folder


def mark_complete(root: Path, step: int) -> None:
    """Take the mark off, and make the tracker name this step whatever became of verl's own writing of it."""
    write_tracker(root, step)
    (step_folder(root, step) / SAVING_MARK).unlink(missing_ok=True)


def write_tracker(root: Path, step: int) -> None:
    """Replace the tracker in one move, so that no moment has an empty one."""
    beside = root / f".{TRACKER}.tmp"
    with open(beside, "w") as file:
        file.write(str(step))
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, root / TRACKER)


def say_how_to_resume(root: str | Path) -> str:
    """Say in words where the last checkpoint is, and how a run goes on from it."""
    tracker = Path(root) / TRACKER
    step = tracker.read_text().strip() if tracker.is_file() else ""
    if not step:
        return "no checkpoint has been saved; start the run again"
    return f"the last checkpoint is step {step} in {root}; start the run again with trainer.resume_mode=auto"


def repair_tracker(root: Path, parts: Collection[str]) -> int | None:
    """Make the tracker name a complete checkpoint before a run resumes from it.

    Returns:
        The step that it names; None where there is none to resume from.
    """
    complete = list_complete(root, parts)
    tracker = root / TRACKER
    text = tracker.read_text(errors="replace").strip() if tracker.is_file() else ""
    named = int(text) if text.isdecimal() else None
    if named in complete or not tracker.is_file():
        return named
    unusable = named is None or (step_folder(root, named) / SAVING_MARK).exists()
    if not complete:
        if unusable:
            logger.warning("%s names no complete checkpoint and none lies beside it: training starts again", tracker)
            tracker.unlink()
            return None
        return named  # verl says itself what is missing
    # Steps behind the named one are not newer knowledge: another run may have left them.
    newest = max([step for step in complete if named is None or step <= named] or complete)
    logger.warning(
        "%s names %s, which is not complete (the run ended while saving it); step %d is the newest that is",
        tracker,
        "nothing" if named is None else f"step {named}",
        newest,
    )
    write_tracker(root, newest)
    return newest


def plan_removal(root: Path, newest: int, *, keep: Mapping[str, int | None]) -> list[Path]:
    """Find what exceeds the numbers to keep, whichever process saved it, and unfinished leftovers of other steps.

    Args:
        newest: the step that was saved last; it always stays, and so do steps behind it.
        keep: part of a checkpoint (`actor`, `critic`) -> how many of its newest stay; None or below 1 keeps all.
    """
    folders = {step: path for step, path in _folders(root).items() if step <= newest}
    removed = [path for step, path in folders.items() if step != newest and (path / SAVING_MARK).exists()]
    whole = sorted((step for step, path in folders.items() if path not in removed), reverse=True)
    visible = _any_part(folders.values(), keep)
    dropped: dict[int, list[Path]] = {}
    for part, number in keep.items():
        if number and number > 0:
            holding = [step for step in whole if not visible or (folders[step] / part).is_dir()]
            for step in holding[number:]:
                dropped.setdefault(step, []).append(folders[step] / part)
    for step in whole:
        stays = [part for part in keep if folders[step] / part not in dropped.get(step, ())]
        if visible:
            stays = [part for part in stays if (folders[step] / part).is_dir()]
        # What lies beside the models (data.pt, the schedule) is of no use without them.
        bounded = any(number and number > 0 for number in keep.values())
        if step != newest and bounded and not stays:
            removed.append(folders[step])
        else:
            removed += dropped.get(step, [])
    return removed


def remove(paths: Iterable[Path]) -> None:
    """Remove folders, on the node that this runs on; one that is not there is none."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def set_aside(path: Path, step: int) -> Path | None:
    """Move a file that a resumed run would empty; return its new name, or None where there was nothing to keep.

    Args:
        step: the step that is resumed from.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return None
    number, aside = 1, path.with_name(f"{path.stem}.until_step_{step}{path.suffix}")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.stem}.until_step_{step}_{number}{path.suffix}")
    os.replace(path, aside)
    return aside


def _any_part(folders: Iterable[Path], parts: Iterable[str]) -> bool:
    return any((path / part).is_dir() for path in folders for part in list(parts))


def _folders(root: Path) -> dict[int, Path]:
    if not root.is_dir():
        return {}
    matches = ((_FOLDER.fullmatch(path.name), path) for path in root.iterdir() if path.is_dir())
    return {int(match.group(1)): path for match, path in matches if match}


def _is_complete(path: Path, parts: Iterable[str]) -> bool:
    # verl writes data.pt behind the models, and removes parts of an old checkpoint, never the whole.
    unfinished = (path / SAVING_MARK).exists() or not (path / "data.pt").is_file()
    return not unfinished and all((path / part).is_dir() for part in parts)
