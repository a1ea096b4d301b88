# The words people try first. Each needs only Python 3.10 or later with its venv module.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help test test-all lint docs bench fuzz ci dist clean

help:
	@echo "make test      tests without real programs and slow ones, in parallel"
	@echo "make test-all  all tests"
	@echo "make lint      format, lint, spelling, prose, types, layers"
	@echo "make docs      HTML in build/docs"
	@echo "make bench     gtcp, its peers and its floors, about seven minutes"
	@echo "make fuzz      a minute of fuzzing"
	@echo "make ci        all gates in a clean clone, as on a public host"
	@echo "make dist      sdist and wheel in dist/"

$(BIN)/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e '.[test,programs,lint,docs,fuzz]'

test: $(BIN)/python
	$(BIN)/python -m pytest -n auto --dist loadgroup -m "not programs and not slow"

test-all: $(BIN)/python
	$(BIN)/python -m pytest -n auto --dist loadgroup

lint: $(BIN)/python
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/python .ci/prose
	$(BIN)/mypy --strict gtcp
	$(BIN)/lint-imports

docs: $(BIN)/python
	$(BIN)/sphinx-build -q -W --keep-going docs build/docs

bench: $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[bench]'
	$(BIN)/python -m benchmarks

fuzz: $(BIN)/python
	$(BIN)/python -m fuzz --seconds 60

ci:
	.ci/run

dist: $(BIN)/python
	$(BIN)/python -m pip install -q build twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf build dist .venv *.egg-info
