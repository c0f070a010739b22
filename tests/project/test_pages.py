# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The pages: links resolve, commands parse, examples run, generated parts are current, and pages stay short."""

import argparse
import ast
import asyncio
import contextlib
import importlib
import io
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
import write_configuration_reference

from verl_videomtr.cli import COMMANDS
from verl_videomtr.prompts import Prompts
from verl_videomtr.rewards import RewardConfig
from verl_videomtr.sample import Sample
from verl_videomtr.scoring import score_episode

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "recipes", "data_prep", "benchmarks")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
MAX_WORDS = 1200
DATA_COMMANDS = ("benchmark", "check", "custom", "mix", "nextgqa", "qvhighlights", "synthetic")
COMMAND = re.compile(
    rf"(?:videomtr (?P<name>{'|'.join(COMMANDS)})|python -m data_prep\.(?P<module>\w+)) (?P<rest>[^;|&]*)"
)


@cache
def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S))


@cache
def anchors(name):
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```", "", text_of(name), flags=re.M | re.S), re.M)
    slugs = (re.sub(r"[^\w\- ]", "", re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).lower()) for heading in headings)
    return {slug.strip().replace(" ", "-") for slug in slugs}


@pytest.mark.parametrize("name", NAMES)
def test_links_inside_the_repository_resolve(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(name))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(file.relative_to(ROOT).as_posix()), f"{name}: {target}"


@pytest.mark.parametrize("name", [name for name in NAMES if re.match(r"docs/\w+\.md$", name)])
def test_a_page_is_short_and_the_index_leads_to_it(name):
    """Long tables and reports are appendices."""
    assert len(text_of(name).split()) <= MAX_WORDS
    assert name == "docs/index.md" or f"({Path(name).name})" in text_of("docs/index.md")


def test_the_index_leads_to_every_appendix():
    linked = set(re.findall(r"\((appendix/\w+\.md)\)", text_of("docs/index.md")))
    assert linked == {f"appendix/{page.name}" for page in (ROOT / "docs" / "appendix").glob("*.md")}


def test_the_configuration_reference_is_current():
    assert write_configuration_reference.PAGE.read_text(encoding="utf-8") == write_configuration_reference.page(), (
        "run python tests/support/write_configuration_reference.py"
    )


def test_the_configuration_reference_explains_every_key():
    rows = re.findall(r"^\| `(\w+)` \| `([^|]*)` \| (.*) \|$", write_configuration_reference.page(), re.M)
    assert len(rows) > 50
    assert not [name for name, _, what in rows if not what]
    assert ("gate", "accuracy") in {(name, default) for name, default, _ in rows}
    assert RewardConfig.__dataclass_fields__.keys() <= {name for name, _, _ in rows}


def code_blocks(name, *languages):
    fences = re.findall(r"^ *```(\w*)\n(.*?)^ *```", text_of(name), re.M | re.S)
    return [block for language, block in fences if language in languages]


def test_the_readmes_example_gives_what_it_says():
    (code,) = code_blocks("README.md", "python")
    said = re.search(r"# prints (.*)$", code, re.M)[1]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue().strip() == said
    imported = {node.module for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)}
    assert not any(".verl_plugin" in module for module in imported)


def test_the_example_reward_function_scores_an_episode():
    namespace = {}
    (code,) = code_blocks("docs/rewards.md", "python")
    exec(compile(code, "docs/rewards.md", "exec"), namespace)
    sample = Sample(
        data_source="d",
        sample_id="1",
        index=0,
        split="train",
        video="v.mp4",
        question="Which?",
        answer="A",
        options=("x", "y"),
        question_type="multiple_choice",
    )
    record = {"responses": ["r", "a"], "retrieval_ious": [0.5, None], "answer": "A", "format_ok": [True, True]}
    score = asyncio.run(score_episode(namespace["score"], sample, record))
    assert (score.turn_rewards, score.correct) == ([0.1, 1.0], True)


def test_the_prompts_page_names_every_text_of_a_prompt_set():
    said = text_of("docs/prompts.md")
    for name in Prompts.load("default").templates:
        assert f"`{name}`" in said or (name.startswith("retrieve_form_") and "`retrieve_form_*`" in said), name


def commands():
    """(page, subcommand or module, words) of every command of this package in the pages' code blocks."""
    for name in NAMES:
        for block in code_blocks(name, "bash", ""):
            for found in COMMAND.finditer(block.replace("\\\n", " ")):
                if found["name"] or found["module"] in DATA_COMMANDS:
                    words = shlex.split(found["rest"].partition("\n")[0], comments=True)
                    if words != ["..."]:
                        yield name, found["name"] or f"data_prep.{found['module']}", words


class ParsedError(Exception):
    """Ends a command once its arguments have been read."""


@pytest.fixture
def parse(monkeypatch):
    """Read a command's arguments with its own parser, and go no further; return the parser."""
    seen = {}
    really = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self, args=None, namespace=None):
        seen["parser"] = self
        read = really(self, args, namespace)
        if read[1]:
            self.error(f"unrecognized arguments: {read[1]}")
        raise ParsedError

    def run(name, words):
        if name in COMMANDS:
            module = importlib.import_module(COMMANDS[name][0])
            parser = argparse.ArgumentParser(prog=f"videomtr {name}")
            module.add_arguments(parser)
            parser.parse_intermixed_args(words)
            return parser
        monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
        with pytest.raises(ParsedError):
            importlib.import_module(name).main(words)
        return seen["parser"]

    return run


@pytest.mark.parametrize(("page", "name", "words"), list(dict.fromkeys((p, n, tuple(w)) for p, n, w in commands())))
def test_a_documented_command_is_one_that_its_parser_takes(parse, page, name, words):
    parse(name, list(words))


MARK = re.compile(r"# (needs a GPU|no test runs this: .+)$")
"""A line of a shell block that says so of all commands behind it."""
TESTED = {
    r"videomtr (\w+) .*": r'\["{0}", ',
    r"python -m data_prep\.(\w+) .*": r"{0}\.main\(|from data_prep\.{0} import",
    r"python -m recipes\.learning_study\.(\w+) .*": r"from recipes\.learning_study\.{0} import",
    r"python -m recipes\.learning_study\.(tables|figures) .*": r"from recipes\.learning_study import .*\b{0}\b",
    r"python -m vllm\.entrypoints\.openai\.api_server .*": r'"vllm\.entrypoints\.openai\.api_server"',
    r"python -c .*": "def test_one_liners_of_the_pages_run",
    r"lmms_eval .*": r'"-m", "lmms_eval"',
    r"make (demo)\b.*": r'"recipes\.{0}\.main"',
    r"bash recipes/demo/(evaluate\.sh).*": r'"{0}"',
    r"bash recipes/(cpu_smoke)/run\.sh.*": "{0}",
    r"pip install '\.\[vllm\]'.*": "verl\\[vllm\\]",
    r"make (?:install|test)\b.*": r"make test DEVICE=cpu",
}
"""Commands that need no GPU, and what a test (or the workflow's script) that runs them holds."""


def shell_lines(block):
    """The lines of a block, continued ones joined."""
    return [line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def unmarked(block):
    """The commands in front of the block's mark."""
    lines = shell_lines(block)
    end = next((place for place, line in enumerate(lines) if MARK.fullmatch(line)), len(lines))
    return [line for line in lines[:end] if not line.startswith("#")]


@cache
def texts_of_tests():
    files = [*(ROOT / "tests").rglob("*.py"), ROOT / ".ci/run"]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file != Path(__file__))


def runs_in_a_test(command):
    for pattern, held in TESTED.items():
        if found := re.fullmatch(pattern, f"{command} "):
            own = Path(__file__).read_text(encoding="utf-8") if held.startswith("def ") else texts_of_tests()
            if re.search(held.format(*found.groups()), own):
                return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_a_command_is_run_by_a_test_or_marked(name):
    """`# needs a GPU`, or `# no test runs this: why`."""
    left = [line for block in code_blocks(name, "bash") for line in unmarked(block) if not runs_in_a_test(line)]
    assert not left, f"{name}: {left}"


