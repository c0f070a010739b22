# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""How large the report's page is, how long it takes to make and to open, and how it scrolls: one Markdown table.

    python -m benchmarks.report_load WORK [--episodes 100 2000 20000]

Needs Chromium and Playwright's Python client. Frames are timed while the page scrolls for 5 s at 40 px a frame, in a
browser without a GPU; the processor time of its main thread does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks.report_lines import write_run

WINDOW = {"width": 1440, "height": 900}
TIMES_OPENED = 3
SCROLL = """() => new Promise((done) => {
    const times = [];
    const begin = performance.now();
    let last = begin;
    const step = (now) => {
        times.push(now - last);
        last = now;
        scrollTo(0, scrollY + 40);
        if (now - begin < 5000) requestAnimationFrame(step);
        else done(times.slice(2));
    };
    requestAnimationFrame(step);
})"""
HEADINGS = (
    "episodes", "page", "made in", "memory", "opens in", "frames a second", "95% of frames within",
    "of them the page's own", "JavaScript heap",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Making:
    """What it took to make a page."""

    megabytes: float
    seconds: float
    peak_megabytes: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for lines and pages")
    parser.add_argument(
        "--episodes",
        type=int,
        nargs="+",
        default=[100, 2_000, 20_000],
        help="numbers of episodes, one row each (default: %(default)s)",
    )
    parser.add_argument("--videos", type=int, default=40, help="different videos (default: %(default)s)")
    arguments = parser.parse_args(argv)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    with sync_playwright() as client:
        browser = client.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for cells in _measure_all(browser, arguments):
            print(f"| {' | '.join(cells)} |", flush=True)
        browser.close()
    return 0


def _measure_all(browser: Browser, arguments: argparse.Namespace) -> Iterator[list[str]]:
    for number in arguments.episodes:
        run = arguments.work / f"run_{number}"
        if not (run / "run.json").exists():
            write_run(run, episodes=number, videos=arguments.videos)
        page = arguments.work / f"page_{number}.html"
        yield [f"{number:,}", *_told(_make(run, page)), *_open_and_scroll(browser, page)]
    folder = arguments.work / f"folder_{number}"
    yield [
        f"{number:,}, `--full`",
        *_told(_make(run, folder, "--full")),
        *_open_and_scroll(browser, folder / "index.html"),
    ]


def _make(run: Path, out: Path, *options: str) -> Making:
    """Make a page in a process of its own."""
    command = [sys.executable, "-m", "verl_videomtr.cli", "report", str(run), "--out", str(out), *options]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}; expected 0; its output is above")
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    return Making(
        megabytes=sum(path.stat().st_size for path in files) / 1e6,
        seconds=seconds,
        peak_megabytes=usage.ru_maxrss / 1e3,
    )


def _told(made: Making) -> list[str]:
    return [f"{made.megabytes:.1f} MB", f"{made.seconds:.0f} s", f"{made.peak_megabytes:.0f} MB"]


def _open_and_scroll(browser: Browser, path: Path) -> list[str]:
    page = browser.new_page(viewport=WINDOW)
    seconds = []
    for _ in range(TIMES_OPENED):
        page.goto("about:blank")
        started = time.monotonic()
        page.goto(path.resolve().as_uri())
        page.locator(".card img, .card .grey").first.wait_for()
        seconds.append(time.monotonic() - started)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = _main_thread_seconds(session)
    times = sorted(page.evaluate(SCROLL))
    own = (_main_thread_seconds(session) - before) / len(times)
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    page.close()
    return [
        f"{statistics.median(seconds):.2f} s",
        f"{1000 * len(times) / sum(times):.0f}",
        f"{times[int(0.95 * len(times))]:.0f} ms",
        f"{1000 * own:.1f} ms",
        f"{heap:.0f} MB",
    ]


def _main_thread_seconds(session: Any) -> float:
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])


if __name__ == "__main__":
    raise SystemExit(main())
