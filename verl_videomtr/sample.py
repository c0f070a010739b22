# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The sample: one question about one video, and the parquet row that carries it through verl.

    annotation files -> Sample -> write_rows -> parquet -> verl's RLHFDataset -> agent loop -> Sample.from_row

This is the only place that knows the row's columns. A `Sample` checks itself when it is made, so a row is checked
when it is written and again when it is read. A row holds text, times and a path, never pixels: verl decodes a
`videos` column in its driver, while an episode picks its frames itself.
"""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path, PurePosixPath
from typing import Any, Literal, overload

import pyarrow as pa
import pyarrow.parquet as pq

from verl_videomtr.answers import LETTERS, answer_problem

AGENT_NAME = "video_mtr"
ABILITY = "video_qa"
QuestionType = Literal["multiple_choice", "numeric", "free_text"]

SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("agent_name", pa.string()),
        (
            "extra_info",
            pa.struct(
                [
                    ("index", pa.int64()),
                    ("split", pa.string()),
                    ("sample_id", pa.string()),
                    ("video", pa.string()),
                    ("duration_seconds", pa.float64()),
                    ("question", pa.string()),
                    ("options", pa.list_(pa.string())),
                    ("answer", pa.string()),
                    ("question_type", pa.string()),
                    ("segments", pa.list_(pa.list_(pa.float64()))),
                    ("groups", pa.string()),
                    ("metadata", pa.string()),
                ]
            ),
        ),
    ]
)
"""Every file has exactly these types, so that verl can concatenate files whose first rows have no segments or options.
`groups` and `metadata` are JSON text: as structs, each source's own keys would make a schema of its own."""

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096
"""Limits of Linux's file systems."""

_CONTROL_TOKEN = re.compile(
    r"<\|?[A-Za-z0-9_]+\|>|<\|[A-Za-z0-9_]+>|\[/?(?:IMG|IMG_BREAK|IMG_END|INST)\]"
    r"|<(?:image|video|IMG_CONTEXT|image_soft_token|(?:start|end)_of_(?:turn|image)|bos|eos)>"
)
"""Of the families that docs/models.md names, and the placeholders of other data formats ("<image>\\nWhat ...")."""
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_TIME_TOLERANCE_SECONDS = 1e-6


class SampleError(ValueError):
    """A sample, a row or a file of rows breaks the schema, or cannot be read or written."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question about one video, with what is known about where its evidence lies.

    Raises:
        SampleError: any field breaks its rule; the message names all broken ones.
    """

    data_source: str
    """Dataset name, e.g. `nextgqa`; verl groups its validation metrics by it."""
    sample_id: str
    """Unique over all files of a data source; stays the same however files are mixed."""
    index: int
    """Position in its file, unique there; verl uses it to tell prompts apart."""
    split: str
    """`train`, `val`, `test`, ... ; the reward and the logs read it, as verl does not say when it validates."""
    video: str
    """Path relative to the video root (POSIX separators), an absolute path, or a URL."""
    duration_seconds: float | None = None
    """Length of the video; None where the source does not say (then there can be no segments)."""
    question: str
    """The question alone, without options."""
    options: tuple[str, ...] = ()
    """Option texts without letters; none unless the question is multiple choice. A wrong option may be an empty text:
    published benchmarks have such questions, and count them."""
    answer: str
    """The option's letter for multiple choice, else the number or text."""
    question_type: QuestionType
    segments: tuple[tuple[float, float], ...] | None = None
    """Ground-truth evidence, (start, end) in seconds from the start of the video; None = not annotated."""
    groups: Mapping[str, str | list[str]] = field(default_factory=dict)
    """Fields that results are broken down by, e.g. duration class or task."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Anything else worth keeping: licence, original ids, columns of the source."""

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise SampleError(f"{'; '.join(problems)}; sample {self.sample_id!r} of {self.data_source!r}")

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Sample:
        """Read a row as verl or pyarrow hands it over (dicts; lists, tuples or arrays).

        Raises:
            SampleError: a column or field is missing, columns contradict each other, or a value breaks its rule.
        """
        info = _member(row, "extra_info", where="row")
        if info is None:
            raise SampleError("extra_info is empty; expected the sample's fields; rebuild the file with data_prep")

        def get(name: str) -> Any:
            return _member(info, name, where="extra_info")

        sample = cls(
            data_source=_member(row, "data_source", where="row"),
            sample_id=get("sample_id"),
            index=get("index"),
            split=get("split"),
            video=get("video"),
            duration_seconds=get("duration_seconds"),
            question=get("question"),
            options=_list_of_texts(get("options"), name="options"),
            answer=get("answer"),
            question_type=get("question_type"),
            segments=_segments(get("segments")),
            groups=_json_object(get("groups"), name="groups"),
            metadata=_json_object(get("metadata"), name="metadata"),
        )
        for column, expected in sample.to_row().items():
            if column != "extra_info" and _plain(row.get(column)) != expected:
                raise SampleError(
                    f"{column}={row.get(column)!r} contradicts extra_info; expected {expected!r}; "
                    f"sample {sample.sample_id!r}; edit samples through Sample.to_row, not column by column"
                )
        return sample

    def to_row(self) -> dict[str, Any]:
        """Return the row in verl's columns; `prompt` holds text only."""
        return {
            "data_source": self.data_source,
            "prompt": [{"role": "user", "content": question_text(self)}],
            "ability": ABILITY,
            "reward_model": {"style": "rule", "ground_truth": self.answer},
            "agent_name": AGENT_NAME,
            "extra_info": {
                "index": self.index,
                "split": self.split,
                "sample_id": self.sample_id,
                "video": self.video,
                "duration_seconds": self.duration_seconds,
                "question": self.question,
                "options": list(self.options),
                "answer": self.answer,
                "question_type": self.question_type,
                "segments": None if self.segments is None else [list(span) for span in self.segments],
                "groups": json.dumps(dict(self.groups), sort_keys=True),
                "metadata": json.dumps(dict(self.metadata), sort_keys=True),
            },
        }


