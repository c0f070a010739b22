# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""How each benchmark's authors count, and what the paper reports for the same number of frames.

Numbers: arXiv 2508.20478v2, accuracy in per cent. Counting: the benchmarks' own repositories and leaderboards.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark's official way of counting."""

    title: str
    headline: str = "micro"
    """"micro": all questions alike. Else the group over whose values the headline is a mean (macro)."""
    tables: tuple[str, ...] = ()
    """Groups that the authors break results down by, in their order."""
    order: tuple[str, ...] = ()
    """Values that have an order of their own, such as lengths; others are sorted."""


BENCHMARKS: dict[str, Benchmark] = {
    "videomme": Benchmark(
        title="Video-MME",
        tables=("duration", "domain", "task_type", "sub_category"),
        order=("short", "medium", "long"),
    ),
    "mlvu": Benchmark(
        title="MLVU test",
        # The leaderboard's M-Avg.
        headline="task",
        tables=("task", "category"),
        order=("TR", "AR", "NQA", "ER", "PQA", "SQA", "AO", "AC", "TQA", "holistic", "single_detail", "multi_detail"),
    ),
    "mlvu_dev": Benchmark(title="MLVU dev", headline="task", tables=("task", "category")),
    "longvideobench": Benchmark(
        title="LongVideoBench validation",
        tables=("duration_group", "question_category", "level", "topic_category"),
        order=("15", "60", "600", "3600", "L1-Perception", "L2-Relation"),
    ),
    "lvbench": Benchmark(title="LVBench", tables=("question_type", "video_type")),
    "egoschema": Benchmark(title="EgoSchema subset"),
}

PAPER_MODELS = ("Qwen2.5-VL-7B", "Video-MTR 7B", "Qwen2.5-VL-3B", "Video-MTR 3B")
PAPER: dict[str, dict[int, tuple[float | None, ...]]] = {
    "videomme": {32: (53.6, 59.0, 51.5, 52.5), 64: (58.4, 62.2, 54.0, 54.7), 80: (59.5, 62.7, None, None)},
    "mlvu": {32: (41.6, 48.4, 41.2, 42.4), 64: (41.8, 49.8, 43.4, 47.1), 80: (45.2, 50.4, None, None)},
    "longvideobench": {32: (45.8, 52.3, None, None), 64: (47.0, 54.8, None, None), 80: (48.4, 57.1, None, None)},
    "lvbench": {32: (30.3, 38.2, 31.2, 36.1), 64: (33.7, 41.8, 34.7, 36.7), 80: (33.6, 42.3, None, None)},
    "egoschema": {32: (59.4, 62.4, 57.4, 59.5), 64: (62.6, 63.4, 59.4, 64.2), 80: (63.5, 68.8, None, None)},
}
"""Benchmark -> frames -> accuracy of PAPER_MODELS; None where the paper has none."""


def paper_rows(benchmark: str, frame_budget: int) -> list[tuple[str, float]]:
    """(model, accuracy in per cent) of the paper at this number of frames."""
    values = PAPER.get(benchmark, {}).get(frame_budget, ())
    return [(model, value) for model, value in zip(PAPER_MODELS, values, strict=False) if value is not None]


def counting(data_source: str) -> Benchmark:
    """How a data source is counted; one that is no benchmark known here by all of its groups."""
    return BENCHMARKS.get(data_source, Benchmark(title=data_source))
