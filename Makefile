# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# gpu where the driver answers, else cpu; `make demo DEVICE=cpu` decides it by hand.
DEVICE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
PY := .venv/bin/python
INSTALLED := .venv/.installed-$(DEVICE)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow mutants lint format docs lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(INSTALLED) ## make .venv from the locked, hashed requirements

# Written last, so that an interrupted installation starts over.
$(INSTALLED): requirements/$(DEVICE).lock requirements/tools.lock pyproject.toml requirements/base.in
	$(PYTHON) recipes/demo/preflight.py --device $(DEVICE)
	rm -f .venv/.installed-*
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/tools.lock
	.venv/bin/uv pip sync --python $(PY) --require-hashes --compile-bytecode requirements/tools.lock requirements/$(DEVICE).lock
	.venv/bin/uv pip install --python $(PY) --no-deps --editable . --config-setting editable_mode=compat
	touch $@

demo: $(INSTALLED) ## the real verl PPO trainer with this plugin, from nothing to a page that shows what it learned
	$(PY) recipes/demo/preflight.py --device $(DEVICE) --installed
	$(PY) -m recipes.demo.main --device $(DEVICE)

# With JOBS=4, four processes: a file stays in one, and so do all tests that start servers. Off unless it is asked for.
JOBS ?= 0
test: $(INSTALLED) ## unit tests and one short run of the real trainer (under 20 minutes on two cores)
	$(PY) -m pytest -m "not slow" $(if $(filter-out 0,$(JOBS)),-n $(JOBS))

test-slow: $(INSTALLED) ## what takes longer: more families, kills and resumes, fuzzers
	$(PY) -m pytest -m slow

mutants: $(INSTALLED) ## plant faults in a copy of the code and see the quick tests catch each (minutes)
	$(PY) tests/support/mutants.py

lint: $(INSTALLED) ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: $(INSTALLED) ## let ruff format the code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

DOCS := .cache/docs
docs: ## build the site of docs/ into site/, in an environment of its own; every link is checked
	$(PYTHON) tests/support/write_configuration_reference.py
	$(DOCS)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/docs.lock
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build

LOCK = .venv/bin/uv pip compile --quiet --generate-hashes --no-emit-index-url --python-version 3.11 \
	--python-platform x86_64-manylinux_2_31 --custom-compile-command "make lock"
lock: ## resolve the requirements again (asks the package index)
	$(LOCK) requirements/tools.in -o requirements/tools.lock
	$(LOCK) requirements/cpu.in --override requirements/cpu.overrides -o requirements/cpu.lock
	$(LOCK) requirements/gpu.in -o requirements/gpu.lock
	$(LOCK) requirements/docs.in -o requirements/docs.lock

clean: ## remove the environment and caches; what was trained stays in outputs/
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
