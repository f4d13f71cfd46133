# make train | test | test-fast | setup | lint | format: each needs Python >= 3.11 and nothing else
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: train test test-fast setup lint format clean package examples matrix faults fuzz programs bench bench-gpu check-gpu

train: $(VENV)/.base
	$(BIN)/jaxneox train

test: $(VENV)/.test
	$(BIN)/python -m pytest

# three minutes on two cores: what needs no other process and no golden cases
test-fast: $(VENV)/.test
	JAXNEOX_SHARED=none $(BIN)/python -m pytest --fast

setup: $(VENV)/.base $(VENV)/.test $(VENV)/.lint

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(COMPILERS) .cache .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxneox needs Python 3.11 or later: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e .
	touch $@

# torch is for comparisons only, and pinned for Python 3.11 alone: elsewhere the newest would bring
# gigabytes of CUDA, so that the tests which need it are skipped, unless TORCH=1
TORCH ?= $(shell $(PYTHON) -c 'import sys; print(int(sys.version_info[:2] == (3, 11)))')

$(VENV)/.test: $(VENV)/.base
	$(PIP) -c constraints.txt -e '.[test]'
	if [ $(TORCH) = 1 ]; then $(PIP) -c constraints.txt -e '.[torch]'; else \
	  echo 'no torch: the comparisons with it will be skipped'; fi
	touch $@

$(VENV)/.lint: $(VENV)/.base
	$(PIP) -c constraints.txt -e '.[lint]'
	touch $@

# the wheel in an empty environment and folder: every command; two minutes
package: $(VENV)/.base
	$(BIN)/python -m tests.package

# every example of the README, with a shortened default training; two minutes
examples: $(VENV)/.test
	$(BIN)/python -m pytest -n 0 tests/readme_examples.py

# meshes in which every two values of every two features meet, against one device: the table in
# docs/meshes.md; some 15 minutes
matrix: $(VENV)/.test
	$(BIN)/python -m tests.parallel.matrix > .meshes.tmp
	echo >> .meshes.tmp
	$(BIN)/python -m tests.objectives.meshes >> .meshes.tmp
	echo >> .meshes.tmp
	$(BIN)/python -m tests.objectives.golden >> .meshes.tmp
	echo >> .meshes.tmp
	$(BIN)/python -m tests.train.elastic >> .meshes.tmp
	mv .meshes.tmp docs/meshes.md

# kill -9 of a process of four, ten times in a row: the table in docs/hosts.md; a quarter of an hour
faults: $(VENV)/.test
	$(BIN)/python -m tests.hosts.faults

# broken and hostile files given to the commands; three minutes, and each case can be repeated
fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz

# a handful of steps compiled for an H100, a v5p and a v5e slice that are not there: kernels, dtypes,
# collectives, memory; some minutes, and at first a gigabyte of compilers, apart from the environment
COMPILERS := .compilers
programs: $(VENV)/.test $(COMPILERS)/.done
	JAXNEOX_COMPILERS=$(COMPILERS)/cuda:$(COMPILERS)/tpu $(BIN)/python -m pytest -n 0 -o faulthandler_timeout=1800 tests/programs

$(COMPILERS)/.done: $(VENV)/.base
	$(BIN)/python -m tests.programs.compilers $(COMPILERS)
	touch $@

# beside transformers' GPTNeoX, eager and compiled: the tables in docs/performance.md; some minutes.
# On a machine with a GPU, whose environment has jax[cuda12], a CUDA torch and transformers:
# make bench-gpu PYTHON_BENCH=python; in ten minutes the first cases of each kind, and those of the rest
# for which there is time. The rest: python -m tests.bench --gpu --only train --size 2.8b
PYTHON_BENCH ?= $(BIN)/python
bench: $(VENV)/.test
	$(PYTHON_BENCH) -m tests.bench --json bench.json

# It begins with what needs no GPU: its programs are compiled for one, and what will be run is listed.
bench-gpu:
	$(PYTHON_BENCH) -m tests.bench.check
	$(PYTHON_BENCH) -m tests.bench --gpu --rounds 5 --minutes 7 --json bench.json

# attention within packed documents by cuDNN against the plain kernel, on a Hopper GPU or later;
# in the environment of bench-gpu; two minutes
check-gpu:
	$(PYTHON_BENCH) -m tests.bench.packed
