# Everything is installed into .venv in the project's root. The targets:
#   make setup    set up .venv (again when pyproject.toml or constraints.txt changed)
#   make demo     the studio in the browser, with the embedded model
#   make test     format, lint, types, tests: what CI runs
#   make lint     format, lint, types
#   make format   put the code into the project's format
#   make bench    speed of the embedded model on this machine
# PYTHON=python3.12 chooses the interpreter; PIP_ARGS="..." hands options to pip (another index, a folder of wheels).

BIN := .venv/bin
STAMP := .venv/.set-up
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# The first that runs and is new enough; those the pinned versions were tested with come first.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $$python && break; done)

# Processes that test at a time, a file's tests in one.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tools/setup_env.py
	@if ! $(or $(PYTHON),false) -c '$(NEW_ENOUGH)'; then \
		echo "make: '$(PYTHON)' is not Python 3.11 or newer; install one, or name it: make PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi
	$(PYTHON) tools/setup_env.py
	@touch $(STAMP)

demo: setup
	$(BIN)/motionstream demo

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# One thread and a fixed hash seed: the same numbers on every machine, and quicker where cores are shared.
test: export OMP_NUM_THREADS = 1
test: export OMP_WAIT_POLICY = passive
test: export PYTHONHASHSEED = 0
test: lint
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/motionstream bench stream --preset nano
