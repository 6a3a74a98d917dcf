# make demo   everything once, from an empty machine: install, fetch, ask, fine-tune, ask again, serve, compare
# make test   checks and tests        make check  style, types, who may import whom
# make coverage  which lines the tests run, by file
# make setup  only install            make slow   the long tests        make clean  remove what these made
# make oldest  the tests of what transformers does, with the oldest one that pyproject.toml takes
# make bench  the figures that matter most, as one table to paste: a few minutes
# make clients  installs the clients of others that tests/clients runs against the server, runs them, and writes the docs' table
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
CLIENTS := .clients/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup demo test check coverage slow oldest bench clients clean

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
	OMP_NUM_THREADS=1 pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile

# one process, about half as long again as the tests alone; a full disk cannot take coverage's own files either
coverage: setup
	arriero download smollm2-135m-instruct
	coverage erase
	OMP_NUM_THREADS=1 coverage run -m pytest -m "not slow" -k "not full_disk"; status=$$?; \
	coverage combine --quiet && coverage report --fail-under=93 && exit $$status

# two at a time, but for those with Ray clusters, whose moments to kill something in are not met beside others
slow: setup
	arriero download smollm2-135m-instruct
	pytest -m slow tests/cluster
	OMP_NUM_THREADS=1 pytest -m slow --ignore tests/cluster --numprocesses auto --maxprocesses 2 --dist loadfile

oldest: setup
	rm -rf build/oldest
	$(BIN)/python -m pip install --quiet --progress-bar off --no-deps --target build/oldest \
		"transformers==$$(sed -n 's/.*"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml)" "tokenizers<=0.23.0" "huggingface-hub<2"
	arriero download smollm2-135m-instruct
	PYTHONPATH=$(CURDIR)/build/oldest OMP_NUM_THREADS=1 pytest -m "not slow" tests/prompt tests/engines/transformers tests/training

bench: setup
	@arriero download smollm2-135m-instruct >&2
	@python -m benchmarks

clients: setup $(CLIENTS)
	arriero download smollm2-135m-instruct
	arriero download all-minilm-l6-v2
	pytest -m slow tests/clients; status=$$?; python -m tests.clients.catalogue && exit $$status

$(CLIENTS): tests/clients/requirements.txt tests/clients/requirements-openai2.txt tests/clients/package-lock.json
	@echo "installing into .clients: a few minutes, some 1.2 GB"
	rm -rf .clients
	$(PYTHON) -m venv .clients/python
	.clients/python/bin/pip install --quiet --progress-bar off --requirement tests/clients/requirements.txt
	$(PYTHON) -m venv .clients/python-openai2
	.clients/python-openai2/bin/pip install --quiet --progress-bar off --requirement tests/clients/requirements-openai2.txt
	PATH="$(CURDIR)/.clients/python/bin:$$PATH" npm ci --prefix tests/clients --no-audit --no-fund
	touch $@

clean:
	rm -rf .venv .clients tests/clients/node_modules runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
