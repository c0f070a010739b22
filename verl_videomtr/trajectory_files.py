# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Trajectory lines on disk: records in, JSONL files out, and back; the one place that knows their names and form.

    DIR/run.json               what the lines were made with
    DIR/step_000012.jsonl      a training step's trajectories, played and lost
    DIR/val/step_000012.jsonl  a validation's
    OUT/trajectories.jsonl     an evaluation's, beside its run.json

What has been written is on the disk when the call returns. A process that is killed while it appends leaves at most one
cut line at the end: readers count it and go on, and the next writer takes it off. docs/records.md describes a line.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_videomtr.trajectory import SCHEMA_VERSION

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
EVAL_FILE = "trajectories.jsonl"
STEP_FILES = "step_*.jsonl"
PACKED_FILES = "*.jsonl.gz"
"""Files that somebody has packed since; no reader here unpacks them."""
VAL_FOLDER = "val"

_DEFAULTS: dict[str, Any] = {
    "schema_version": 1, "status": "played", "step": None, "uid": None, "session": None, "question_type": None,
    "options": [], "segments": None, "extra_info": {}, "turn_components": [], "gate_open": None, "bonus": [],
    "policy_version": None, "finish_reasons": [], "prompt_tokens": [], "response_tokens": [], "advantages": None,
    "values": None, "returns": None,
}  # fmt: skip
"""What a line may leave unsaid; one of schema version 1 has no version and says none of it."""


_OURS = "give files that videomtr.dump.dir or `videomtr eval` has written (verl's own dumps are of another form)"
_RUN_PARTS = ("videomtr", "reward", "sampling", "val_sampling", "drift")


class TrajectoryFileError(ValueError):
    """A file or line that is no trajectory of a known form; the message says where and what to do."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a file: a record, or what is wrong with it."""

    number: int
    """From 1."""
    record: dict[str, Any] | None
    """`status` "played" or "lost"; an older line's with None or [] where it says nothing."""
    problem: str = ""
    """Why there is no record: what is wrong, where, and what to do."""
    cut: bool = False
    """Whether the line lacks its end, as a killed writer leaves it."""


@dataclass(frozen=True, kw_only=True)
class TrajectoryFile:
    """What one file holds."""

    path: Path
    records: list[dict[str, Any]]
    """One per line, `status` "played" or "lost"; older lines with None or [] where they say nothing."""
    num_cut: int
    """1 if the last line was cut off, as by a killed writer; it is in no record."""

    @property
    def played(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["status"] == "played"]

    @property
    def lost(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["status"] == "lost"]


def step_file(folder: str | Path, step: int) -> Path:
    """Return where a step's lines stand in a training's or a validation's folder."""
    return Path(folder) / f"step_{step:06d}.jsonl"


def list_files(folder: str | Path) -> list[Path]:
    """Return a folder's files of trajectory lines: of training, or of an evaluation, then those of validation.

    Raises:
        TrajectoryFileError: there are none, or some are packed.
    """
    folder = Path(folder)
    if packed := [*folder.glob(PACKED_FILES), *(folder / VAL_FOLDER).glob(PACKED_FILES)]:
        raise TrajectoryFileError(
            f"{len(packed)} packed files; expected lines as they were written, or those would be left out; "
            f"{sorted(packed)[0]}; unpack them first (gunzip), or move them away"
        )
    found = [*sorted(folder.glob(STEP_FILES)), *folder.glob(EVAL_FILE)]
    found += sorted((folder / VAL_FOLDER).glob(STEP_FILES))
    if not found:
        below = sorted(path.parent for name in (STEP_FILES, EVAL_FILE) for path in folder.glob(f"*/{name}"))
        such = f", such as {below[0]}" if below else ""
        raise TrajectoryFileError(
            f"no trajectory lines; expected step_*.jsonl, {VAL_FOLDER}/step_*.jsonl or {EVAL_FILE}; {folder}; give the "
            f"folder of videomtr.dump.dir, or of `videomtr eval --out`{such}"
        )
    return found


def read_file(path: str | Path) -> TrajectoryFile:
    """Read a file of trajectory lines.

    Raises:
        TrajectoryFileError: a line before the last is no JSON, a line is no trajectory, or of a newer form.
    """
    lines = list(read_lines(path))
    for place, line in enumerate(lines):
        if line.record is None and not (line.cut and place == len(lines) - 1):
            raise TrajectoryFileError(line.problem)
    records = [line.record for line in lines if line.record is not None]
    return TrajectoryFile(path=Path(path), records=records, num_cut=len(lines) - len(records))


def read_lines(path: str | Path) -> Iterator[Line]:
    """Yield a file's lines one by one; what is no trajectory is yielded with its problem, and stops nothing."""
    path = Path(path)
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                yield Line(number=number, record=_known(json.loads(raw), path=path, number=number))
            except TrajectoryFileError as error:
                yield Line(number=number, record=None, problem=str(error))
            except (ValueError, RecursionError) as error:
                yield Line(
                    number=number,
                    record=None,
                    problem=f"a line that is no JSON ({error}); expected one trajectory a line; {path}, line {number}; "
                    "restore the file, or take the line out",
                    cut=not raw.endswith(b"\n"),
                )


