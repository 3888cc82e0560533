# `make demo` and `make test` do everything from a bare checkout: virtual environment, install, run.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# a worker per core with one thread each: tiny models gain nothing from threads
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: demo test fast check lab clean
.DELETE_ON_ERROR:

$(VENV)/.untax-installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "untax needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# align the embedded lab's model with contrast, next to an SFT-only control; ends with the receipt's path
demo: $(VENV)/.untax-installed
	$(BIN)/untax run recipes/quickstart.yaml

# lint, types, then every test, the slow ones too
test: check
	$(PYTEST)

# the tests without the slow ones
fast: $(VENV)/.untax-installed
	$(PYTEST) -m 'not slow'

check: $(VENV)/.untax-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# train the lab's base model again from its seed
lab: $(VENV)/.untax-installed
	$(BIN)/untax lab build --out runs/lab-base

clean:
	rm -rf $(VENV) runs build dist
