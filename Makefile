# The commands of gen_jax. Each sets up what it needs in $(VENV) first.
#   make run        train the VAE on the embedded images, and say where the pictures are
#   make demo       the tiny preset of every experiment, on one page of pictures and numbers
#   make gallery    the picture of the README, from whole runs: some 45 minutes on two CPU cores
#   make test       lint, types, layers and the tests
#   make test-all   also the slow tests
#   make bench      measures every family against PyTorch, and writes the table that the README shows
#   make mutants    breaks the mathematics in many places, one at a time, and sees that tests fail
#   make equations  writes EQUATIONS.md: which equation of which paper each function is, and its test
#   make colabs     the notebooks from their sources
# Variables: PYTHON (the interpreter that makes the environment), VENV (its folder), ARGS (passed on).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run demo gallery setup test test-all lint bench mutants equations colabs

run: $(VENV)/installed
	$(BIN)/python -m experiments.vae --workdir=runs/vae $(ARGS)

demo: $(VENV)/installed
	$(BIN)/python -m experiments.demo $(ARGS)

gallery: $(VENV)/installed
	$(BIN)/python -m experiments.demo.gallery $(ARGS)

setup: $(VENV)/installed-test

# Python compiles what is imported when it is; to compile all that is installed takes longer than to install it.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/installed-test: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[test]'
	touch $(VENV)/installed $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2 --dist=worksteal --durations=10 -m "not slow" $(ARGS)

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist=worksteal $(ARGS)

bench: setup
	$(BIN)/python -m experiments.benchmarks $(ARGS)

mutants: setup
	$(BIN)/python tests/mutations.py $(ARGS)

equations: $(VENV)/installed
	$(BIN)/python tests/equation_map.py

colabs: setup
	$(BIN)/python -m colabs
