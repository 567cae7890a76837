# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0

# Which Python .venv is made with; empty: the first of 3.11, 3.10, 3.9 there is.
PYTHON ?=
# More arguments for pytest: make test ARGS='-k rla -x'
ARGS ?=

PY := .venv/bin/python
export PYTHON

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-all lint clean

help: ## Show what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | \
	    while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

setup: ## Make or mend .venv with the pinned stack and mmrla (first run: mmcv may be compiled)
	@bash requirements/setup_venv.sh

demo: setup ## Train and evaluate an RLA detector on scenes of real digits, on the CPU
	@$(PY) demo/run_demo.py

test: setup ## Run the tests that .ci/run runs
	@$(PY) -m pytest -q -n auto --dist loadfile -m 'not slow' $(ARGS)

test-all: setup ## Run all tests, the slow ones too
	@$(PY) -m pytest -q -n auto --dist loadfile $(ARGS)

lint: setup ## Check style, types and safety
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m bandit -q -c pyproject.toml -r mmrla tools demo requirements setup.py

clean: ## Delete caches and build folders; .venv, data and work_dirs stay
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
