# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What all data commands share: their arguments, how they end, and how a failure reads."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.drops import DropList, Dropped
from data_prep.videos import Probed, keep_openable
from verl_videomtr.answers import LETTERS
from verl_videomtr.sample import SCHEMA, Sample, is_url, write_rows

SHOWN_IDS = 3
MAX_SHOWN = 100


def parser(description: str, *, example: str) -> argparse.ArgumentParser:
    """Return a parser whose --help ends with an example, and which is named as the example calls it."""
    return argparse.ArgumentParser(
        prog=" ".join(example.split()[:3]),
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_output_arguments(arguments: argparse.ArgumentParser, *, prefix: str | None) -> None:
    """Add --videos, --prefix and --out.

    Args:
        prefix: default directory of the source below the video root; None = the source's name, known later.
    """
    shown = "the source's name" if prefix is None else repr(prefix)
    arguments.add_argument(
        "--videos",
        type=Path,
        metavar="DIR",
        help="the video root, the same one that training gets; drops rows whose video is not there or does not open",
    )
    arguments.add_argument(
        "--prefix",
        default=prefix,
        metavar="DIR",
        help=f"directory of this source inside the video root, '' for the root itself (default: {shown})",
    )
    arguments.add_argument("--out", type=rows_file, required=True, metavar="FILE.parquet", help="rows; see README.md")


def rows_file(text: str) -> Path:
    """Return where rows go, before hours are spent on them; for `type=` of an argument.

    Raises:
        argparse.ArgumentTypeError: verl would not read a file of that name, or what is there is something else.
    """
    path = Path(text)
    if path.suffix != ".parquet" or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}; expected the name of a file that ends in .parquet, as verl asks")
    try:
        is_free = not path.exists() or pq.read_schema(path).names == SCHEMA.names
    except (pa.ArrowException, OSError, ValueError):
        is_free = False
    if not is_free:
        raise argparse.ArgumentTypeError(
            f"{text!r} is there and is no file of rows; expected a new name, or rows to replace; "
            "give another name, or move the file away"
        )
    return path


def video_path(prefix: str, name: str) -> str:
    """Join a source's directory in the video root and a file in it, with POSIX separators; a URL stays as it is.

    Raises:
        Dropped: no file is named, or nothing but an ending.
    """
    if is_url(name):
        return name
    if PurePosixPath(name).name in ("", ".mp4"):
        raise Dropped("no video named")
    if is_url(prefix):
        return f"{prefix.rstrip('/')}/{name}"
    return str(PurePosixPath(prefix) / name)


def run(command: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run a command; print an expected failure as one line on stderr and return its exit code."""
    try:
        return command(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def finish(
    samples: list[Sample],
    *,
    drops: DropList,
    out: Path,
    videos: Path | None,
    probed: Mapping[str, Probed] | None = None,
) -> list[Sample]:
    """Check the videos if a root is given, write the rows and the list of drops, and print both in short.

    Args:
        videos: the video root.
        probed: what opening the videos showed, where that was done before.

    Returns:
        The samples that were written, numbered.
    Raises:
        SampleError: nothing is left to write; the list of drops is printed and written first.
    """
    if videos is not None:
        kept = keep_openable(samples, root=videos, drops=drops, probed=probed)
        samples = [replace(sample, index=index) for index, sample in enumerate(kept)]
    list_drops(drops, out=out)
    write_rows(out, samples)
    print_letters(samples)
    print(f"wrote {len(samples):,} rows of {len({s.video for s in samples}):,} videos: {out}")
    return samples


def list_drops(drops: DropList, *, out: Path) -> None:
    """Print the number of drops per reason, with the first few ids; write every one of them beside the output."""
    path = out.with_name(f"{out.stem}.dropped.jsonl")
    drops.write(path)
    print(f"dropped {len(drops):,}" + (":" if drops else ""))
    for reason, count in drops.counts().items():
        ids = [shown(record_id) for record_id in drops.ids(reason)]
        more = ", ..." if len(ids) > SHOWN_IDS else ""
        print(f"  {count:>7,}  {reason}  ({', '.join(ids[:SHOWN_IDS])}{more})")
    if drops:
        print(f"every dropped record: {path}")


def shown(text: str) -> str:
    """Return an annotation's text fit for a terminal: short, on one line, with escapes for what cannot be printed."""
    cut = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


def print_letters(samples: Iterable[Sample]) -> None:
    """Print how often each letter is the right answer: a policy must not gain by always choosing one."""
    letters = Counter(sample.answer for sample in samples if sample.question_type == "multiple_choice")
    if letters:
        shares = (f"{letter} {letters[letter] / letters.total():.1%}" for letter in LETTERS if letters[letter])
        print(f"right answers: {'  '.join(shares)}")


def print_table(rows: Iterable[Iterable[str | int | float]]) -> None:
    """Print rows as columns: the first left, the others right aligned, numbers with thousands separators."""
    cells = [[value if isinstance(value, str) else f"{value:,}" for value in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]))
