# Everything runs in .venv, made on first use. PYTHON picks the interpreter: make test PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt

.PHONY: help install demo test test-slow benchmark-quick lint types docs tutorials build clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/.installed-test  ## .venv with the package (editable) and what its tests need

demo: .venv/.installed-test  ## integrate two platforms, annotate hidden cells; writes demo.h5ad and demo.png
	$(BIN)/more-scvi demo

test: .venv/.installed-test  ## the test suite
	$(BIN)/python -m pytest

test-slow: .venv/.installed-test .venv/.installed-doc  ## tests that take minutes, the tutorial among them
	$(BIN)/python -m pytest -m slow

benchmark-quick: .venv/.installed-test  ## small form of the benchmark, minutes; needs MORE_DATA
	$(BIN)/python benchmarks/run.py --quick --jobs 2

lint: .venv/.installed-dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-dev  ## mypy on src
	$(BIN)/mypy

docs: .venv/.installed-doc  ## HTML in docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

tutorials: .venv/.installed-doc  ## execute the tutorials in place
	TQDM_DISABLE=1 $(BIN)/jupyter execute --inplace tutorials/*.ipynb

build: .venv/.installed-dev  ## sdist and wheel in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist .

clean:  ## remove what was built
	rm -rf .venv dist docs/_build docs/api/generated demo.h5ad demo.png

# --group needs pip 25.1
.venv/.pip:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --upgrade "pip>=25.1"
	touch $@

.venv/.installed-%: .venv/.pip pyproject.toml constraints.txt
	$(PIP) -e . --group $*
	touch $@
