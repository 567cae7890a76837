# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0

# The stack to use: empty or default is requirements.txt in .venv, NAME is
# requirements/stacks/NAME.txt in .venv-NAME.
STACK ?=
STACKS := default $(patsubst requirements/stacks/%.txt,%,$(wildcard requirements/stacks/*.txt))
# Python to make the environment with. Empty: the first installed one of those named
# in the stack's file.
PYTHON ?=
# More arguments for pytest: make test ARGS='-k rla -x'
ARGS ?=

SUFFIX := $(if $(filter-out default,$(STACK)),-$(STACK))
PY := .venv$(SUFFIX)/bin/python
RUN_DEMO = $(PY) demo/run_demo.py --work-dir work_dirs/demo$(SUFFIX)
RUN_TESTS = $(PY) -m pytest -q -n auto --dist loadfile
export PYTHON

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-all lint docs compatibility clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | \
	    while IFS='|' read -r name text; do printf '  make %-14s%s\n' "$$name" "$$text"; done
	@echo '  make TARGET STACK=NAME  with another stack: $(STACKS)'

setup: ## Make or update .venv with the pinned stack and mmrla (first run: mmcv may be compiled)
	@bash requirements/setup_venv.sh '$(STACK)'

demo: setup ## Train and evaluate an RLA detector on scenes of real digits, on the CPU
	@$(RUN_DEMO)

test: setup ## Run the tests that .ci/run runs
	@$(RUN_TESTS) -m 'not slow' $(ARGS)

test-all: setup ## Run all tests, the slow ones too
	@$(RUN_TESTS) $(ARGS)

lint: setup ## Check style, types and safety
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m bandit -q -c pyproject.toml -r mmrla tools demo setup.py

docs: ## Build the documentation site in docs/_build/html, links checked
	@rm -rf docs/api  # pages of modules that are gone would stay
	@test -x .venv-docs/bin/python || $(or $(PYTHON),python3) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install -q -r requirements/docs.txt
	@.venv-docs/bin/python -m sphinx -W --keep-going -q -c docs . docs/_build/html
	@echo docs/_build/html/docs/index.html

compatibility: setup ## Run what the table of stacks reports: versions, tests, demo
	@$(PY) -c 'from mmrla import compat; print(compat.describe())'
	-@$(RUN_TESTS) -m 'not slow'
	@$(RUN_DEMO) --fresh

clean: ## Delete caches and build folders; environments, data and work_dirs stay
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -path './.venv*' -prune -o -type d -name __pycache__ -exec rm -rf {} +
