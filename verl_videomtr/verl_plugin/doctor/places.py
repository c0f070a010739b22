# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the run writes and goes on from: folders, which are tried, room for checkpoints, and the one it resumes."""

from __future__ import annotations

import importlib.util
import netrc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from verl_videomtr.planner import GIB, checkpoint_bytes
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, error, note, ok, warning

CHECKPOINTS = "trainer.default_local_dir"
WRITTEN = {
    CHECKPOINTS: "the run stops at its first checkpoint, and what it trained is lost",
    "trainer.rollout_data_dir": "the run stops behind its first step",
    "trainer.validation_data_dir": "the run stops at its first validation",
    "videomtr.dump.dir": "the run stops behind its first step",
}
"""Folders that the trainer makes and writes to, and what happens where it cannot."""
READ_EVERYWHERE = (
    "videomtr.video.root",
    "videomtr.video.cache.dir",
    "actor_rollout_ref.model.path",
    "critic.model.path",
    "reward.custom_reward_function.path",
)
"""Paths that workers of every node read."""
LOGGERS = {
    "console": "", "file": "", "wandb": "wandb", "tensorboard": "tensorboard", "mlflow": "mlflow", "swanlab": "swanlab",
    "clearml": "clearml", "trackio": "trackio", "vemlp_wandb": "volcengine_ml_platform", "rl_insight": "rl_insight",
    "tracking": "wandb",
}  # fmt: skip
"""Backends of verl's `Tracking`, and the package that each imports."""
RESUME_MODES = ("auto", "disable", "resume_path")


def check_places(case: Case) -> Iterator[Finding]:
    """Try them all; on another machine only what is written in the configuration itself."""
    found = [*_loggers(case), *_resume(case)]
    found += [*_relative(case)]
    if not case.elsewhere:
        found += [*_folders(case), *_room(case)]
    yield from found
    if not any(finding.level.value in ("error", "warning") for finding in found):
        yield ok("places", f"checkpoints go to {case.get(CHECKPOINTS)}; folders, loggers and resumption are in order")


def existing(path: Path) -> Path:
    """The path itself, or the nearest one above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def complaint(folder: str) -> str:
    """Why a folder cannot be made and written, found out by writing; "" where it can."""
    place = existing(Path(folder).expanduser())
    if not place.is_dir():
        return f"{place} is a file"
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as refusal:
        return f"{place}: {refusal.strerror}"


def _folders(case: Case) -> Iterator[Finding]:
    for key, why in WRITTEN.items():
        folder = case.get(key)
        if folder is None or (key == CHECKPOINTS and int(case.get("trainer.save_freq", -1)) <= 0):
            continue
        if wrong := complaint(str(folder)):
            advice = f"{key}=<a folder that can be written>"
            yield error("places.folder", f"{key}={folder} cannot be made or written ({wrong})", why=why, advice=advice)


def _relative(case: Case) -> Iterator[Finding]:
    """A relative path begins in the folder of the process that reads it, and each node's processes have their own."""
    if int(case.config.trainer.nnodes) < 2:
        return
    for key in READ_EVERYWHERE:
        value = str(case.get(key, ""))
        if not value or "://" in value or case.follows(key) or Path(value).expanduser().is_absolute():
            continue
        if key.endswith("model.path") and not Path(value).is_dir():
            continue  # a name of the hub
        yield error(
            "places.relative",
            f"{key}={value} is relative, and the run has {case.get('trainer.nnodes')} nodes",
            why="Ray's workers on another node begin it in another folder, and do not find it there",
            overrides=[f"{key}={Path(value).absolute()}"],
        )


