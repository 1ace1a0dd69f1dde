# `make quickstart` and `make test` set up everything they need in .venv, then run.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= runs/quickstart

# The first of these that is there, really runs, and is recent enough; `make PYTHON=/path/to/python3.12` overrides it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1 && { echo $$p; break; }; done)

.PHONY: help quickstart test docs fuzz audit format clean

help:
	@echo "make quickstart   fine-tune and compare rankers on the embedded model, in a few minutes on two cores"
	@echo "make test         linters, types, import contract, tests and doctests"
	@echo "make docs         README and guides as a site: build/site/index.html"
	@echo "make fuzz         damaged data, answers, configurations and HTTP requests by seed; counts, and failures with their numbers"
	@echo "make audit        bandit over the sources, pip-audit over the pinned packages"
	@echo "make format       reformat the sources"
	@echo "make clean        remove .venv and caches"

quickstart: $(READY)
	$(BIN)/irpo quickstart --out $(OUT)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -n auto --maxprocesses 4

docs: $(READY)
	rm -rf build/docs
	mkdir -p build/docs/irpo/guides build/docs/benchmarks
	cp README.md build/docs/ && cp irpo/guides/*.md build/docs/irpo/guides/ && cp benchmarks/README.md build/docs/benchmarks/
	$(BIN)/mkdocs build --strict --quiet --config-file configs/docs.yml

fuzz: $(READY)
	$(BIN)/python -W ignore -m tests.fuzz

audit: $(READY)
	$(BIN)/python tests/audit.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: irpo needs Python 3.11, 3.12 or 3.13; found: $$(python3 --version 2>/dev/null || echo none)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
