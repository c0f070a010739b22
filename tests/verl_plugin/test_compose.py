# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Composition of verl's configuration in this process: what main_ppo would get, and errors that name the override."""

from __future__ import annotations

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from verl_videomtr.verl_plugin.compose import ComposeError, compose, list_groups


def test_composition_is_what_the_trainers_own_command_composes(tmp_path):
    overrides = ["+videomtr=paper", "+videomtr/device=cpu", "+videomtr/budget=b64", "trainer.nnodes=2"]
    result = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", *overrides, "--cfg", "job"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert OmegaConf.create(result.stdout) == compose(overrides)


def test_composition_does_not_import_verl():
    code = (
        "import sys; from verl_videomtr.verl_plugin.compose import compose; compose(['+videomtr=paper']);"
        "sys.exit('torch' in sys.modules or 'ray' in sys.modules or 'verl' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+videomtr=papre"], r"no configuration group choice videomtr/papre; expected one of \+videomtr=paper"),
        (
            ["+videomtr=paper", "+videomtr/budget=b33"],
            r"expected one of .*\+videomtr/budget=b32, .*=b64",
        ),
        (["+videomtr=paper", "+videomtr/modle=tiny"], r"\+videomtr/modle=tiny chose no.*\+videomtr/model=tiny"),
        (["+videomtr=paper", "+videomtr=released_code"], r"expected one choice of the group videomtr; leave one"),
        (["+videomtr=paper", "+videomtr=paper"], r"expected one choice of the group videomtr; leave one"),
        (["videomtr=paper"], r"videomtr is a group that nothing has chosen yet.*write \+videomtr="),
        (["videomtr.episode.max_turns=2"], r"nothing has chosen the group videomtr.*add \+videomtr=paper"),
        (["+videomtr=paper", "videomtr.episode.framebudget=3"], r"did you mean videomtr\.episode\.frame_budget"),
        (["+videomtr=paper", "trainer.nnode=3"], r"no key trainer\.nnode; .*did you mean trainer\.nnodes"),
        (
            ["+videomtr=paper", "actor_rollout_ref.limit_images=3"],
            r"did you mean actor_rollout_ref\.rollout\.limit",
        ),
        (["trainer.nnodes"], r"'trainer\.nnodes' cannot be read .*expected key=value"),
        (["+trainer.nnodes=3"], r"trainer\.nnodes exists already; expected no leading \+; write trainer\.nnodes=3"),
        (["actor_rollout_ref.model.path=~/model"], r"write a path out in full"),
        (["trainer.nnodes=[1"], r"'trainer\.nnodes=\[1' cannot be read"),
        (["data.train_files=${nope}"], r"nope.*expected interpolations of existing keys"),
    ],
)
def test_what_does_not_compose_is_named_with_what_to_write(overrides, message):
    with pytest.raises(ComposeError, match=message):
        compose(overrides)


def test_every_group_of_the_package_composes():
    for group in list_groups():
        whole = group.startswith(("+videomtr=", "+videomtr/recipe="))
        compose([group] if whole else ["+videomtr=paper", group])
