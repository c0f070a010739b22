# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The report's page in a real browser: opened, filtered, compared, driven by keys, and given hostile lines."""

import json
import shutil

import pytest
from report_pages import LOST, read_block, record, write_lines

from benchmarks.report_lines import write_run
from verl_videomtr.cli import main

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need Playwright's Python client")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser tests need Chromium: apt-get install chromium")

WIDE, PHONE = (1280, 800), (390, 780)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as client:
        browser = client.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two runs of the same samples, each with two validations; the page and its index."""
    folder = tmp_path_factory.mktemp("report")
    for seed, name in enumerate(("plain", "bonus")):
        write_run(folder / name, episodes=96, videos=2, seed=seed, steps=4, skill=0.4 + 0.5 * seed, validation=24)
    write_lines(folder / "plain" / "step_000005.jsonl", LOST | {"step": 5})
    out = folder / "page.html"
    assert main(["report", str(folder / "plain"), str(folder / "bonus"), "--out", str(out)]) == 0
    return out, read_block(out.read_text(encoding="utf-8"), "index")


class Visit:
    """One open page, with everything that it asked for or complained about."""

    def __init__(self, page):
        self.page = page
        self.requests, self.complaints, self.dialogs = [], [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console", lambda line: self.complaints.append(line.text) if line.type in ("error", "warning") else None
        )
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))

    def open(self, path, fragment=""):
        self.page.goto("about:blank")
        self.requests.clear()
        self.page.goto(f"file://{path}{fragment}")
        return self.page

    def until(self, expression, argument=None):
        """Wait until an expression is true; the page's policy forbids what Playwright's own waiting evaluates."""
        for _ in range(200):
            if self.page.evaluate(expression, argument):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{expression} did not become true with {argument!r}")

    def count(self):
        return int(self.page.locator(".count b").inner_text().replace(",", ""))

    def assert_quiet(self, *, requests=1):
        """Nothing but the page itself was asked for, and nobody complained."""
        assert self.complaints == []
        assert self.dialogs == []
        assert len([url for url in self.requests if not url.startswith("data:")]) == requests, self.requests


@pytest.fixture
def visit(browser):
    context = browser.new_context(viewport={"width": WIDE[0], "height": WIDE[1]})
    yield Visit(context.new_page())
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_view_draws_in_both_colours_and_at_both_widths(browser, report, scheme, size):
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    visit = Visit(context.new_page())
    for view, landmark in (
        ("gallery", ".card img"),
        ("episode", ".timeline svg"),
        ("run", ".curve"),
        ("table", ".flip"),
    ):
        page = visit.open(report[0], f"#view={view}")
        page.locator(landmark).first.wait_for()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= size[0], f"{view} scrolls sideways"
        luminance = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        assert (luminance < 60) == (scheme == "dark")
        visit.assert_quiet()
    context.close()


def test_filters_are_kept_in_the_link(visit, report):
    out, index = report
    right = index["cards"]["right"]
    page = visit.open(out)
    assert visit.count() == len(right)
    page.locator("[data-filter=result-wrong]").click()
    assert visit.count() == right.count(False)
    page.locator("#filter-run").select_option("1")
    both = sum(r is False and run == 1 for r, run in zip(right, index["cards"]["run"], strict=True))
    assert visit.count() == both
    link = page.url
    assert "result=wrong" in link
    visit.open(out, "#" + link.partition("#")[2])
    assert visit.count() == both
    page.get_by_text("Clear filters").click()
    assert visit.count() == len(right)
    visit.assert_quiet()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("step_from=3&step_to=4", lambda c, k: c["step"][k] is not None and 3 <= c["step"][k] <= 4),
        ("reward_from=1", lambda c, k: c["reward"][k] >= 1),
        ("turns=3", lambda c, k: c["turns"][k] == 3),
        ("phase=validation", lambda c, k: c["phase"][k] == "validation"),
        ("group=task%3A+plot", lambda c, k: "task: plot" in c["groups"][k]),
        ("source=stand_in_1", lambda c, k: c["source"][k] == "stand_in_1"),
        ("flag=invalid", lambda c, k: bool(c["invalid"][k])),
        ("gate=closed", lambda c, k: c["gate"][k] is False),
        ("result=lost", lambda c, k: c["right"][k] is None),
        (
            "q=river+lantern",
            lambda c, k: {"river", "lantern"} <= set(c["question"][k].lower().replace("?", " ").split()),
        ),
    ],
)
def test_a_filter_keeps_what_it_names(visit, report, name, expected):
    out, index = report
    visit.open(out, f"#view=gallery&{name}")
    columns = index["cards"]
    number = sum(expected(columns, k) for k in range(len(columns["id"])))
    assert 0 < number < len(columns["id"])
    assert visit.count() == number


def test_sorting_puts_the_best_paid_first(visit, report):
    out, index = report
    page = visit.open(out)
    page.locator("#sort").select_option("best")
    assert float(page.locator(".card[data-place='0'] .reward").inner_text()) == round(max(index["cards"]["reward"]), 2)
    page.locator("#sort").select_option("worst")
    assert float(page.locator(".card[data-place='0'] .reward").inner_text()) == round(min(index["cards"]["reward"]), 2)


def test_everything_is_reached_by_keys(visit, report):
    page = visit.open(report[0])
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("river")
    visit.until("location.hash.includes('q=river')")
    assert page.evaluate("document.activeElement.id") == "search"  # typing goes on while the list changes
    page.keyboard.press("Escape")
    for key, place in (("ArrowDown", "0"), ("ArrowRight", "1"), ("ArrowLeft", "0"), ("ArrowRight", "1")):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.place") == place
    page.keyboard.press("Enter")
    page.locator(".timeline svg").wait_for()
    first = page.url
    page.keyboard.press("j")
    visit.until("url => location.href !== url", first)
    page.keyboard.press("k")
    visit.until("url => location.href === url", first)
    page.keyboard.press("c")
    page.locator(".two .side").nth(1).wait_for()
    page.keyboard.press("Escape")
    page.locator(".cards").wait_for()
    assert page.evaluate("document.activeElement.dataset.place") == "1"  # back where it was opened
    for key, name in (("3", "Run"), ("4", "Table"), ("2", "Episode"), ("1", "Gallery")):
        page.keyboard.press(key)
        assert page.locator("nav [aria-current]").inner_text() == name
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")
    visit.assert_quiet()


def test_an_episode_shows_its_turns_on_the_videos_time(visit, tmp_path):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record(bonus=[0.5, 0.0]))
    out = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "run"), "--out", str(out)]) == 0
    page = visit.open(out, "#view=episode")
    page.locator(".timeline svg").wait_for()
    left, right = (
        page.locator(".timeline .track").first.evaluate(f"r => Number(r.getAttribute('x')) + {part}")
        for part in ("0", "Number(r.getAttribute('width'))")
    )
    places = page.locator(".timeline .mark").evaluate_all(
        "marks => marks.map(m => Number(m.getAttribute('x')) + Number(m.getAttribute('width')) / 2)"
    )
    seconds = [8 * (x - left) / (right - left) for x in places]
    assert seconds == pytest.approx([0.5, 4.5, 7.5, 2.5, 3.5], abs=0.01)
    evidence = page.locator(".timeline .evidence").first
    start, width = (float(evidence.get_attribute(name)) for name in ("x", "width"))
    assert [8 * (x - left) / (right - left) for x in (start, start + width)] == pytest.approx([2, 4], abs=0.01)
    assert page.locator(".frame.hit").evaluate_all("all => all.map(f => f.dataset.frame)") == ["2", "3"]
    assert page.locator(".frame .grey").first.get_attribute("aria-label") == "Frame 0 at 0.5 s, no picture"
    text = page.locator("article").inner_text()
    for words in ("frames +0.50", "bonus +0.50", "gate open", "+0.40", "not yet", "a key", "2.5 s to 3.5 s"):
        assert words in text
    assert "evidence at 2.0 s to 4.0 s" in page.locator(".timeline svg").get_attribute("aria-label")


@pytest.mark.parametrize(
    ("changes", "episode", "marked"),
    [
        ({"segments": [[2.5, 3.5]]}, {}, ["2", "3"]),
        ({"segments": [[2.51, 3.49]]}, {}, []),
        ({"segments": [[0.0, 0.5], [3.5, 9.0]]}, {}, ["0", "4", "7", "3"]),
        ({"segments": None}, {"truth": [2, 3], "times_seconds": None}, ["2", "3"]),
        ({"segments": None}, {"truth": [3], "times_seconds": None}, ["3"]),
    ],
)
def test_a_frame_at_the_very_edge_of_the_evidence_is_marked(visit, tmp_path, changes, episode, marked):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record(episode, **changes))
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
    page = visit.open(tmp_path / "page.html", "#view=episode")
    page.locator(".frame").first.wait_for()
    assert page.locator(".frame.hit").evaluate_all("all => all.map(f => f.dataset.frame)") == marked


def test_rollouts_and_runs_are_set_side_by_side(visit, report):
    page = visit.open(report[0], "#view=episode&e=0.t.step_000001.1")
    page.locator(".related").first.wait_for()
    assert page.locator(".related").first.locator("li").count() == 7  # the rest of the group of eight
    other_run = page.locator(".related").nth(1).locator("li").first
    assert "B" in other_run.locator(".run-mark").inner_text()
    other_run.locator("button").click()
    page.locator(".two .side").nth(1).wait_for()
    assert page.locator(".two .timeline svg").count() == 2
    assert "with=1." in page.url
    page.go_back()
    visit.until("!document.querySelector('.two')")
    visit.assert_quiet()


def test_a_flip_opens_both_episodes(visit, report):
    page = visit.open(report[0], "#view=table")
    page.locator(".flip summary").first.click()
    page.locator(".flip-list a").first.click()
    page.locator(".two .side").nth(1).wait_for()
    results = page.locator(".side-head .badge").all_inner_texts()
    assert sorted(text.split()[-1] for text in results) == ["right", "wrong"]


def test_only_the_cards_in_sight_exist(visit, tmp_path):
    lines = [record(sample_id=f"s-{n}", uid=f"u-{n}", turn_rewards=[0.0, n / 1000]) for n in range(1500)]
    write_lines(tmp_path / "run" / "step_000001.jsonl", *lines)
    out = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "run"), "--out", str(out)]) == 0
    page = visit.open(out)
    page.locator(".card").first.wait_for()
    assert page.locator(".card").count() < 40
    page.keyboard.press("End")
    page.locator(".card[data-place='1499']").wait_for()
    assert page.locator(".card").count() < 40
    page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
    page.locator(".card[data-place='750']").wait_for()
    visit.assert_quiet()


def test_a_folder_reads_its_blocks_when_they_are_needed(visit, tmp_path):
    write_run(tmp_path / "run", episodes=96, videos=2, steps=2)
    out = tmp_path / "folder"
    assert main(["report", str(tmp_path / "run"), "--out", str(out), "--full"]) == 0
    page = visit.open(out / "index.html", "#view=run")
    page.locator(".curve").first.wait_for()
    assert visit.requests == [f"file://{out}/index.html"]
    page.keyboard.press("1")
    page.locator(".card img").first.wait_for()
    page.locator(".card").first.click()
    page.locator(".turn img").first.wait_for()
    [data] = (out / "data").iterdir()
    assert visit.requests[1:] == [f"file://{data}/films0.js", f"file://{data}/episodes0.js"]
    visit.assert_quiet(requests=3)


# Hostile lines

BAD = (
    "</script><script>window.pwned = 1</script>",
    "</script ><script >window.pwned = 1</SCRIPT/>",
    "<img src=x onerror='window.pwned = 1'><svg onload='window.pwned = 1'>",
    "javascript:window.pwned=1",
    "<a href='javascript:window.pwned=1'>click</a><iframe src='http://127.0.0.1:9/'></iframe>",
    "'\"><style>*{display:none}</style><link rel=stylesheet href='http://127.0.0.1:9/x.css'>",
    "</title><meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'><base href='http://127.0.0.1:9/'>",
    "{{7*7}}${window.pwned=1}`+alert(1)+`",
    "\u202ereversed\u202c zero\u200bwidth \u2066isolate\u2069 \u0000null \ud83d",
    "<svg><animate onbegin='window.pwned = 1' attributeName=x></svg><math><mi xlink:href='javascript:window.pwned=1'>",
    'x;}</style>*{background:url(http://127.0.0.1:9/)} #a::before{content:attr(href)} "];*{display:none}',
    "line\u2028separator\u2029 \udfff alone \ufeff\ufff9",
    "__proto__",
    "%3Cscript%3Ealert(1)%3C/script%3E&view=run",
)


def hostile_lines():
    for number, bad in enumerate(BAD):
        episode = {
            "responses": [f"<think>{bad}</think><retrieve>{bad}</retrieve>{bad}", f"<answer>{bad}</answer>"],
            "answer": bad, "messages": [[bad, 0, bad], bad], "stop_reason": bad, "frames": [[0, 10**9, -3], [2]],
            "actions": ["invalid", bad], "invalid_kinds": [bad], "invalid_reasons": [bad], "duration_seconds": 1e308,
        }  # fmt: skip
        yield record(
            episode, sample_id=f"{bad}{number % 2}", uid=bad, data_source=bad, split=bad, video=f"{bad}.mp4",
            question=bad, ground_truth=bad, groups={bad: [bad, number]}, options=[bad, bad], question_type=bad,
            components={bad: 1.0, "gate_open": 1}, turn_components=[{bad: 1.0}, {"acc": 1e308}], seconds={bad: 1.0},
            finish_reasons=[bad, bad], policy_version={"min": bad, "max": bad}, turn_rewards=[float("nan"), -1e308],
        )  # fmt: skip
        yield LOST | {"sample_id": bad, "kind": bad, "error": bad}


def test_hostile_lines_run_nothing_and_load_nothing(visit, tmp_path):
    for name in ("<img src=x onerror=alert(1)>", "run'\"><script>alert(2)<"):
        folder = tmp_path / name
        lines = [json.dumps(line) for line in hostile_lines()]
        path = write_lines(folder / "step_000001.jsonl", end="\n".join([*lines, '{"sample_id": "</script><script>']))
        shutil.copy(path, folder / "trajectories.jsonl")
        settings = {"videomtr": {bad: bad for bad in BAD}}
        (folder / "run.json").write_text(json.dumps(settings), encoding="utf-8")
        write_lines(folder / "metrics.jsonl", {"step": 1, "data": {f"val-core/{BAD[0]}/acc/mean@1": 0.5}})
    out = tmp_path / "page.html"
    assert main(["report", *map(str, sorted(p for p in tmp_path.iterdir() if p.is_dir())), "--out", str(out)]) == 0
    index = read_block(out.read_text(encoding="utf-8"), "index")
    page = visit.open(out)
    page.locator(".card").first.wait_for()
    for view in ("run", "table", "gallery"):
        page.evaluate(f"location.hash = '#view={view}'")
        page.locator({"run": ".run-card", "table": ".flip", "gallery": ".card"}[view]).first.wait_for()
        page.locator("main details").evaluate_all("all => all.forEach(item => { item.open = true; })")
    assert len(index["cards"]["id"]) >= 2 * len(BAD)
    for name in index["cards"]["id"]:
        page.evaluate("name => { location.hash = `#${new URLSearchParams({ view: 'episode', e: name })}`; }", name)
        page.locator(".side").first.wait_for()
        assert page.locator("main .empty").count() == 0
        page.locator("main details").evaluate_all("all => all.forEach(item => { item.open = true; })")
    for bad in BAD:  # the fragment is a stranger's text too
        for key in ("view", "e", "with", "q", "run", "sort", "step_from"):
            page.evaluate("([k, v]) => { location.hash = `#${new URLSearchParams({ [k]: v })}`; }", [key, bad])
            page.locator("nav [aria-current]").wait_for()
    assert page.evaluate("window.pwned") is None
    assert (
        page.locator("iframe, main script, main style, main link, main img[src='x'], [href^='javascript']").count() == 0
    )
    assert page.locator("base, meta[http-equiv=refresh], script[src]").count() == 0
    visit.assert_quiet()


def test_invisible_characters_are_shown(visit, tmp_path):
    write_lines(tmp_path / "run" / "step_000001.jsonl", record(question="left \u202eright\u202c zero\u200bwidth"))
    out = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "run"), "--out", str(out)]) == 0
    page = visit.open(out, "#view=episode")
    page.locator(".asked .unseen").first.wait_for()
    assert page.locator(".asked h2").inner_text() == "left U+202Eright\u0055+202C zeroU+200Bwidth"


def test_the_pages_own_policy_stops_what_a_mistake_would_let_in(visit, report):
    page = visit.open(report[0])
    page.locator(".card").first.wait_for()
    assert "TrustedHTML" in page.evaluate(
        "() => { try { document.body.innerHTML += '<p>'; return 'written'; } catch (error) { return String(error); } }"
    )
    page.evaluate(
        """() => {
            const script = document.createElement('script');
            try { script.text = 'window.pwned = 1'; } catch {}
            script.append('window.pwned = 1');
            document.body.append(script);
            const image = new Image();
            image.src = 'http://127.0.0.1:9/x.png';
            document.body.append(image);
        }"""
    )
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'stopped')") == "stopped"
    assert page.evaluate("window.pwned") is None
    assert all(
        "Content Security Policy" in text or "This document requires 'Trusted" in text for text in visit.complaints
    ), visit.complaints
    assert len(visit.complaints) >= 3
