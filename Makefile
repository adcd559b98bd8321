# The two commands to begin with: `make demo` and `make test`. `make help` lists all of them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Run as modules: ``python -m benchmarks.reconstruction.pt10``.
CRYSTENS := codec canonical perovskites stability
RECONSTRUCTION := speed shapes pt10 crystals molecules large atomwise rows measured information ablation infeasible
REFINEMENT := pt10_project materials generated

.PHONY: help demo test lint docs bench bench-quick clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.base  ## new Pt10 clusters from EMT-labelled ones: recipe to report, about five minutes
	@$(BIN)/whorl run recipes/pt10_emt.yaml --output runs/pt10_emt
	@test -s runs/pt10_emt/report/report.html
	@echo "Open runs/pt10_emt/report/report.html in a browser."

test: $(VENV)/.dev  ## all tests
	@$(BIN)/python -m pytest --numprocesses auto --quiet

lint: $(VENV)/.dev  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(VENV)/.dev  ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.dev  ## all benchmarks, each as a ratio to a baseline in the same run
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; \
	  $(BIN)/python -m benchmarks.$$(basename $$script .py) || exit 1; done
	@echo "== fuzz_readers"; $(BIN)/python -m benchmarks.fuzz_readers
	@for script in $(CRYSTENS); do echo "== crystens, $$script"; \
	  $(BIN)/python -m benchmarks.crystens.$$script || exit 1; done
	@for suite in $(RECONSTRUCTION); do echo "== reconstruction, $$suite"; \
	  $(BIN)/python -m benchmarks.reconstruction.$$suite || exit 1; done
	@for suite in $(REFINEMENT); do echo "== refinement, $$suite"; \
	  $(BIN)/python -m benchmarks.refinement.$$suite || exit 1; done

bench-quick: $(VENV)/.dev  ## all benchmarks on tiny inputs, as a smoke test
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; \
	  $(BIN)/python -m benchmarks.$$(basename $$script .py) --quick || exit 1; done
	@echo "== fuzz_readers"; $(BIN)/python -m benchmarks.fuzz_readers --quick
	@for script in $(CRYSTENS); do echo "== crystens, $$script"; \
	  $(BIN)/python -m benchmarks.crystens.$$script --quick || exit 1; done
	@for suite in $(RECONSTRUCTION); do echo "== reconstruction, $$suite"; \
	  $(BIN)/python -m benchmarks.reconstruction.$$suite --quick || exit 1; done
	@for suite in $(REFINEMENT); do echo "== refinement, $$suite"; \
	  $(BIN)/python -m benchmarks.refinement.$$suite --quick || exit 1; done

clean:  ## remove the environment, caches and built pages (results in runs/ are kept)
	rm -rf $(VENV) site build .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@echo "Setting up $(VENV) …"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing whorl (a minute or two) …"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "Installing the development tools and optional calculators …"
	@$(PIP) --editable '.[chgnet,crystens,dask,diffusion,flow,matgl,sevennet,xtb,parquet,docs,dev]'
	@touch $@