@pytest.mark.parametrize(
    ("block", "left"),
    [
        ("videomtr plan x  # why\n", 0),
        ("videomtr paln x\n", 1),
        ("bash recipes/paper/run.sh a=b\n", 1),
        ("videomtr plan x\n# needs a GPU\nbash recipes/paper/run.sh \\\n    a=b\n", 0),
        ("bash recipes/paper/run.sh\n# needs a GPU\n", 1),
        ("# no test runs this: another project's\npre-commit install\n", 0),
        ("# a word on it\npre-commit install\n", 1),
    ],
)
def test_neither_run_nor_marked_is_found(block, left):
    assert len([line for line in unmarked(block) if not runs_in_a_test(line)]) == left


def test_one_liners_of_the_pages_run(capsys):
    lines = [line for name in NAMES for block in code_blocks(name, "bash") for line in shell_lines(block)]
    codes = [shlex.split(line)[2] for line in lines if line.startswith("python -c ")]
    for code in codes:
        exec(code, {})
    assert codes
    assert capsys.readouterr().out.strip() == ""  # verl is what the plugin was built on


def test_the_pages_have_commands():
    assert len(list(commands())) > 30


@pytest.mark.parametrize("name", [*COMMANDS, *(f"data_prep.{module}" for module in DATA_COMMANDS)])
def test_every_help_has_an_example_and_a_word_on_each_option(monkeypatch, name):
    shown = []
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda self, file=None: shown.append(self))
    arguments = [name, "--help"] if name in COMMANDS else ["--help"]
    module = importlib.import_module("verl_videomtr.cli" if name in COMMANDS else name)
    with pytest.raises(SystemExit):
        module.main(arguments)
    (parser,) = shown
    assert re.search(r"^ *example", parser.format_help(), re.M | re.I)
    assert not [action.dest for action in parser._actions if not action.help]


