# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A validation's episodes in verl's own loggers: real event files of tensorboard and a real offline run of wandb."""

import hashlib
import html
import io
import json
import logging
import re

import numpy as np
import pytest
from grey_video import write_grey_video
from PIL import Image
from report_pages import record
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from verl.utils.tracking import Tracking, ValidationGenerationsLogger

from verl_videomtr.report.contact_sheet import EVIDENCE, GREY, WIDTH_PX, _clock, draw_sheet
from verl_videomtr.report.episodes import card, detail, read_facts
from verl_videomtr.report.sample_table import make_rows, to_markdown
from verl_videomtr.report.thumbnails import Film
from verl_videomtr.verl_plugin.episode_table import KEY, EpisodeTable
from verl_videomtr.video.decode_workers import WorkerConfig

FILM = Film(times_seconds=[k + 0.5 for k in range(8)], duration_seconds=8.0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_grey_video(folder / "here.mp4")
    return folder


def make_table(videos, number=2):
    return EpisodeTable(number, run={"videomtr": {"video": {"root": str(videos)}}}, workers=WorkerConfig())


def texts(count=4, **changes):
    return [json.dumps(record(sample_id=f"s-{n}", video="here.mp4", **changes)) for n in range(count)]


class Kept:
    """A backend of verl's that keeps what it is given, in place of a service that this machine does not have."""

    def __init__(self):
        self.rows = []

    def log(self, data, step):
        self.rows.append((step, data))

    def finish(self):
        pass


def open_tracking(folder, monkeypatch, *backends):
    monkeypatch.setenv("TENSORBOARD_DIR", str(folder / "tensorboard"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    monkeypatch.setenv("WANDB_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(folder / "metrics.jsonl"))
    return Tracking("project", "experiment", default_backend=list(backends), config={"trainer": {}})


def log_twice(table, tracking):
    generations = ValidationGenerationsLogger("project", "experiment")
    for step in (0, 5):
        seconds = table.log(texts(), tracking=tracking, generations=generations, step=step)
        tracking.log(data={"val/acc": 0.5, **seconds}, step=step)
    tracking.finish()
    return seconds


def test_tensorboard_has_the_table_and_a_picture_of_each_sample_at_each_step(videos, tmp_path, monkeypatch):
    seconds = log_twice(make_table(videos), open_tracking(tmp_path, monkeypatch, "console", "tensorboard"))
    assert list(seconds) == ["videomtr/val/seconds/log_episodes"]
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    pictures = events.Tags()["images"]
    assert len(pictures) == 2
    assert {tag.removeprefix(f"{KEY}/") for tag in pictures} < {f"s-{n}" for n in range(4)}
    for tag in pictures:
        shown = events.Images(tag)
        assert [picture.step for picture in shown] == [0, 5]
        assert Image.open(io.BytesIO(shown[0].encoded_image_string)).width == WIDTH_PX
    [tag] = events.Tags()["tensors"]
    text = events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    page = markdown_to_safe_html(text)
    assert (page.count("<tr>"), page.count("What is put down?"), page.count("<th>reward: fms</th>")) == (3, 2, 1)
    assert [scalar.step for scalar in events.Scalars("val/acc")] == [0, 5]


def test_wandb_has_a_table_with_pictures_at_each_step(videos, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    log_twice(make_table(videos), open_tracking(tmp_path, monkeypatch, "wandb"))
    # What `wandb sync` would send: a table's file in the run, and an artifact with the table and its pictures.
    assert len(list(tmp_path.rglob("files/media/table/videomtr/val/episodes_*.table.json"))) == 2
    pictures, tables = {}, {}
    for path in (tmp_path / "data" / "artifacts" / "staging").iterdir():
        content = path.read_bytes()
        if content.startswith(b"\x89PNG"):
            pictures[hashlib.sha256(content).hexdigest()] = Image.open(path).size
        elif "columns" in (table := json.loads(content)):
            tables[table["data"][0][0]] = table
    assert sorted(tables) == [0, 5]
    for table in tables.values():
        assert table["columns"][:6] == ["step", "sample", "question", "answer", "right answer", "right"]
        assert {"reward: acc", "reward: fms", "gate open", "best IoU"} < set(table["columns"])
        assert len(table["data"]) == 2
        for row in table["data"]:
            values = dict(zip(table["columns"], row, strict=True))
            assert (values["answer"], values["right"], values["reward"]) == ("B", True, 1.7)
            picture = values["what it looked at"]
            assert pictures[picture["sha256"]] == (picture["width"], picture["height"])


def test_a_logger_without_pictures_gets_text_and_that_is_said_once(videos, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(
        ValidationGenerationsLogger, "log_generations_to_swanlab", lambda self, samples, step: kept.log(samples, step)
    )
    kept = Kept()
    tracking = open_tracking(tmp_path, monkeypatch, "console")
    tracking.logger["swanlab"] = kept
    with caplog.at_level(logging.WARNING, "verl_videomtr"):
        table = make_table(videos)
        for step in (0, 5):
            table.log(texts(), tracking=tracking, generations=ValidationGenerationsLogger(), step=step)
    assert [step for step, _ in kept.rows] == [0, 5]
    assert kept.rows[0][1][0] == ("What is put down?", "\n".join(record()["episode"]["responses"]), 1.7)
    [line] = [entry.getMessage() for entry in caplog.records]
    assert line == "swanlab: videomtr.log_val_episodes gives text without pictures"


def test_a_table_that_no_logger_takes_is_said_once(videos, monkeypatch, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "verl_videomtr"):
        log_twice(make_table(videos), open_tracking(tmp_path, monkeypatch, "console", "file"))
    [line] = [entry.getMessage() for entry in caplog.records]
    assert "videomtr.log_val_episodes=2 reaches nobody: trainer.logger has console, file" in line
    assert [json.loads(text)["step"] for text in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0, 5]


def test_nothing_is_done_or_read_where_the_key_is_off(monkeypatch, tmp_path):
    tracking = open_tracking(tmp_path, monkeypatch, "console")
    table = EpisodeTable(0, run={}, workers=WorkerConfig())
    assert table.log(["no JSON"], tracking=tracking, generations=ValidationGenerationsLogger(), step=0) == {}


def test_a_record_or_a_logger_that_fails_leaves_the_training_alone(videos, monkeypatch, tmp_path, caplog):
    tracking = open_tracking(tmp_path, monkeypatch, "tensorboard")
    tracking.logger["tensorboard"].writer.close()
    tracking.logger["tensorboard"].writer = None
    for given in (texts(), ["[]"], [json.dumps({"sample_id": "s"})]):
        caplog.clear()
        seconds = make_table(videos).log(given, tracking=tracking, generations=ValidationGenerationsLogger(), step=3)
        assert list(seconds) == ["videomtr/val/seconds/log_episodes"]
        [entry] = caplog.records
        assert "at step 3 could not be logged; the training goes on" in entry.getMessage()
        assert entry.exc_info is not None
    tracking.logger.clear()


def test_a_video_that_is_gone_leaves_grey_frames_and_is_said_once(videos, monkeypatch, tmp_path, caplog):
    tracking = open_tracking(tmp_path, monkeypatch, "tensorboard")
    given = [json.dumps(record())]
    with caplog.at_level(logging.WARNING, "verl_videomtr"):
        table = make_table(videos)
        for step in (0, 1):
            table.log(given, tracking=tracking, generations=ValidationGenerationsLogger(), step=step)
    tracking.finish()
    [line] = [entry.getMessage() for entry in caplog.records]
    assert "gone.mp4" in line


def test_the_same_samples_are_shown_at_every_validation_whatever_their_order():
    records = [json.loads(text) for text in texts(8)]
    again = [*records[::-1], record(sample_id="s-0", video="here.mp4", correct=False)]
    first, second = (make_rows(lines, 3, run={}, workers=WorkerConfig()) for lines in (records, again))
    assert [row.sample_id for row in first] == [row.sample_id for row in second]


def draw(pixels, film=FILM, segments=((2.0, 4.0),), **episode):
    line = record(episode, segments=segments)
    facts = read_facts(line, run=0, phase="validation", file=0, line=0)
    return np.asarray(draw_sheet(card(line, facts=facts, name=""), detail(line, facts=facts), film=film, pixels=pixels))


def colour(text):
    return np.array([int(text[k : k + 2], 16) for k in (1, 3, 5)])


def where(sheet, text):
    """Rows and columns of the pixels that have a colour."""
    return np.nonzero((sheet == colour(text)).all(axis=2))


def test_a_sheet_shows_the_frames_that_were_shown_and_marks_the_evidence():
    pixels = {index: np.full((90, 160, 3), 10 * index + 100, dtype=np.uint8) for index in (0, 2, 3, 4, 7)}
    sheet = draw(pixels)
    for index, frame in pixels.items():
        rows, _ = np.nonzero((sheet == frame[0, 0]).all(axis=2))
        assert len(rows) > 3000, index
    # The evidence is 2 to 4 of 8 seconds: a bar on the timeline, and borders around frames 2 and 3 of turn 2 alone.
    rows, columns = where(sheet, EVIDENCE)
    bar = columns[rows == rows[0]]
    width = WIDTH_PX - 2 * 16 - 84
    assert [(bar[0] - 100) / width, (bar[-1] - 100) / width] == pytest.approx([2 / 8, 4 / 8], abs=0.003)
    borders = rows > rows[0] + 20
    frame_2, _ = np.nonzero((sheet == pixels[2][0, 0]).all(axis=2))
    assert 0 <= frame_2.min() - rows[borders].min() <= 20
    assert (columns[borders].min(), columns[borders].max()) == (16, 16 + 87 + 6 + 87)
    # Frames 2 and 3 stand at 2.5 s and 3.5 s: evidence whose very edges they are marks them too.
    at_edges, _ = where(draw(pixels, segments=[[2.5, 3.5]]), EVIDENCE)
    assert np.count_nonzero(at_edges > rows[0] + 20) == np.count_nonzero(borders)
    assert len(where(draw({}), GREY)[0]) > len(where(sheet, GREY)[0])


def test_frames_a_second_apart_have_clocks_of_their_own():
    times = (59.5, 60.5, 61.5, 62.5, 3599.9, 3725.5)
    assert [_clock(seconds) for seconds in times] == ["59.5 s", "1:00", "1:01", "1:02", "59:59", "1:02:05"]


def test_a_sheet_is_drawn_of_what_a_record_may_lack():
    for film in (Film(), FILM):
        for episode in (
            {"truth": None}, {"frames": [[], []], "ranges": [None, None]}, {"answer": None},
            {"frames": [list(range(8)) * 40, [10**9, -5]]}, {"ranges": [[-4, 10**9], None]},
        ):  # fmt: skip
            assert draw({}, film, **episode).shape[1] == WIDTH_PX
    assert draw({}, segments=None).shape[1] == WIDTH_PX


HOSTILE = (
    "![seen](http://127.0.0.1:9/x.png)", "[a](javascript:x)", "<img src=x onerror=alert(1)>", "a | b | c",
    "# head\n- list\n\n    code", "**bold** `code` ~~gone~~", "http://127.0.0.1:9/ <b>", "&lt;script&gt;", "\\| \\",
)  # fmt: skip


def test_a_strangers_text_stays_text_in_tensorboards_table():
    lines = [record({"answer": text}, sample_id=text, question=text, ground_truth=text) for text in HOSTILE]
    rows = make_rows(lines, len(lines), run={}, workers=WorkerConfig())
    page = markdown_to_safe_html(to_markdown(rows))
    assert re.findall(r"</?(?!table|thead|tbody|tr|th|td)[a-z]\w*", page) == []
    assert page.count("<td>") == page.count("<th>") * len(lines)
    shown = [html.unescape(cell) for cell in re.findall("<td>(.*?)</td>", page)]
    for text in HOSTILE:
        assert shown.count(" ".join(text.split())) == 4  # sample, question, answer, right answer
