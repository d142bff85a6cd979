# JouleLab: `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
OUT    ?= studies/quick
.DEFAULT_GOAL := help
.PHONY: help study test check lint types docs bench clean

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.study: $(VENV)/.made pyproject.toml
	$(PIP) -e '.[study]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	$(PIP) --no-compile -e '.[all,dev]'
	@touch $@ $(VENV)/.study

study: $(VENV)/.study ## measure real models on this machine and write a report (OUT=studies/quick)
	$(BIN)/joulelab study quick --out $(OUT)

# What is imported is compiled once here: much of what was installed never is.
test: $(VENV)/.dev ## run every test
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal -q

check: lint types test docs ## tests, lint, types and docs

lint: $(VENV)/.dev ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

docs: $(VENV)/.dev ## build the documentation, warnings are errors
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

bench: $(VENV)/.study ## JouleLab beside its peers on one simulated GPU (needs gcc; 10 minutes)
	$(BIN)/python -m benchmarks.bench

clean: ## remove what the targets above made (studies stay)
	rm -rf $(VENV) .venv-bench docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
