# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the doctor and its neighbours tell one to type works, typed as printed."""

from __future__ import annotations

import dataclasses
import re
import shlex
from importlib import metadata

import pytest
from doctor_setting import bad, only
from packaging.requirements import Requirement

from tests.recipes.test_recipes import record  # noqa: F401  # a fixture
from verl_videomtr.sample import read_rows, write_rows
from verl_videomtr.verl_plugin.compose import ComposeError, compose
from verl_videomtr.verl_plugin.doctor import agreement, data, installation, places
from verl_videomtr.verl_plugin.doctor.findings import Level

pytest_plugins = ["doctor_setting"]


def test_what_pip_is_asked_for_is_installed_whatever_the_extra(healthy, monkeypatch):
    """A marker like `extra == "vllm"` makes pip pass over the requirement, and say so in a line nobody reads."""
    monkeypatch.setattr(installation, "_installed", lambda name, stand_ins: (name, "0.0.1"))
    found = bad(installation.check_versions(healthy))
    assert {Requirement(shlex.split(each.fix)[2]).name for each in found} >= {"verl", "vllm", "torch", "transformers"}
    for finding in found:
        pip, install, wanted = shlex.split(finding.fix)
        assert (pip, install) == ("pip", "install")
        requirement = Requirement(wanted)
        assert requirement.marker is None
        assert str(requirement.specifier)
        if requirement.name not in ("vllm",):  # the CPU build has another name
            assert requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)


def refusal(*overrides: str) -> str:
    with pytest.raises(ComposeError) as refused:
        compose(overrides)
    return str(refused.value)


GROUP_FAULTS = [
    ["+videomtr/recipe=paper", "videomtr/budget=b100"],
    ["+videomtr=paper", "+videomtr/budget=b100"],
    ["+videomtr=paper", "videomtr/budget=b100"],
    ["+videomtr=paper", "videomtr/budget=b64"],
    ["+videomtr/recipe=papr"],
    ["+videomtr/recipe=paper", "+videomtr/ablation=no_gat"],
    ["+videomtr/recipe=paper", "+videomtr/ablation=[no_gat]"],
    ["+videomtr=paper", "+videomtr/budgets=b64"],
]


@pytest.mark.parametrize("fault", GROUP_FAULTS, ids=" ".join)
def test_a_groups_choices_are_named_as_they_are_typed(fault):
    message = refusal(*fault)
    choices = re.findall(r"(?<!\S)\+?videomtr[\w/]*=\w+(?=[,;])", message.partition("expected ")[2])
    assert len(choices) > 3, message
    wrong = fault[-1].lstrip("+").partition("=")[0]
    same = [choice for choice in choices if choice.lstrip("+").startswith(f"{wrong}=")] or [
        choice for choice in choices if "/budget" in choice
    ]
    compose([*fault[:-1], same[0]])


def test_a_choice_over_the_recipes_is_told_without_its_plus():
    message = refusal("+videomtr/recipe=paper", "+videomtr/budget=b64")
    typed = message.rpartition("write ")[2]
    assert typed == "videomtr/budget=b64"
    assert compose(["+videomtr/recipe=paper", typed]).videomtr.episode.frame_budget == 64


def test_showing_the_configuration_is_no_launch(record):  # noqa: F811
    """`--cfg job`, which lists all keys for one who misspelt one, goes past the doctor to Hydra."""
    message = refusal("+videomtr/recipe=paper", "xyzzy.q=1")
    typed = shlex.split(re.search(r"--cfg \w+", message)[0])
    code, calls = record("paper/run.sh", *typed, FAIL="doctor")
    assert code == 0
    assert [call[3] for call in calls] == ["verl.trainer.main_ppo"]
    assert calls[0][-2:] == ["--cfg", "job"]
    code, calls = record("paper/run.sh", "--cfg=job")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("videomtr.video.root", "{relative}"),
        ("videomtr.video.cache.dir", "frames"),
        ("actor_rollout_ref.model.path", "{relative}"),
    ],
)
def test_relative_paths_are_for_one_node(measured, videos, monkeypatch, key, value):
    monkeypatch.chdir(videos.parent)
    given = f"{key}={value.format(relative=videos.name)}"
    assert not bad(places._relative(measured(given)))
    many = [given, "trainer.nnodes=2"]
    finding = only(places._relative(measured(*many)), "places.relative")
    assert not bad(places._relative(measured(*many, *finding.overrides)))
    # Names of the hub and absolute paths are the same everywhere.
    assert not bad(places._relative(measured("trainer.nnodes=2", "actor_rollout_ref.model.path=Qwen/Qwen2.5-VL-7B")))


@pytest.fixture
def bare(videos, tmp_path):
    """Rows of a benchmark: no ground-truth segments."""
    rows = read_rows(videos / "train.parquet")
    write_rows(tmp_path / "bare.parquet", [dataclasses.replace(row, segments=None) for row in rows])
    return tmp_path / "bare.parquet"


@pytest.mark.parametrize("recipe", ["paper", "grpo", "lora_1gpu"])
def test_training_without_ground_truth_and_its_remedy(bare, recipe):
    """The remedy is a choice of the ablations, also for recipes that are made of one themselves."""
    from verl_videomtr.verl_plugin.launch_check import check_launch

    given = [f"+videomtr/recipe={recipe}", f"data.train_files={bare}"]
    with pytest.raises(ValueError, match="no row has ground-truth segments") as refused:
        check_launch(compose(given))
    (typed,) = re.findall(r"\+videomtr/ablation=\w+", str(refused.value))
    check_launch(compose([*given, typed]))


def test_a_benchmark_may_be_validated_alone(measured, bare):
    given = [f"data.train_files={bare}", f"data.val_files={bare}"]
    only(agreement.check_agreement(measured(*given)), "config.launch")
    case = measured(*given, "trainer.val_only=true")
    assert not bad(agreement.check_agreement(case))
    case.samples = {}
    assert not [
        finding for finding in bad(data.check_data(case)) if finding.level is Level.ERROR or "memory" in finding.why
    ]
