# make train | test | setup | lint | format: each needs Python >= 3.11 and nothing else
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: train test setup lint format clean matrix

train: $(VENV)/.base
	$(BIN)/python train.py

test: $(VENV)/.test
	$(BIN)/python -m pytest

setup: $(VENV)/.base $(VENV)/.test $(VENV)/.lint

lint: $(VENV)/.base $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxneox needs Python 3.11 or later: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e .
	touch $@

# torch is for comparisons only; tests that need it are skipped where it cannot be had
$(VENV)/.test: $(VENV)/.base
	$(PIP) -c constraints.txt -e '.[test]'
	$(PIP) -c constraints.txt -e '.[torch]' || echo 'no torch: the comparisons with it will be skipped'
	touch $@

$(VENV)/.lint: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -c constraints.txt mypy ruff types-PyYAML
	touch $@

# every mesh against one device, an hour or so: the table in docs/meshes.md
matrix: $(VENV)/.test
	$(BIN)/python -m tests.parallel.matrix > docs/meshes.md
