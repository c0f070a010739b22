# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Every recipe and every override in the documentation: composes with verl's own files and passes the checks."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
from importlib.metadata import distributions, requires, version
from pathlib import Path

import pytest
from doctor_setting import bad, make_checkpoint
from packaging.requirements import Requirement

from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin.checks import check_config
from verl_videomtr.verl_plugin.compose import compose
from verl_videomtr.verl_plugin.doctor import agreement, batches, lengths
from verl_videomtr.verl_plugin.doctor.case import Case

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.parent.name for path in ROOT.glob("recipes/*/REQUIRED_VERL.txt"))
ABLATIONS = sorted(path.stem for path in ROOT.glob("verl_videomtr/conf/videomtr/ablation/*.yaml"))
BY_TASK = ("data", "install", "plan", "prompts", "quickstart", "rewards", "training", "troubleshooting", "video")
PAGES = [
    "README.md",
    *(str(path.relative_to(ROOT)) for path in ROOT.glob("recipes/**/*.md")),
    *(f"docs/{name}.md" for name in BY_TASK),
]
COMMANDS = re.compile(r"(recipes/\w+/(?:run|submit|slurm)\.sh|verl\.trainer\.main_ppo|videomtr (?:plan|doctor))\b(.*)")
KEY = r"\+?(?:videomtr|actor_rollout_ref|algorithm|critic|data|ray_kwargs|reward|trainer|transfer_queue)[\w./]*"

RECORDER = """#!/usr/bin/env bash
# Stands in for the interpreter: writes down how it is called, and fails where it is told to.
printf '%s\\n' "$VERL_USE_EXTERNAL_MODULES" "${RAY_ADDRESS:-}" "$@" > "$RECORDS/$(ls "$RECORDS" | wc -l)"
[[ ${FAIL:-none} != "${3:-}" ]]
"""


@pytest.fixture
def record(tmp_path):
    """Run a script with the recorder as its interpreter; return its exit code and the calls, in order."""
    interpreter = tmp_path / "interpreter"
    interpreter.write_text(RECORDER)
    interpreter.chmod(0o755)

    def run(script, *arguments, **environment):
        records = tmp_path / f"records_{len(list(tmp_path.iterdir()))}"
        records.mkdir()
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("VERL_", "RAY_"))}
        code = subprocess.run(
            ["bash", str(ROOT / "recipes" / script), *arguments],
            env={**plain, "PYTHON": str(interpreter), "RECORDS": str(records), **environment},
            cwd=tmp_path,
            timeout=60,
        ).returncode
        files = sorted(records.iterdir(), key=lambda file: int(file.name))
        return code, [file.read_text().splitlines() for file in files]

    return run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Stands in for the weights, which these tests do not need."""
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@functools.lru_cache(maxsize=64)
def composed(*overrides):
    return compose(list(overrides))


def check(*overrides):
    """Everything that stops a launch, and the doctor's arithmetic by formula."""
    config = composed(*overrides)
    case = Case.of(config, load_settings(config), elsewhere=True)
    check_config(config, case.settings)
    findings = list(batches.check_batches(case))
    if case.settings.prompts == "default":  # the tiny model's texts are shorter than the formula takes them to be
        findings += lengths.check_lengths(case)
    assert not bad(findings), [finding.line() for finding in bad(findings)]


def without_root(overrides):
    return [override for override in overrides if not override.startswith("videomtr.video.root=")]


def arguments_of(name):
    return ["no_gate"] if name == "ablations" else []


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_checks_first_then_trains_with_the_same_overrides(record, name):
    code, calls = record(f"{name}/run.sh", *arguments_of(name), "data.train_files=/d/t.parquet", "trainer.save_freq=7")
    assert code == 0
    calls = [
        call for call in calls if call[2:4] not in (["-m", "data_prep.synthetic"],) and "tiny_model" not in call[2]
    ]
    doctor, trainer = calls
    assert doctor[2:5] == ["-m", "verl_videomtr.cli", "doctor"]
    assert trainer[2:4] == ["-m", "verl.trainer.main_ppo"]
    assert doctor[5:] == trainer[4:]
    assert trainer[-2:] == ["data.train_files=/d/t.parquet", "trainer.save_freq=7"]
    assert doctor[0] == trainer[0] == "verl_videomtr.verl_plugin.register"
    assert trainer[1] == ("auto" if name == "multi_node" else "")
    # The folder of cpu_smoke's videos is not there yet.
    check(*without_root(trainer[4:]))


def test_an_error_of_the_doctor_stops_the_launch_unless_it_is_left_out(record):
    code, calls = record("paper/run.sh", FAIL="doctor")
    assert (code, len(calls)) == (1, 1)
    code, calls = record("paper/run.sh", FAIL="doctor", DOCTOR="0")
    assert (code, calls[0][3]) == (0, "verl.trainer.main_ppo")


