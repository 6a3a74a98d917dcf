# make demo   everything once, from an empty machine: install, fetch, ask, fine-tune, ask again, serve, compare
# make test   checks and tests        make check  style, types, who may import whom
# make setup  only install            make slow   the long tests        make clean  remove what these made
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup demo test check slow clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into .venv: a few minutes, some 3 GB"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --progress-bar off --constraint constraints.txt --editable ".[all,dev]"
	touch $@

demo: setup
	examples/demo.sh

check: setup
	ruff check .
	ruff format --check .
	mypy
	lint-imports

test: check
	arriero download smollm2-135m-instruct
	pytest -m "not slow"

slow: setup
	arriero download smollm2-135m-instruct
	pytest -m slow

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
