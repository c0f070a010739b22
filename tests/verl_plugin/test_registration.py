# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Installing the package is enough: verl and Hydra find all of it, in fresh processes, Ray workers and from a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

REGISTERED = """
import sys
import verl
early = sorted(name for name in sys.modules if name.startswith("verl_videomtr."))
assert "verl_videomtr.verl_plugin.register" in early, early
heavy = [name for name in early if name.endswith(("agent_loop", "trainers", "estimators", "value_heads"))]
assert not heavy, heavy
from verl.trainer.ppo.v1 import get_trainer_cls
for mode in ("sync", "colocate_async", "separate_async"):
    assert get_trainer_cls("video_mtr_" + mode).base_mode == mode
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
assert get_adv_estimator_fn("bi_level_gae").__module__ == "verl_videomtr.verl_plugin.estimators"
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
target = _agent_loop_registry["video_mtr"]["_target_"]
from hydra.utils import get_class
from verl.experimental.agent_loop.agent_loop import AgentLoopBase
assert issubclass(get_class(target), AgentLoopBase)
from verl.utils.import_utils import load_extern_object
assert callable(load_extern_object("pkg://verl_videomtr.rewards", "compute_score"))
print("registered")
"""


def _clean() -> dict[str, str]:
    """The variables of a user's shell: by PYTHONPATH, pip would find the checkout installed already."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("VERL_", "PYTHONPATH"))}


def _run(code: str, python: str = sys.executable, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python, "-c", code], cwd=cwd, env={**_clean(), **environment}, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("platform", ["", "cpu"])
def test_everything_is_registered_in_a_fresh_process(platform, tmp_path):
    result = _run(REGISTERED, cwd=tmp_path, VERL_PLATFORM=platform)
    assert result.stdout.strip().endswith("registered"), result.stderr[-3000:]


def test_cpu_platform_loads_only_where_it_is_asked_for(tmp_path):
    code = "import sys, verl; print('verl_videomtr.verl_plugin.cpu_platform' in sys.modules)"
    assert _run(code, cwd=tmp_path).stdout.strip().endswith("False")
    assert _run(code, cwd=tmp_path, VERL_PLATFORM="cpu").stdout.strip().endswith("True")


def test_failing_registration_raises_where_recipes_name_the_module(tmp_path):
    # A broken dependency stands in for whatever may go wrong at a user's site.
    (tmp_path / "wrapt.py").write_text("raise ImportError('wrapt is broken here')")
    named = _run(
        "import verl",
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path),
        VERL_USE_EXTERNAL_MODULES="verl_videomtr.verl_plugin.register",
    )
    assert named.returncode != 0
    assert "wrapt is broken here" in named.stderr


def test_everything_is_registered_inside_a_ray_worker(tmp_path):
    code = f"""
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
@ray.remote
def look():
    import contextlib, io
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec({REGISTERED!r}, {{}})
    return out.getvalue()
print(ray.get(look.remote()))
"""
    result = _run(code, cwd=tmp_path, RAY_USAGE_STATS_ENABLED="0")
    assert "registered" in result.stdout, result.stderr[-3000:]


def test_group_composes_on_verls_own_trainer(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", "+videomtr=paper", "+videomtr/device=cpu"]
        + ["+videomtr/model=tiny", "--cfg", "job"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "trainer_mode: video_mtr_sync" in result.stdout
    assert "path: pkg://verl_videomtr.rewards" in result.stdout


def test_wheel_in_a_new_environment_is_complete(tmp_path):
    """The wheel, not the checkout: YAML, prompts, data_prep and the plug-ins must be inside."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would pack what an older build left there
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        + ["--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
        cwd=tmp_path,
    )
    (wheel,) = tmp_path.glob("verl_videomtr-*.whl")
    # The heavy dependencies come from this environment; the package itself must come from the wheel.
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True, env=_clean())
    packages = next((tmp_path / "env").glob("lib/python*/site-packages"))
    here = Path(next(path for path in sys.path if path.endswith("site-packages")))
    # A plain path, without processing here's own .pth files: the checkout must stay out of sight.
    (packages / "zz_dependencies.pth").write_text(f"{here}\n")
    code = f"""
import verl_videomtr
assert str({str(packages)!r}) in verl_videomtr.__file__, verl_videomtr.__file__
from verl_videomtr.prompts import Prompts
Prompts.load("default"); Prompts.load("tiny")
import data_prep.nextgqa, data_prep.synthetic
{REGISTERED}
"""
    result = _run(code, python=str(python), cwd=tmp_path)
    assert result.stdout.strip().endswith("registered"), result.stderr[-3000:]
    composed = subprocess.run(
        [python, "-m", "verl.trainer.main_ppo", "+videomtr=paper", "--cfg", "job"],
        cwd=tmp_path,
        env=_clean(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "trainer_mode: video_mtr_sync" in composed.stdout, composed.stderr[-3000:]
