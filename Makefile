# What a new user needs is `make train`, what a contributor needs is `make test`. Both make .venv
# and install what they need into it; nothing is installed twice until setup.py changes.

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= runs/pydoc_moe.gin
TRAIN_FLAGS ?=
PYTEST_FLAGS ?= -q --timeout=900 --numprocesses=auto --maxprocesses=4 --dist=loadfile

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: help train test test-slow bench bench-ops bench-scaling bench-collectives lint lint-check lint-format lint-types update-golden clean

help:
	@echo 'make train      install, then train the example on this machine (make train TRAIN_FLAGS=...)'
	@echo 'make test       install, then run the tests'
	@echo 'make test-slow  the slow tests: every layout, training runs, the built package'
	@echo 'make lint       style, format and types, as continuous integration checks them'
	@echo 'make bench      print the table of docs/performance.md for this machine'
	@echo 'make bench-ops  print what each op costs on one device beside plain TensorFlow'
	@echo 'make bench-scaling  print the table of 1 to 64 processors with the same work for each'
	@echo 'make bench-collectives  print what each collective is made of in TensorFlow'
	@echo 'make update-golden  rewrite tests/golden/ from what the code does now; review the diff'
	@echo 'make clean      remove .venv and what builds left behind; runs/ stays'

train: $(VENV)/.installed-plot
	$(BIN)/python -m launch.train --gin_file=$(CONFIG) $(TRAIN_FLAGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m 'not slow and not packaging'

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m 'slow or packaging'

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks

bench-ops: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.ops

bench-scaling: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.weak_scaling

bench-collectives: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.collectives

lint: lint-check lint-format lint-types

lint-check: $(VENV)/.installed-test
	$(BIN)/ruff check

lint-format: $(VENV)/.installed-test
	$(BIN)/ruff format --check

lint-types: $(VENV)/.installed-test
	$(BIN)/pyright --pythonpath $(BIN)/python

update-golden: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_FLAGS) --update-golden -m 'not packaging'

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# One stamp per extra: .installed-plot stands for `pip install --editable '.[plot]'`.
$(VENV)/.installed-%: setup.py pyproject.toml | $(VENV)/.made
	@echo 'Installing meshlang and what it needs into $(VENV): some minutes, once.'
	$(PIP) install --editable '.[$*]'
	@touch $@

# A stamp rather than the folder, so that a venv which failed halfway is made again.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "There is no '$(PYTHON)' on this machine."; \
	    echo "  fix: install Python 3.11, 3.12 or 3.13, or name one: make $(MAKECMDGOALS) PYTHON=python3.12"; \
	    exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "meshlang needs Python 3.11, 3.12 or 3.13, which TensorFlow 2.21 is built for."; \
	    echo "  found  $$($(PYTHON) --version 2>&1), as '$(PYTHON)'"; \
	    echo "  fix: name another: make $(MAKECMDGOALS) PYTHON=python3.12"; \
	    exit 1; } >&2
	$(PYTHON) -m venv $(VENV)
	@touch $@
