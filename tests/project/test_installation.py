# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The package as users get it: the wheel and the sdist in an environment of their own, beside old packages."""

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import awkward_videos as awkward
import pytest

import verl_videomtr
from verl_videomtr.missing_packages import explain

ROOT = Path(__file__).parents[2]
OWN = ("verl_videomtr", "__editable__", "av", "av.libs", "decord", "decord.libs", "filelock")


def test_a_package_that_is_missing_is_named_with_what_to_install():
    error = ImportError("cannot import name 'x' from 'nothing.at.all'", name="nothing.at.all")
    assert explain(error) == (
        "nothing is not installed; expected nothing (cannot import name 'x' from 'nothing.at.all'); "
        "pip install 'nothing'"
    )


def test_a_package_that_is_too_old_is_named_with_the_range_that_pip_follows():
    reason = explain(ImportError("cannot import name 'Discard' from 'av.stream' (/x/av.py)", name="av.stream"))
    wanted = next(text for text in requires("verl-videomtr") if re.match(r"av\b", text))
    assert reason.startswith(f"av {version('av')} is installed; expected {wanted} (cannot import")
    assert reason.endswith(f"pip install '{wanted}'")


@pytest.mark.parametrize("name", [None, "verl_videomtr.episode", "data_prep.mix", "json"])
def test_a_fault_of_this_package_keeps_its_traceback(name):
    assert explain(ImportError("cannot import name 'x'", name=name)) is None


def test_library_modules_leave_the_log_level_to_the_user():
    script = (
        "import logging, verl_videomtr.verl_plugin.register, verl_videomtr.verl_plugin.agent_loop;"
        "print(logging.getLogger('verl_videomtr.verl_plugin.agent_loop').getEffectiveLevel())"
    )
    for level, number in (("ERROR", 40), ("DEBUG", 10)):
        run = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "VERL_LOGGING_LEVEL": level},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.split()[-1] == str(number)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of the tracked files, and the wheel made of the sdist."""
    folder = tmp_path_factory.mktemp("build")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "tree" / name)
    make = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, folder], cwd=folder / "tree", check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(sdist, folder / "sdist")
    (tree,) = (folder / "sdist").iterdir()
    make = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, folder], cwd=tree, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def test_the_wheel_made_of_the_sdist_says_what_it_is_and_carries_its_data(built):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = set(wheel.namelist())
        (said,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(wheel.read(said))
        entries = wheel.read(said.replace("METADATA", "entry_points.txt")).decode()
    assert metadata["Version"] == verl_videomtr.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) == {"decord", "dev", "docs", "vllm"}
    needed = metadata.get_all("Requires-Dist")
    assert "verl<0.10,>=0.9.1" in needed
    assert 'verl[vllm]; extra == "vllm"' in needed
    assert not any("-r " in need for need in needed)
    assert "[verl.plugins]\nvideomtr = verl_videomtr.verl_plugin.register" in entries
    carried = [
        path for path in (ROOT / "verl_videomtr").rglob("*") if path.suffix in (".yaml", ".js", ".css", ".typed")
    ]
    assert len(carried) > 40
    missing = {str(path.relative_to(ROOT)) for path in carried} - names
    assert not missing
    assert "hydra_plugins/videomtr_search_path.py" in names
    assert not any(name.startswith(("tests/", "recipes/", "benchmarks/")) for name in names)


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(request, built, tmp_path_factory):
    """A fresh environment with that file, an old av and filelock, no decord, and what else is installed here."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    others = folder / "others"
    others.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if re.split(r"[-.]", entry.name)[0] not in OWN and entry.suffix not in (".pth", ".egg-link"):
            (others / entry.name).symlink_to(entry)
    (site,) = (folder / "venv/lib").glob("*/site-packages")
    (site / "zz_others.pth").write_text(f"{others}\n")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", built[request.param], "av==16.1.0", "filelock==3.13.4"], check=True)
    return folder, pip, built[request.param]


def _run(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [folder / "venv/bin" / arguments[0], *arguments[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stdout, run.stderr


@pytest.mark.slow
def test_beside_old_packages_it_says_what_to_do_in_one_line_and_then_works(installed):
    folder, pip, file = installed
    awkward.write_video(folder / "v.mp4", count=60)
    commands = [
        ("videomtr", "frames", "v.mp4"),
        ("videomtr", "doctor", "+videomtr/recipe=paper"),
        ("videomtr", "plan", "+videomtr/recipe=paper"),
        ("python", "-m", "data_prep.check", "none.parquet"),
    ]
    for command in commands:
        code, _, err = _run(folder, *command)
        lines = [line for line in err.splitlines() if "Warning" not in line]
        assert code != 0, command
        assert "Traceback" not in err, command
        assert re.search(
            r"av 16\.1\.0 is installed; expected av<19,>=17\.1 .*pip install 'av<19,>=17\.1'$", lines[-1]
        ), command

    subprocess.run([*pip, file], check=True)
    code, out, err = _run(folder, "videomtr", "frames", "v.mp4", "--range", "3,40")
    assert (code, len(out.splitlines())) == (0, 9), err
    code, _, err = _run(folder, "videomtr", "frames", "v.mp4", "--decoder", "decord")
    assert code == 2
    assert "pip install decord" in err
    code, _, err = _run(folder, "python", "-m", "data_prep.check", "none.parquet")
    assert "Traceback" not in err
    assert "no such file" in _run(folder, "python", "-m", "data_prep.check", "none.parquet")[1] + err
