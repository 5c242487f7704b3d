# Everything runs in .venv, made on first use. Another interpreter has one of its own: make test PYTHON=python3.13
PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])"))
BIN := $(VENV)/bin
LOWEST := .venv-lowest/bin
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt

.PHONY: help install demo test test-slow test-lowest benchmark-quick lint types docs tutorials build clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed-test  ## .venv with the package (editable) and what its tests need

demo: $(VENV)/.installed-test  ## integrate two platforms, annotate hidden cells; writes demo.h5ad and demo.png
	$(BIN)/more-scvi demo

test: $(VENV)/.installed-test  ## the test suite
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed-test $(VENV)/.installed-doc  ## tests that take minutes, the tutorial among them
	$(BIN)/python -m pytest -m slow

test-lowest:  ## the test suite with the lowest versions that pyproject.toml names, in .venv-lowest; Python 3.11
	test -x $(LOWEST)/uv || ($(PYTHON) -m venv .venv-lowest && $(LOWEST)/python -m pip install --quiet uv)
	$(LOWEST)/uv pip compile --quiet --python $(LOWEST)/python --resolution lowest-direct pyproject.toml --group test \
		-o .venv-lowest/lowest.txt
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --no-deps -r .venv-lowest/lowest.txt -e .
	$(LOWEST)/python -m pytest

benchmark-quick: $(VENV)/.installed-test  ## small form of the benchmark, minutes; needs MORE_DATA
	$(BIN)/python benchmarks/run.py --quick --jobs 2

lint: $(VENV)/.installed-dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## mypy on src
	$(BIN)/mypy

docs: $(VENV)/.installed-doc  ## HTML in docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

tutorials: $(VENV)/.installed-doc  ## execute the tutorials in place
	TQDM_DISABLE=1 $(BIN)/jupyter execute --inplace tutorials/*.ipynb

build: $(VENV)/.installed-dev  ## sdist and wheel in dist/
	$(BIN)/python -m build

clean:  ## remove what was built
	rm -rf .venv .venv-* dist docs/_build docs/api/generated demo.h5ad demo.png

# --group needs pip 25.1
$(VENV)/.pip:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade "pip>=25.1"
	touch $@

$(VENV)/.installed-%: $(VENV)/.pip pyproject.toml constraints.txt
	$(PIP) -e . --group $*
	touch $@