def write_file(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as a file's only lines, all or none of them; what is there is replaced.

    Raises:
        OSError: they cannot be written; the message says where and what to do.
    """
    path = Path(path)
    replace_file(path, b"".join(map(_encode, records)))


def append_to_file(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add records behind a file's lines, all or none; a line that a killed writer has left cut is taken off first.

    Raises:
        OSError: they cannot be written; the message says where and what to do.
    """
    path = Path(path)
    lines = memoryview(b"".join(map(_encode, records)))
    with _told_where(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not buffered: what could not be written must not be tried again when the file is closed.
        with open(path, "ab+", buffering=0) as file:
            _take_off_cut_line(file, path)
            size = file.seek(0, os.SEEK_END)
            try:
                while lines:
                    lines = lines[file.write(lines) :]
                os.fsync(file.fileno())
            except OSError:
                # A part of the lines would stand there twice when they are written again.
                file.truncate(size)
                raise


def replace_file(path: Path, content: bytes) -> None:
    """Write a file's whole content, or leave what is there.

    Raises:
        OSError: it cannot be written; the message says where and what to do.
    """
    # One name for all writers: what a killed one has left is overwritten when the step is trained again.
    beside = path.with_name(f".{path.name}.tmp")
    with _told_where(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_run(folder: str | Path, run: Mapping[str, Any]) -> None:
    """Write a folder's run.json, whole or not at all."""
    replace_file(Path(folder) / RUN_FILE, (json.dumps(run, indent=2, ensure_ascii=False) + "\n").encode())


def read_run(folder: str | Path) -> dict[str, Any] | None:
    """Read a folder's run.json, a validation's from the folder above; None where there is none.

    Raises:
        TrajectoryFileError: it is no JSON object.
    """
    folder = Path(folder)
    path = folder / RUN_FILE
    if not path.is_file() and folder.name == VAL_FOLDER:
        path = folder.parent / RUN_FILE
    if not path.is_file():
        return None
    expected = f"expected a JSON object that describes a run; {path}; restore or remove it"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrajectoryFileError(f"no JSON ({error}); {expected}") from error
    if not isinstance(run, dict):
        raise TrajectoryFileError(f"a JSON {type(run).__name__}; {expected}")
    settings = run.get("videomtr")
    settings = settings if isinstance(settings, dict) else {}
    parts = {
        **{name: run.get(name) for name in _RUN_PARTS},
        **{name: settings.get(name) for name in ("episode", "video")},
    }
    if wrong := [name for name, value in parts.items() if not isinstance(value, (dict, type(None)))]:
        raise TrajectoryFileError(f"{', '.join(wrong)} is no JSON object; {expected}")
    files = run.get("data") or []
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        raise TrajectoryFileError(f"data is no list of files; {expected}")
    return run


def lost_record(
    *, sample_id: str, kind: str, error: str, uid: str | None = None, session: int | None = None, **values: Any
) -> dict[str, Any]:
    """Describe a trajectory that could not be made.

    Args:
        kind: "unreadable" (its video), "failed" (anything else), or what the host tells apart.
        values: `step`, `split`, `data_source` where they are known.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "lost",
        "step": None,
        "uid": uid,
        "session": session,
        "sample_id": sample_id,
        "split": None,
        "kind": kind,
        "error": " ".join(error.split()),
        **values,
    }


def _known(line: Any, *, path: Path, number: int) -> dict[str, Any]:
    """Check a decoded line, and complete an older one."""
    if not isinstance(line, dict) or not isinstance(line.get("sample_id"), str):
        raise TrajectoryFileError(
            f"a line without a sample_id that is a text; expected a trajectory; {path}, line {number}; {_OURS}"
        )
    version = line.get("schema_version", 1)
    if version not in (1, SCHEMA_VERSION):
        raise TrajectoryFileError(
            f"schema_version={version!r}; expected 1 or {SCHEMA_VERSION}; {path}, line {number}; read it with the "
            "version of verl-videomtr that wrote it, or a later one"
        )
    if line.get("status") == "lost":
        return line
    if line.get("status", "played") != "played":
        raise TrajectoryFileError(
            f"status={line['status']!r}; expected 'played' or 'lost'; {path}, line {number}; {_OURS}"
        )
    return {**_DEFAULTS, **line}


def _encode(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", errors="surrogatepass")


def broken_line(error: Exception, *, where: str) -> TrajectoryFileError:
    """Make the error of a line that lacks something, or holds something else, of what a trajectory holds."""
    return TrajectoryFileError(
        f"a line that is no whole trajectory ({type(error).__name__}: {error}); expected what videomtr.dump.dir or "
        f"`videomtr eval` writes; {where}; restore the file, or take the line out"
    )


@contextlib.contextmanager
def _told_where(path: Path) -> Iterator[None]:
    """Name the file where it cannot be written: the system's own error of a full disk does not."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"a file cannot be written ({error.strerror or error}); expected room and a folder to write in; {path}; "
            "make room or give another folder, and run the same command again"
        ) from error


def _take_off_cut_line(file: Any, path: Path) -> None:
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    logger.warning("%s ends with a cut line of %d bytes, which is taken off", path, end - whole)
    file.truncate(whole)
    file.seek(0, os.SEEK_END)