def _room(case: Case) -> Iterator[Finding]:
    """The checkpoints that are kept, and the one that is written beside them, against the disk."""
    save_freq = int(case.get("trainer.save_freq", -1))
    if save_freq <= 0 or complaint(str(case.get(CHECKPOINTS))):
        return
    if case.planned is None:
        yield note("places.room", "the model's sizes are not known here, so room for checkpoints was not looked at")
        return
    each = checkpoint_bytes(case.planned) / GIB
    keep = case.get("trainer.max_actor_ckpt_to_keep")
    planned = None if case.num_steps is None else -(-case.num_steps // save_freq)
    # verl removes the oldest before it writes; the plugin only after, so that one is whole at any time.
    count = min(count for count in (keep and int(keep) + 1, planned, 1000) if count is not None)
    place = existing(Path(str(case.get(CHECKPOINTS))).expanduser())
    free = shutil.disk_usage(place).free / GIB
    if each * count <= free:
        return
    fits = int(free // each)
    roles = ["actor", "critic"] if case.has_critic else ["actor"]
    yield (error if fits < 1 else warning)(
        "places.room",
        f"{count} checkpoints of {each:.0f} GiB take {each * count:.0f} GiB, {free:.0f} are free at {place}",
        why="the disk is full while a checkpoint is written, and the run stops",
        overrides=[f"trainer.max_{role}_ckpt_to_keep={fits - 1}" for role in roles] if fits > 1 else [],
        advice="" if fits > 1 else f"{CHECKPOINTS}=<a folder on a larger disk>",
    )


def _loggers(case: Case) -> Iterator[Finding]:
    given = case.get("trainer.logger", [])
    names = [given] if isinstance(given, str) else list(given)
    good = [name for name in names if name in LOGGERS]
    for name in names:
        package = LOGGERS.get(name)
        rest = [other for other in good if other != name] or ["console"]
        fix = f"trainer.logger=[{','.join(rest)}]"
        if package is None:
            yield error(
                "places.logger",
                f"trainer.logger has {name!r}; expected some of {', '.join(LOGGERS)}",
                why="verl refuses it behind the start of all workers",
                overrides=[fix],
            )
        elif case.elsewhere or not package:
            continue
        elif importlib.util.find_spec(package) is None:
            yield error(
                "places.logger",
                f"trainer.logger has {name}, and the package {package} is not installed",
                why="the trainer imports it behind the start of all workers, and stops",
                advice=f"pip install {package.replace('_', '-')}, or {fix}",
            )
        elif package == "wandb" and not _knows_wandb():
            yield warning(
                "places.logger",
                "trainer.logger has wandb, and this machine has no key for it",
                why="in a worker without a terminal wandb stops the run where it would ask for one",
                advice=f"wandb login, or export WANDB_MODE=offline, or {fix}",
            )


def _knows_wandb() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return True
    try:
        return bool(netrc.netrc().authenticators("api.wandb.ai"))
    except (OSError, netrc.NetrcParseError):
        return False


def _resume(case: Case) -> Iterator[Finding]:
    mode = str(case.get("trainer.resume_mode"))
    if mode not in RESUME_MODES:
        yield error(
            "places.resume",
            f"trainer.resume_mode={mode}; expected one of {', '.join(RESUME_MODES)}",
            why="verl logs it and then fails, behind the start of all workers",
            overrides=["trainer.resume_mode=auto"],
        )
        return
    given = case.get("trainer.resume_from_path")
    if given is not None and mode != "resume_path":
        yield error(
            "places.resume",
            f"trainer.resume_from_path={given} with trainer.resume_mode={mode}, which reads no path",
            why="the run begins from elsewhere, or from nothing",
            overrides=[
                "trainer.resume_mode=resume_path" if Path(str(given)).is_dir() else "trainer.resume_from_path=null"
            ],
        )
        return
    folder = _resumed_folder(case, mode, given)
    if isinstance(folder, Finding):
        yield folder
    elif folder is not None and not case.elsewhere:
        yield from _judge_checkpoint(case, folder, mode)


def _resumed_folder(case: Case, mode: str, given: object) -> Path | Finding | None:
    if mode == "resume_path":
        step = str(given).rpartition("global_step_")[2]
        if not isinstance(given, str) or "global_step_" not in given or not step.isdigit():
            return error(
                "places.resume",
                f"trainer.resume_from_path={given}; expected a folder whose name ends in global_step_N",
                why="verl takes the step from the name, behind the start of all workers",
                advice="trainer.resume_from_path=<.../global_step_N>, or trainer.resume_mode=auto",
            )
        return Path(given)
    root = Path(str(case.get(CHECKPOINTS)))
    latest = root / "latest_checkpointed_iteration.txt"
    if mode != "auto" or case.elsewhere or not latest.is_file():
        return None
    text = latest.read_text(encoding="utf-8", errors="replace").strip()
    folder = root / f"global_step_{text}"
    return folder if text.isdigit() and folder.is_dir() else None


def _judge_checkpoint(case: Case, folder: Path, mode: str) -> Iterator[Finding]:
    anew = "trainer.resume_mode=disable"
    fresh = [anew] if mode == "auto" else ["trainer.resume_mode=auto", "trainer.resume_from_path=null"]
    roles = ["actor", *(["critic"] if case.has_critic else [])]
    if missing := [str(folder / role) for role in roles if not (folder / role).is_dir()]:
        yield error(
            "places.resume",
            f"{missing[0]} is not there",
            why="verl loads it behind the start of all workers, and stops",
            overrides=fresh,
            advice="or another checkpoint",
        )
        return
    sizes = {int(file.name.split("_")[3]) for file in (folder / "actor").glob("model_world_size_*_rank_0.pt")}
    if case.is_fsdp and sizes and case.num_gpus not in sizes:
        yield error(
            "places.resume",
            f"{folder} was saved by {min(sizes)} GPUs, this run has {case.num_gpus}",
            why="verl's FSDP checkpoints are read by as many ranks as wrote them",
            advice=f"as many GPUs, or {' '.join(fresh)}, with actor_rollout_ref.model.path from `videomtr export`",
        )
    step = int(folder.name.rpartition("_")[2])
    if case.num_steps is not None and step >= case.num_steps:
        yield warning(
            "places.resume",
            f"{folder} is of step {step}, the run has {case.num_steps} steps",
            why="nothing is left to train: the run ends at once",
            overrides=[f"trainer.total_training_steps={step + case.num_steps}"],
            advice=f"or {anew}",
        )
    elif mode == "auto":
        yield note("places.resume", f"the run goes on from {folder}", advice=f"{anew} starts again from step 0")
