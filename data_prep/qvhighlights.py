# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""QVHighlights' annotations -> training rows, each query rewritten by a language model (the paper's second source).

The relevance filter comes first, so that nothing is paid for a row that it would drop; the rows are the same in either
order. QVHighlights is licensed CC BY-NC-SA 4.0: rows and journal lines say so, and what is made of them is bound by it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep import command
from data_prep.annotations import AnnotationError, read_records, require_columns
from data_prep.drops import DropList, Dropped, seconds_of, text_of
from data_prep.nextgqa import add_filter_arguments
from data_prep.relevance import RelevanceFilter, Segments, clip_segments, read_segments
from data_prep.rewriting import Choice, read_rewrite, request_body, request_key
from data_prep.videos import probe_videos, require_root
from verl_videomtr.sample import Sample, SampleError
from verl_videomtr.serving.batch import ask_all
from verl_videomtr.serving.completion import Completion
from verl_videomtr.serving.journal import Journal, JournalError
from verl_videomtr.serving.server import KEY_VARIABLE, Server

SOURCE = "qvhighlights"
LICENSE = "CC BY-NC-SA 4.0"
COLUMNS = ("qid", "query", "duration", "vid", "relevant_windows")
CUT = "length"
"""`finish_reason` of an answer that reached --max-tokens."""
MIN_QUERY_WORDS = 4
"""Shorter queries are dropped without asking: nothing in them tells one moment from another."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """One annotated query that passed the filter."""

    qid: str
    text: str
    clip: str
    """`<YouTube id>_<start>_<end>`; the annotated times count from the start of the clip."""
    video: str
    """Path below the video root."""
    duration_seconds: float
    segments: Segments

    @property
    def sample_id(self) -> str:
        return f"{SOURCE}/{self.qid}"


def read_queries(path: Path, *, relevance: RelevanceFilter, prefix: str, drops: DropList) -> tuple[list[Query], int]:
    """Read an annotation file; return the queries that pass the filter and the number of all.

    Raises:
        AnnotationError: the file is missing, not JSON lines, or has other columns (the test file has no windows).
    """
    records = read_records(path)
    require_columns(records, COLUMNS, path=path)
    queries: list[Query] = []
    seen: set[str] = set()
    for record in records:
        try:
            qid = text_of(record["qid"])
            if qid in seen:
                raise Dropped("qid occurs twice")
            seen.add(qid)
            query = _query(record, relevance=relevance, prefix=prefix)
            # What the query brings along must fit a row, before a question is paid for.
            _row(query, Choice(question=query.text, options=("a", "b"), answer="A"), model="-", annotation_file="-")
            queries.append(query)
        except Dropped as dropped:
            drops.add(f"{SOURCE}/{text_of(record['qid'])}", dropped)
        except SampleError as error:
            drops.add(f"{SOURCE}/{text_of(record['qid'])}", Dropped("breaks the row schema", str(error)))
    return queries, len(records)


def make_sample(query: Query, *, content: str, model: str, seed: int, annotation_file: str) -> Sample:
    """Make the row of a query from the model's answer.

    Raises:
        Dropped: the model found it unsuitable, or the answer breaks a rule.
    """
    return _row(query, read_rewrite(content, seed=f"{seed}/{query.qid}"), model=model, annotation_file=annotation_file)


def _row(query: Query, choice: Choice, *, model: str, annotation_file: str) -> Sample:
    return Sample(
        data_source=SOURCE,
        sample_id=query.sample_id,
        index=0,
        split="train",
        video=query.video,
        duration_seconds=query.duration_seconds,
        question=choice.question,
        options=choice.options,
        answer=choice.answer,
        question_type="multiple_choice",
        segments=query.segments,
        metadata={
            "license": LICENSE,
            "qid": query.qid,
            "query": query.text,
            "rewritten_by": model,
            "annotation_file": annotation_file,
            "source_video": query.clip.rsplit("_", 2)[0],
        },
    )


def _query(record: Mapping[str, Any], *, relevance: RelevanceFilter, prefix: str) -> Query:
    text, clip = text_of(record["query"]), text_of(record["vid"])
    duration_seconds = seconds_of(record["duration"])
    if duration_seconds is None:
        raise Dropped("malformed annotation", f"duration={record['duration']!r}; expected seconds > 0")
    segments, _ = clip_segments(read_segments(record["relevant_windows"]), duration_seconds=duration_seconds)
    if not text_of(record["qid"]) or not clip:
        raise Dropped("malformed annotation", "no qid or no vid")
    if not segments:
        raise Dropped("no window inside the video", f"{record['relevant_windows']} in {duration_seconds:g} s")
    relevance.check(segments, duration_seconds=duration_seconds)
    if len(text.split()) < MIN_QUERY_WORDS:
        raise Dropped(f"query of fewer than {MIN_QUERY_WORDS} words", repr(text))
    return Query(
        qid=text_of(record["qid"]),
        text=text,
        clip=clip,
        video=command.video_path(prefix, f"{clip}.mp4"),
        duration_seconds=duration_seconds,
        segments=segments,
    )


def _keep_openable(queries: list[Query], *, root: Path, drops: DropList) -> list[Query]:
    require_root((query.video for query in queries), root=root)
    probed = probe_videos((query.video for query in queries), root=root)
    for query in queries:
        if (problem := probed[query.video].problem) is not None:
            drops.add(query.sample_id, problem)
    return [query for query in queries if probed[query.video].problem is None]


def _entry(query: Query, answer: Completion, *, key: str, model: str) -> dict[str, Any]:
    return {
        "key": key,
        "source": SOURCE,
        "license": LICENSE,
        "qid": query.qid,
        "query": query.text,
        "model": model,
        "content": answer.content,
        "finish_reason": answer.finish_reason,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
    }


def _require_answers(journal: Journal) -> None:
    kinds = {"content": str, "model": str, "finish_reason": str, "input_tokens": int, "output_tokens": int}
    for key, entry in journal.entries.items():
        wrong = {name: entry.get(name) for name, kind in kinds.items() if not isinstance(entry.get(name), kind)}
        if wrong:
            raise JournalError(
                f"an entry has {wrong}; expected an answer's {sorted(kinds)}; {journal.path}, key {key!r}; "
                "remove that line, or move the journal away to start again"
            )


def _is_cut(entry: Mapping[str, Any]) -> bool:
    """Whether the answer broke off at the limit of its length. One that ended exactly there is whole."""
    return entry["finish_reason"] == CUT and _is_malformed(entry)


def _is_malformed(entry: Mapping[str, Any]) -> bool:
    try:
        read_rewrite(entry["content"], seed="")
    except Dropped as dropped:
        return dropped.reason != "judged unsuitable"
    return False


def _ask_missing(
    queries: Mapping[str, Query], bodies: Mapping[str, dict[str, Any]], journal: Journal, arguments: argparse.Namespace
) -> tuple[list[Completion], dict[str, str], dict[str, str]]:
    """Ask for what the journal lacks; return the new answers and, by key, what was refused and what failed."""
    server = Server(
        base_url=arguments.base_url,
        concurrency=arguments.concurrency,
        timeout_seconds=arguments.timeout,
        max_attempts=arguments.max_attempts,
        backoff_seconds=arguments.backoff,
    )
    is_retried = _is_malformed if arguments.retry_malformed else _is_cut
    retried = {key for key in bodies if key in journal.entries and is_retried(journal.entries[key])}
    missing = [(key, body) for key, body in bodies.items() if key not in journal.entries or key in retried]
    new: list[Completion] = []
    interval = 0.5 if sys.stderr.isatty() else 30.0
    with tqdm(
        total=len(bodies), initial=len(bodies) - len(missing), desc="rewriting", unit="query", mininterval=interval
    ) as bar:

        def answered(key: str, answer: Completion) -> None:
            journal.append(_entry(queries[key], answer, key=key, model=arguments.model))
            new.append(answer)
            bar.update()

        outcome = asyncio.run(ask_all(missing, server=server, answered=answered))
    return new, outcome.refused, outcome.unanswered


def _print_cost(new: list[Completion], entries: Iterable[Mapping[str, Any]], arguments: argparse.Namespace) -> None:
    paid = [(entry["input_tokens"], entry["output_tokens"]) for entry in entries]
    for name, tokens in (
        ("this run", [(answer.input_tokens, answer.output_tokens) for answer in new]),
        ("journal in all", paid),
    ):
        num_input, num_output = (sum(column) for column in zip(*tokens, strict=True)) if tokens else (0, 0)
        line = f"{name}: {len(tokens):,} answers; input tokens {num_input:,}; output tokens {num_output:,}"
        if arguments.price_in is not None and arguments.price_out is not None:
            line += f"; cost {(num_input * arguments.price_in + num_output * arguments.price_out) / 1e6:,.4f}"
        print(line)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit {arguments.limit}; expected 1 or more")
    journal_path = arguments.journal or arguments.out.with_name(f"{arguments.out.stem}.journal.jsonl")
    if journal_path.resolve() in (arguments.out.resolve(), arguments.annotations.resolve()):
        raise ValueError(f"--journal {journal_path}; expected a file of its own, as answers are added to it")
    if (arguments.price_in is None) != (arguments.price_out is None):
        raise ValueError("--price-in and --price-out; expected both or neither; add the other one")
    drops = DropList()
    relevance = RelevanceFilter(max_ratio=arguments.max_ratio, min_duration_seconds=arguments.min_duration)
    passed, num_all = read_queries(arguments.annotations, relevance=relevance, prefix=arguments.prefix, drops=drops)
    if arguments.videos is not None:
        passed = _keep_openable(passed, root=arguments.videos, drops=drops)
    asked = passed[: arguments.limit]
    if not asked:
        command.list_drops(drops, out=arguments.out)
        raise AnnotationError(f"no query is left to ask for; expected at least one; {arguments.annotations}")
    bodies = {
        query.qid: request_body(query.text, model=arguments.model, max_tokens=arguments.max_tokens) for query in asked
    }
    if arguments.dry_run:
        print(json.dumps(bodies[asked[0].qid], indent=2, ensure_ascii=False))
        print(f"queries: {num_all:,}; pass the filter: {len(passed):,}; to ask for: {len(asked):,}; nothing was sent")
        return 0
    by_key = {f"{query.qid}/{request_key(bodies[query.qid])}": query for query in asked}
    with Journal(journal_path) as journal:
        _require_answers(journal)
        new, refused, unanswered = _ask_missing(
            by_key, {key: bodies[query.qid] for key, query in by_key.items()}, journal, arguments
        )
        _print_cost(new, journal.entries.values(), arguments)
        if unanswered:
            raise SampleError(
                f"{len(unanswered):,} of {len(asked):,} queries have no answer ({next(iter(unanswered.values()))}); "
                f"expected all; {journal.path} keeps the others; run the same command again"
            )
        samples = _samples(by_key, journal, refused, arguments, drops)
    num_answered = len(asked) - len(refused)
    not_usable = ("judged unsuitable", "malformed answer", "answer cut off at its longest")
    num_suitable = num_answered - sum(len(drops.ids(reason)) for reason in not_usable)
    command.print_table(
        [
            ("source", "queries", "pass filter", "answered", "suitable", "kept"),
            (SOURCE, num_all, len(passed), num_answered, num_suitable, len(samples)),
        ]
    )
    command.finish(samples, drops=drops, out=arguments.out, videos=None)
    print(f"every answer: {journal.path} ({LICENSE}, like the rows)")
    return 0


def _samples(
    by_key: Mapping[str, Query],
    journal: Journal,
    refused: Mapping[str, str],
    arguments: argparse.Namespace,
    drops: DropList,
) -> list[Sample]:
    samples: list[Sample] = []
    for key, query in by_key.items():
        try:
            if key in refused:
                raise Dropped("refused by the server", refused[key])
            entry = journal.entries[key]
            if _is_cut(entry):
                detail = f"{entry['output_tokens']} tokens; run again with a larger --max-tokens"
                raise Dropped("answer cut off at its longest", detail)
            sample = make_sample(
                query,
                content=entry["content"],
                model=entry["model"],
                seed=arguments.seed,
                annotation_file=arguments.annotations.name,
            )
            samples.append(replace(sample, index=len(samples)))
        except Dropped as dropped:
            drops.add(query.sample_id, dropped)
        except SampleError as error:
            drops.add(query.sample_id, Dropped("breaks the row schema", str(error)))
    return samples


def main(argv: Sequence[str] | None = None) -> int:
    arguments = command.parser(
        "Turn QVHighlights' queries into four-option questions with a language model behind an OpenAI-compatible API.\n"
        f"The API key is read from {KEY_VARIABLE}; a local server needs none.",
        example="python -m data_prep.qvhighlights --annotations highlight_train_release.jsonl "
        "--base-url https://api.openai.com/v1 --model gpt-4o --out data/qvhighlights.parquet --limit 20",
    )
    add = arguments.add_argument
    add("--annotations", type=Path, required=True, metavar="FILE.jsonl", help="highlight_{train,val}_release.jsonl")
    add("--base-url", required=True, metavar="URL", help="address of the API, often ending in /v1")
    add("--model", required=True, metavar="NAME", help="model to ask; the paper used GPT-4o")
    add("--journal", type=Path, metavar="FILE", help="answers already paid for (default: beside --out)")
    add("--limit", type=int, metavar="N", help="ask for the first N queries that pass the filter only")
    add("--dry-run", action="store_true", help="print the first request and the number of requests; send nothing")
    add("--retry-malformed", action="store_true", help="ask again where the journal's answer breaks a rule")
    add("--seed", type=int, default=0, help="places the right options (default: 0)")
    add("--concurrency", type=int, default=8, metavar="N", help="requests in flight at once (default: 8)")
    add("--timeout", type=float, default=60.0, metavar="SECONDS", help="longest wait for an answer (default: 60)")
    add("--max-attempts", type=int, default=6, metavar="N", help="tries per request (default: 6)")
    add("--backoff", type=float, default=1.0, metavar="SECONDS", help="first wait between tries; doubles (default: 1)")
    add("--max-tokens", type=int, default=512, metavar="N", help="longest answer (default: 512)")
    add("--price-in", type=float, metavar="X", help="price of a million input tokens, to print the cost")
    add("--price-out", type=float, metavar="X", help="price of a million output tokens")
    add_filter_arguments(arguments)
    command.add_output_arguments(arguments, prefix=SOURCE)
    return command.run(_run, arguments.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