TOOLS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("recipes", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if "ArgumentParser(" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", TOOLS)
def test_every_help_of_a_script_shows_its_command_and_a_word_on_each_option(monkeypatch, name):
    shown = []
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda self, file=None: shown.append(self))
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # scripts import their neighbours
    with pytest.raises(SystemExit):
        importlib.import_module(name).main()
    (parser,) = shown
    module, path = name.removesuffix(".__main__"), name.replace(".", "/") + ".py"
    assert re.search(rf"python (-m {re.escape(module)}|{re.escape(path)})", parser.description or "")
    parsers = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers += action.choices.values()
        else:
            assert action.help, action.dest
    assert not [action.dest for one in parsers[1:] for action in one._actions if not action.help]


def test_every_python_file_says_whose_it_is():
    """As verl's own check of licences asks; its first line is one that this check knows."""
    folders = ("verl_videomtr", "data_prep", "recipes", "benchmarks", "tests", "hydra_plugins", "docs")
    files = [ROOT / "setup.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    lines = ("# Copyright 2025 Individual Contributor: ", "# SPDX-License-Identifier: Apache-2.0")
    bare = [
        str(path.relative_to(ROOT))
        for path in files
        if not all(map(str.startswith, path.read_text(encoding="utf-8").splitlines()[:2] or ("", ""), lines))
    ]
    assert not bare, bare


FOREIGN = re.compile(
    r"by nobody|without eyes|\bmend(s|ed|ing)?\b|\bkin\b|such a verl|paid for anew|none to give"
    r"|begins? anew\b(?! after a fork)",
    re.IGNORECASE,
)


@pytest.mark.parametrize("folder", ["docs", "recipes", "data_prep", "verl_videomtr", "benchmarks", "."])
def test_texts_use_plain_words(folder):
    files = [path for path in (ROOT / folder).glob("*.md" if folder == "." else "**/*") if path.is_file()]
    for path in files:
        if path.suffix in (".md", ".py", ".yaml", ".sh"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                assert not FOREIGN.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
