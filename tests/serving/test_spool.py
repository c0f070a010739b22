# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Where encoded pictures lie: what comes back, how much disk is held and for how long, and disks that fail."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from verl_videomtr.serving import spool as spools
from verl_videomtr.serving.spool import Spool, SpoolError


def open_files(folder):
    """Files below a folder that this process holds open, with or without a name."""
    paths = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            paths.append(os.readlink(entry))
        except OSError:
            continue
    return [path for path in paths if path.startswith(str(folder))]


def test_texts_come_back_whoever_wrote_them(tmp_path):
    spool = Spool(tmp_path)
    texts = [bytes([65 + i % 26]) * (1 + 997 * i) for i in range(60)]
    with ThreadPoolExecutor(8) as threads:
        stored = list(threads.map(lambda text: spool.write([text, b"+" + text]), texts))
    assert [[piece.read() for piece in pieces] for pieces in stored] == [[text, b"+" + text] for text in texts]
    assert all(len(pieces[1]) == len(text) + 1 for pieces, text in zip(stored, texts, strict=True))


def test_files_have_no_name_and_go_with_their_last_text(tmp_path, monkeypatch):
    monkeypatch.setattr(spools, "SEGMENT_BYTES", 1000)
    spool = Spool(tmp_path)
    kept = [spool.write([b"x" * 600])[0] for _ in range(10)]
    assert list(tmp_path.iterdir()) == []
    assert len(open_files(tmp_path)) == 5
    # One text of each of two files: those two stay, and the one that is written to.
    kept = [kept[0], kept[3]]
    gc.collect()
    assert len(open_files(tmp_path)) == 3
    assert [len(piece.read()) for piece in kept] == [600, 600]
    del kept, spool
    gc.collect()
    assert open_files(tmp_path) == []


def test_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(SpoolError, match=r"cannot be kept .*expected room for them; .*nowhere; make room, set TMPDIR"):
        Spool(tmp_path / "nowhere").write([b"x"])


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from verl_videomtr.serving.spool import Spool, SpoolError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool(Path(sys.argv[1]))
(first,) = spool.write([b"a" * 60])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    spool.write([b"b" * 300])
except SpoolError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
(second,) = spool.write([b"c" * 70])
print(first.read() == b"a" * 60, second.read() == b"c" * 70)
"""


def test_full_disk_is_one_error_and_what_was_kept_stays_whole(tmp_path):
    """The system writes a part of the text, and refuses the rest."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, whole = done.stdout.splitlines()
    assert "encoded pictures cannot be kept ([Errno 27] File too large)" in refused
    assert whole == "True True"


def test_disk_that_loses_bytes_is_an_error(tmp_path):
    (stored,) = Spool(tmp_path).write([b"x" * 100])
    os.ftruncate(stored._segment.descriptor, 50)
    with pytest.raises(SpoolError, match="shorter than they were written"):
        stored.read()