def test_modules_that_the_user_names_stay(record):
    _, calls = record("paper/run.sh", VERL_USE_EXTERNAL_MODULES="mine")
    assert {call[0] for call in calls} == {"mine,verl_videomtr.verl_plugin.register"}
    _, calls = record("paper/run.sh", VERL_USE_EXTERNAL_MODULES="verl_videomtr.verl_plugin.register")
    assert {call[0] for call in calls} == {"verl_videomtr.verl_plugin.register"}


def test_an_ablation_without_a_name_is_refused(record):
    code, calls = record("ablations/run.sh", "data.train_files=/d/t.parquet")
    assert (code, calls) == (2, [])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_the_verl_that_it_was_tested_with(name):
    lines = (ROOT / "recipes" / name / "REQUIRED_VERL.txt").read_text().splitlines()
    pins = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert pins["VERL_VERSION"] == version("verl")
    assert (pins["MODE"], pins["TAG"]) == ("pinned_tag", f"v{pins['VERL_VERSION']}")
    wanted = next(Requirement(text) for text in requires("verl_videomtr") if Requirement(text).name == "verl")
    assert pins["VERL_VERSION"] in wanted.specifier
    assert f"verl[vllm]=={pins['VERL_VERSION']}" in pins["PIP_INSTALL"]
    assert pins["RECIPE_FOLDER"] == name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_page_says_whether_it_has_been_run(name):
    page = (ROOT / "recipes" / name / "README.md").read_text()
    assert re.search(r"^\*\*Run: ", page, re.MULTILINE)
    for word in ("Hardware", "```bash"):
        assert re.search(word, page, re.IGNORECASE), word


@pytest.mark.parametrize("model", ["qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen3_vl_4b", "qwen3_vl_8b"])
@pytest.mark.parametrize("budget", ["b32", "b80"])
def test_every_model_of_the_paper_recipe_passes_at_every_budget(model, budget):
    check("+videomtr/recipe=paper", f"videomtr/model={model}", f"videomtr/budget={budget}")


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_ablation_passes(ablation):
    budget = "b32" if ablation == "turns_5" else "b80"
    check("+videomtr/recipe=paper", f"videomtr/budget={budget}", f"+videomtr/ablation={ablation}")


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("ablations", "cpu_smoke")])
def test_verl_itself_accepts_the_recipe(name, checkpoint):
    if name == "lora_1gpu" and "vllm" not in {each.name for each in distributions()}:
        pytest.skip("verl asks vLLM for its version here, which the CPU build has under another name")
    config = compose([f"+videomtr/recipe={name}", f"actor_rollout_ref.model.path={checkpoint}"])
    case = Case.of(config, load_settings(config), elsewhere=True)
    findings = list(agreement.check_agreement(case))
    assert findings
    assert not bad(findings), [finding.line() for finding in bad(findings)]


def pages():
    """(page, blocks of shell commands, code within the text)."""
    for page in PAGES:
        if (ROOT / page).exists():
            text = (ROOT / page).read_text()
            blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
            yield page, blocks, re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def documented():
    """(page, command, words behind it) of every launch, check or plan in the pages."""
    for page, blocks, codes in pages():
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        for line in [*lines, *dict.fromkeys(codes)]:
            if (found := COMMANDS.search(line)) and found[2].strip():
                yield page, found[1], shlex.split(found[2], comments=True)


def command_overrides(command, words):
    words = [word for word in words if not word.startswith("-") and "..." not in word]
    if not command.startswith("recipes/"):
        return words
    name = command.split("/")[1]
    if name == "ablations":
        return ["+videomtr/recipe=paper", f"+videomtr/ablation={words[0]}", *words[1:]]
    return [f"+videomtr/recipe={name}", *words]


@pytest.mark.parametrize(("page", "command", "words"), list(documented()))
def test_documented_commands_compose_and_pass(page, command, words):
    overrides = command_overrides(command, words)
    check(*without_root(overrides))


def inline():
    """(page, recipe, override) of every override in running text that stands alone."""
    for page, _, codes in pages():
        name = Path(page).parent.name
        recipe = name if name in RECIPES and name != "ablations" else "paper"
        for code in dict.fromkeys(codes):
            if not COMMANDS.search(code):
                for override in code.split():
                    if re.fullmatch(rf"{KEY}=[^\s|]+", override) and not re.search(r"=(\.\.\.|NAME|value)$", override):
                        yield page, recipe, override


@pytest.mark.parametrize(("page", "recipe", "override"), list(inline()))
def test_documented_overrides_compose(page, recipe, override):
    if override.startswith(("+videomtr=", "+videomtr/recipe=")):
        composed(override)
    else:
        composed(f"+videomtr/recipe={recipe}", override)