def question_text(sample: Sample) -> str:
    """Return the question followed by one line `A. text` per option."""
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, sample.options, strict=False)]
    return "\n".join([sample.question, *lines])


def write_rows(path: str | os.PathLike[str], samples: Iterable[Sample]) -> Path:
    """Write samples to a parquet file, whole or not at all (written beside, then renamed).

    Raises:
        SampleError: there are no samples, two share an index or an id, or the file cannot be written.
    """
    path = Path(path)
    write_row_files({path: list(samples)})
    return path


def write_row_files(files: Mapping[Path, Sequence[Sample]]) -> None:
    """Write files that belong together as `write_rows` does: where one cannot be written, none is replaced."""
    with ExitStack() as stack:
        for path, samples in files.items():
            if not samples:
                raise SampleError(
                    f"no samples to write; expected at least one; {path}; check the filters and their counts"
                )
            _check_unique(samples, path=path)
            table = pa.Table.from_pylist([s.to_row() for s in samples], schema=SCHEMA)
            pq.write_table(table, stack.enter_context(replacing(path)), write_page_checksum=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside a file to write to; what is there in the end takes the file's place, whole.

    Raises:
        SampleError: it cannot be written; an older file stays as it is.
    """
    # A number of the process alone is not enough: machines and containers that share a disk have equal ones.
    beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, path)
    except OSError as error:
        raise SampleError(
            f"cannot write it ({error}); expected a place with room; {path}; make room or choose another; "
            "nothing was replaced"
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def read_rows(path: str | os.PathLike[str]) -> list[Sample]:
    """Read a parquet file of samples, every row checked.

    Raises:
        SampleError: the file is missing or not parquet, its columns differ from `SCHEMA`, it is empty, or a row
            breaks a rule; the message names file and row.
    """
    samples = []
    for row_idx, row in enumerate(load_rows(path)):
        try:
            samples.append(Sample.from_row(row))
        except SampleError as error:
            raise SampleError(f"{error}; {path}, row {row_idx}") from error
    _check_unique(samples, path=Path(path))
    return samples


def load_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a parquet file's rows as dicts; the columns are checked, the values are not.

    Raises:
        SampleError: the file is missing, not parquet, empty, or has other columns than `SCHEMA`.
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError(f"no such file; expected a parquet file of samples; {path}; make one with data_prep")
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise SampleError(
            f"not a readable parquet file ({error}); expected a file made by data_prep, whole; {path}; "
            "copy or make it again"
        ) from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise SampleError(
            f"columns {missing} are not there; expected {SCHEMA.names}; {path}; rebuild it with data_prep"
        )
    extra = [name for name in table.column_names if name not in SCHEMA.names]
    if extra:
        # verl copies every column over the trajectory's own fields, so a stray `num_turns` would replace the real one.
        raise SampleError(f"unknown columns {extra}; expected only {SCHEMA.names}; {path}; move them into metadata")
    if len(set(table.column_names)) < len(table.column_names):
        raise SampleError(f"columns {table.column_names} occur twice; expected {SCHEMA.names}; {path}; rebuild it")
    if table.num_rows == 0:
        raise SampleError(f"no rows; expected at least one; {path}; check the filters that made it")
    return rows


@overload
def resolve_video(
    video: str, root: str | os.PathLike[str] | None = ..., *, allow_urls: Literal[False] = False
) -> Path: ...
@overload
def resolve_video(video: str, root: str | os.PathLike[str] | None = ..., *, allow_urls: bool) -> Path | str: ...
def resolve_video(video: str, root: str | os.PathLike[str] | None = None, *, allow_urls: bool = False) -> Path | str:
    """Return where a sample's video lies; a row must not be able to name files outside the root.

    Links inside the root are followed: whoever owns the root put them there.

    Args:
        video: `Sample.video`.
        root: the configured video directory; None allows absolute paths only, wherever they point.
        allow_urls: hand a URL back unchanged instead of refusing it.
    Raises:
        SampleError: the path leaves the root, needs a root that is not set, or is a URL and URLs are not allowed.
    """
    if is_url(video):
        if allow_urls:
            return video
        raise SampleError(f"{video=} is a URL; expected a local path; download it first, or allow URLs")
    path = PurePosixPath(video)
    if (rule := _path_rule(video)) is not None:
        raise SampleError(f"{video=} is not usable; expected {rule}, inside the video root {root}")
    if root is None:
        if not path.is_absolute():
            raise SampleError(f"{video=} is relative and no video root is set; set the root, or use absolute paths")
        return Path(path)
    base = Path(root).absolute()
    if path.is_absolute() and not Path(path).is_relative_to(base):
        raise SampleError(f"{video=} lies outside the video root; expected a path inside {base}; move it or the root")
    return base / path


def _problems(sample: Sample) -> Iterable[str]:
    for name in ("data_source", "sample_id", "split", "video", "question", "answer"):
        value = getattr(sample, name)
        if not isinstance(value, str) or is_blank(value):
            yield f"{name}={value!r}; expected non-empty text"
        elif not _is_plain(value):
            yield f"{name}={value!r}; expected text that UTF-8 can hold, without NUL"
    if isinstance(sample.video, str) and not is_url(sample.video) and (rule := _path_rule(sample.video)) is not None:
        yield f"video={sample.video!r:.200}; expected {rule}"
    if isinstance(sample.index, bool) or not isinstance(sample.index, int) or not 0 <= sample.index < 2**63:
        yield f"index={sample.index!r}; expected an integer >= 0 of 64 bits"
    options = sample.options if isinstance(sample.options, (tuple, list)) else ()
    for text in (sample.question, *options):
        if isinstance(text, str) and (token := _CONTROL_TOKEN.search(text)):
            # It would be tokenized as the real thing, and an image placeholder without an image stops the run.
            yield f"{token.group()!r} in the text; expected no model control tokens in question or options"
    yield from _answer_problems(sample)
    yield from _time_problems(sample)
    for name, value in sample.groups.items():
        is_list_of_text = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not isinstance(name, str) or not (isinstance(value, str) or is_list_of_text):
            yield f"groups[{name!r}]={value!r}; expected text or a list of texts"
    try:
        json.dumps(dict(sample.metadata), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        yield f"metadata is not JSON ({error}); expected texts, numbers, lists and objects, not nested without end"


def _answer_problems(sample: Sample) -> Iterable[str]:
    if not isinstance(sample.options, (tuple, list)):
        yield f"options={sample.options!r}; expected a tuple of texts"
        return
    if sample.question_type == "multiple_choice" and not 2 <= len(sample.options) <= len(LETTERS):
        yield f"{len(sample.options)} options; expected 2 to {len(LETTERS)} for multiple choice"
        return
    problem = answer_problem(sample.answer, question_type=sample.question_type, options=sample.options)
    if problem is not None:
        yield problem
    if sample.question_type != "multiple_choice":
        if sample.options:
            yield f"options={sample.options!r}; expected none for question_type={sample.question_type!r}"
    elif not all(isinstance(text, str) and _is_plain(text) for text in sample.options):
        yield f"options={sample.options!r}; expected texts that UTF-8 can hold, without NUL"
    elif problem is None and is_blank(sample.options[LETTERS.index(sample.answer)]):
        yield f"options={sample.options!r}; expected the right one, {sample.answer}, not to be empty"


def _time_problems(sample: Sample) -> Iterable[str]:
    duration = sample.duration_seconds
    is_number = isinstance(duration, (int, float)) and not isinstance(duration, bool)
    if duration is not None and not (is_number and math.isfinite(duration) and duration > 0):
        yield f"duration_seconds={duration!r}; expected seconds > 0, or None where it is not known"
        return
    if sample.segments is None:
        return
    if duration is None:
        yield "segments without duration_seconds; expected the video's length, to check them against"
        return
    if not sample.segments:
        yield "segments=(); expected at least one interval, or None where evidence is not annotated"
    for span in sample.segments:
        if not _is_pair(span) or not 0.0 <= span[0] < span[1] <= duration + _TIME_TOLERANCE_SECONDS:
            yield f"segment {tuple(span)}; expected 0 <= start < end <= {duration} seconds"


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: it is empty, or blanks and marks like U+FEFF alone."""
    return all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)


