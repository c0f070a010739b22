# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What must be carried to a machine without a network: wheels of the GPU lock less what the machine has, in pieces.

    python -m benchmarks.first_light.wheels missing --have FREEZE [--skip 'nvidia-*'] > missing.txt
    pip download --no-deps --require-hashes -r missing.txt -d WHEELS
    python -m benchmarks.first_light.wheels list WHEELS
    python -m benchmarks.first_light.wheels cut WHEELS PIECES
    python -m benchmarks.first_light.wheels join PIECES WHEELS        # there

FREEZE is `pip freeze` of that machine; a local version such as 2.11.0+cu130 counts as 2.11.0. A piece holds at most
60 MiB. Small wheels come first, so that few pieces bring most packages; a wheel larger than what is left of a piece is
cut. Every wheel's hash is held against the lock, before it is cut and after it is joined.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements/gpu.lock"
PIECE_BYTES = 60 * 2**20
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)")


@dataclass(frozen=True)
class Part:
    """A stretch of a wheel that travels in one piece."""

    wheel: str
    start: int
    length: int


def pins(text: str) -> dict[str, tuple[str, list[str]]]:
    """Read a lock or a `pip freeze`: normalised name -> (version, sha256 hashes); other lines are left out."""
    found: dict[str, tuple[str, list[str]]] = {}
    hashes: list[str] = []
    for line in text.splitlines():
        if match := _PIN.match(line):
            hashes = []
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = (match[2], hashes)
        hashes += re.findall(r"--hash=sha256:([0-9a-f]{64})", line)
    return found


def missing(lock: str, have: str, skip: Sequence[str] = ()) -> dict[str, tuple[str, list[str]]]:
    """The lock's packages that the machine has not, or in another version."""
    there = {name: version.partition("+")[0] for name, (version, _) in pins(have).items()}
    return {
        name: (version, hashes)
        for name, (version, hashes) in pins(lock).items()
        if there.get(name) != version.partition("+")[0] and not any(fnmatch.fnmatch(name, glob) for glob in skip)
    }


def plan_pieces(sizes: Mapping[str, int], limit: int = PIECE_BYTES) -> list[list[Part]]:
    """Divide wheels into pieces of at most `limit` bytes, smallest wheel first."""
    pieces: list[list[Part]] = [[]]
    room = limit
    for wheel, size in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
        start = 0
        while start < size:
            if not room:
                pieces.append([])
                room = limit
            length = min(room, size - start)
            pieces[-1].append(Part(wheel, start, length))
            start, room = start + length, room - length
    return pieces


def check_hash(wheel: Path, known: set[str]) -> str:
    """Return the wheel's sha256.

    Raises:
        SystemExit: the lock does not name it.
    """
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in known:
        raise SystemExit(f"{wheel} has sha256 {digest}; expected one of the lock's; download or carry it again")
    return digest


def cut(wheels: Path, pieces: Path, limit: int = PIECE_BYTES) -> None:
    """Write PIECES/00, 01, ...: files `<wheel>@<first byte>`."""
    sizes = {wheel.name: wheel.stat().st_size for wheel in wheels.iterdir()}
    for number, parts in enumerate(plan_pieces(sizes, limit)):
        folder = pieces / f"{number:02d}"
        folder.mkdir(parents=True)
        for part in parts:
            with (wheels / part.wheel).open("rb") as file:
                file.seek(part.start)
                (folder / f"{part.wheel}@{part.start:012d}").write_bytes(file.read(part.length))


def join(pieces: Path, wheels: Path, known: set[str]) -> None:
    """Put the wheels together again and check each."""
    wheels.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[Path]] = {}
    for path in sorted(pieces.glob("*/*@*"), key=lambda path: path.name):
        parts.setdefault(path.name.rpartition("@")[0], []).append(path)
    for name, paths in parts.items():
        with (wheels / name).open("wb") as file:
            for path in paths:
                file.write(path.read_bytes())
        check_hash(wheels / name, known)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", type=Path, default=LOCK, help="the lock whose wheels are meant (default: the GPU's)")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, folders in (("missing", ()), ("list", ("wheels",)), ("cut", ("wheels", "pieces"))):
        sub = commands.add_parser(command)
        for folder in folders:
            sub.add_argument(folder, type=Path, help=f"folder of the {folder}")
        if command == "missing":
            sub.add_argument("--have", type=Path, required=True, help="pip freeze of the machine")
            sub.add_argument("--skip", nargs="*", default=[], help="globs of names that are not carried")
    sub = commands.add_parser("join")
    sub.add_argument("pieces", type=Path, help="folder of the pieces")
    sub.add_argument("wheels", type=Path, help="folder for the wheels")
    arguments = parser.parse_args(argv)
    lock = arguments.lock.read_text(encoding="utf-8")
    known = {digest for _, hashes in pins(lock).values() for digest in hashes}
    if arguments.command == "missing":
        have = arguments.have.read_text(encoding="utf-8")
        for name, (version, hashes) in missing(lock, have, arguments.skip).items():
            print(f"{name}=={version} " + " ".join(f"--hash=sha256:{digest}" for digest in hashes))
    elif arguments.command == "join":
        join(arguments.pieces, arguments.wheels, known)
    else:
        digests = {wheel.name: check_hash(wheel, known) for wheel in sorted(arguments.wheels.iterdir())}
        sizes = {name: (arguments.wheels / name).stat().st_size for name in digests}
        for number, parts in enumerate(plan_pieces(sizes)):
            for part in parts:
                end = part.start + part.length
                print(f"{number:02d} {part.wheel} {part.start}-{end} of {sizes[part.wheel]} {digests[part.wheel]}")
        if arguments.command == "cut":
            cut(arguments.wheels, arguments.pieces)


if __name__ == "__main__":
    sys.exit(main())
