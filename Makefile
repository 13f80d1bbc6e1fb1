# Every target runs in .venv and first installs what it needs there:  make test  or  make demo
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv lint format typecheck imports pytest quick test lab docs demo soak as-written gpu bundle dist-check clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What the tests need. `make venv` installs all, and later targets then keep that.
ALL := $(VENV)/all-installed
STAMP := $(if $(wildcard $(ALL)),$(ALL),$(VENV)/test-installed)

# Options of the commands: make pytest PYTEST_ARGS="-k flow", make demo DEMO_ARGS="--seeds 10"
PYTEST_ARGS ?=
DEMO_ARGS ?=
GPU_ARGS ?=
GPU_PYTHON ?= $(BIN)/python
# make bundle RUN=runs/rgb32 NAME=rgb32 BUNDLE_ARGS="--data DATA --terms '...'"
BUNDLE_ARGS ?= --help

# One torch thread per pytest worker: more threads than cores are slower than one.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# Tests compare with the CPU's figures; only `make gpu` sees a card.
NO_CARD := CUDA_VISIBLE_DEVICES=

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

venv: $(ALL)  ## Make .venv and install nfaug in it, editable, with all extras

# One extra each. A stamp follows pyproject.toml alone: an editable install needs no rerun for new code.
$(VENV)/%-installed: pyproject.toml
	@if [ ! -x $(BIN)/python ]; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo 'nfaug needs Python 3.10 or newer: make PYTHON=/path/to/python3 ...' >&2; exit 1; }; \
	  $(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo 'no venv module: on Debian, apt-get install python3-venv' >&2; exit 1; }; \
	fi
	@echo 'Installing nfaug with the extra $* into $(VENV) (torch is large, this can take minutes) ...'
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[$*]'
	@touch $@

lint: $(STAMP)  ## Check style and format with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## Format, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP)  ## Check types with mypy
	$(BIN)/python -m mypy -p nfaug

imports: $(STAMP)  ## Check the layers of the packages with import-linter
	$(BIN)/lint-imports --no-cache

pytest: $(STAMP)  ## Run the tests alone
	$(NO_CARD) $(ONE_THREAD) $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

quick: $(STAMP)  ## Run the tests of the mathematics alone: flows, classes, augmentation
	$(NO_CARD) $(ONE_THREAD) $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal tests/flows tests/classes tests/augment $(PYTEST_ARGS)

test: lint typecheck imports pytest  ## Lint, check types and imports, run the tests

lab: $(STAMP)  ## Run a tiny case of each study of the laboratory
	$(NO_CARD) $(ONE_THREAD) $(BIN)/python -m pytest -m "" -n auto --maxprocesses 8 tests/lab $(PYTEST_ARGS)

# -E: every page anew, so that a warning does not hide behind an old build.
docs: $(if $(wildcard $(ALL)),$(ALL),$(VENV)/docs-installed)  ## Build the documentation site into build/site; warnings are errors
	$(ONE_THREAD) $(BIN)/python -m sphinx -q -E -W --keep-going -d build/doctrees docs build/site

# A picture is written at the end: without it the demo goes on, with it all is trained anew.
DEMO := build/demo

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(VENV)/train-installed)  ## Does NFA help? nfaug compare on 875 photographs of clothes, in 15 small trainings
	if [ -e $(DEMO)/gains.png ]; then rm -rf $(DEMO); fi
	$(ONE_THREAD) $(BIN)/nfaug compare --data builtin:clothes --per-class 10 --augment flip,crop \
	  --methods none,randaugment,nfa --seeds 5 --steps 400 --out $(DEMO) $(DEMO_ARGS)

soak: $(ALL)  ## Run the long checks: fuzzing, kills, full-size commands, some benchmarks
	NFAUG_ALL=1 $(NO_CARD) $(ONE_THREAD) $(BIN)/python -m pytest -m soak --timeout 7200 $(PYTEST_ARGS)

as-written: $(ALL)  ## Run every block of the documentation without shortening it: hours. NFAUG_TRAIN_PY is timm's train.py
	NFAUG_AS_WRITTEN=1 NFAUG_ALL=1 $(NO_CARD) $(ONE_THREAD) $(BIN)/python -m pytest -s --timeout 20000 tests/test_documentation.py \
	  -k examples_run $(PYTEST_ARGS)

# With GPU_PYTHON=python3 there is no .venv, whose packages come from the network. A test that fails
# does not keep the figures from being measured.
gpu: $(if $(filter $(BIN)/%,$(GPU_PYTHON)),$(STAMP))  ## Run the CUDA tests, then benchmarks/gpu; without a GPU, GPU_ARGS=--tiny
	export PYTHONPATH="src$${PYTHONPATH:+:$$PYTHONPATH}"; failed=0; \
	$(GPU_PYTHON) -m pytest -m "" -p no:cacheprovider $(wildcard tests/*/test_*_cuda.py) || failed=$$?; \
	$(GPU_PYTHON) -m benchmarks.gpu $(GPU_ARGS) || failed=$$?; \
	exit $$failed

bundle: $(STAMP)  ## Turn the run directory RUN into the bundled flow NAME (scripts/bundle.py)
	$(BIN)/python scripts/bundle.py $(RUN) $(NAME) $(BUNDLE_ARGS)

dist-check: $(STAMP)  ## Build the sdist and the wheel in dist/ and compare their files with git's
	rm -rf dist
	$(BIN)/python scripts/dist.py build dist
	for file in dist/*; do $(BIN)/python scripts/dist.py contents "$$file"; done

clean:  ## Remove .venv, builds and caches
	rm -rf $(VENV) build dist src/*.egg-info docs/generated .import_linter_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src benchmarks lab tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