def is_url(video: str) -> bool:
    """Whether a video is named by a URL, not a path."""
    return _URL.match(video) is not None


def _path_rule(video: str) -> str | None:
    """Return the rule that a path breaks; None if there may be such a file."""
    path = PurePosixPath(video)
    if "\0" in video or ".." in path.parts:
        return "a path without '..'"
    if not path.name:
        return "a path to a file"
    # A question in the video's column, as a rule. The system refuses to look for such a file.
    if max(map(_num_bytes, path.parts)) > MAX_NAME_BYTES or _num_bytes(video) >= MAX_PATH_BYTES:
        return f"a path with names of at most {MAX_NAME_BYTES} bytes"
    return None


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _is_plain(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, from a JSON escape that was cut in two.
        return False
    return "\0" not in text


def _member(row: Mapping[str, Any], name: str, *, where: str) -> Any:
    if name not in row:
        raise SampleError(f"{name!r} is not in the {where}; expected the columns of sample.SCHEMA; rebuild the file")
    return row[name]


def _list_of_texts(value: Any, *, name: str) -> tuple[str, ...]:
    value = () if value is None else _plain(value)
    if not isinstance(value, (list, tuple)):
        raise SampleError(f"{name}={value!r}; expected a list of texts; rebuild the file with data_prep")
    return tuple(value)


def _segments(value: Any) -> tuple[tuple[float, float], ...] | None:
    if value is None:
        return None
    spans = _plain(value)
    # Checked by type: the text "12" also is a pair, of characters that are numbers.
    if not isinstance(spans, list) or not all(isinstance(span, list) and _is_pair(span) for span in spans):
        raise SampleError(f"segments={spans!r}; expected pairs of seconds; rebuild the file")
    return tuple((float(start), float(end)) for start, end in spans)


def _is_pair(span: Sequence[Any]) -> bool:
    return len(span) == 2 and all(isinstance(time, Real) and not isinstance(time, bool) for time in span)


def _json_object(text: Any, *, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise SampleError(f"{name}={str(text)[:200]!r} is not JSON; expected a JSON object as text") from error
    if not isinstance(value, dict):
        raise SampleError(f"{name}={text!r}; expected a JSON object as text")
    return value


def _plain(value: Any) -> Any:
    """Turn the arrays that pandas makes of lists back into lists, so that columns compare by value."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return value
    return [_plain(item) for item in value]


def _check_unique(samples: Sequence[Sample], *, path: Path) -> None:
    for name in ("index", "sample_id"):
        seen: dict[Any, int] = {}
        for row_idx, sample in enumerate(samples):
            value = getattr(sample, name)
            if value in seen:
                raise SampleError(
                    f"{name}={value!r} stands in rows {seen[value]} and {row_idx}; expected it once; {path}; "
                    "join files with data_prep.mix, which renumbers and drops repeats"
                )
            seen[value] = row_idx
