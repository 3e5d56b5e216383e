# Every target makes the virtual environment that it needs; `make` alone prints this help.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= local,speed,test,dev
# A file of versions that pip keeps to, such as .ci/constraints.txt; empty: the latest.
CONSTRAINTS ?=
BIN := $(VENV)/bin
# Not exported to all: the tests install the peer into an environment of its own, which has other versions.
CONSTRAINED := PIP_CONSTRAINT=$(abspath $(CONSTRAINTS)) PIP_BUILD_CONSTRAINT=$(abspath $(CONSTRAINTS))
RUFF := $(BIN)/ruff
RUFF_CONFIG := --config .ci/ruff.toml
CORE_TESTS := tests/transport tests/peer tests/jsonrpc tests/client tests/test_speedups.py \
	tests/benchmarks/test_guards.py
BORDER_TESTS := tests/transport tests/jsonrpc tests/client tests/studio tests/backend tests/session tests/test_local.py tests/trainer/test_search.py \
	tests/test_testing.py tests/test_readme.py

.DEFAULT_GOAL := help
.PHONY: help install demo test test-core test-borders test-slow interop test-all soak fuzz bench bench-afnio bench-quick bench-log bench-page bench-questions company-proxy pictures cover format lint type docs build check-dist check clean

help:  ## print this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The environment is brought up to date when the requirements change, or the C code: each interpreter has its own build
# of that in the tree. Where it cannot be built any more, one that is out of date must not stay.
$(VENV)/installed: setup.cfg setup.py tellurio_sync/_speedups.c $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "tellurio_sync needs Python 3.10 or later: make PYTHON=/path/to/python3.x ..."; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(CONSTRAINED) $(BIN)/python -m pip install --quiet --upgrade pip
	$(CONSTRAINED) PYTHONWARNINGS='ignore:Editable installation' $(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@built=tellurio_sync/_speedups$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'); \
	[ $$built -nt tellurio_sync/_speedups.c ] || \
		{ rm -f $$built; echo "The C extension was not built (no C compiler?): the same is done in Python, slower."; }
	@touch $@

install: $(VENV)/installed  ## make .venv with the package (editable) and what its development needs

demo: install  ## optimise a prompt in a local backend; DATA=file.json for your own mails, ARGS=... for more options
	$(BIN)/tellurio-sync demo $(if $(DATA),--data '$(DATA)') $(ARGS)

test: install  ## run the fast tests
	$(BIN)/python -m pytest -q -m 'not slow and not interop' $(ARGS)

test-core: install  ## run those of them that are about a call on its way: transport, peer, jsonrpc, client, speedups
	$(BIN)/python -m pytest -q -m 'not slow and not interop' $(CORE_TESTS) $(ARGS)

test-borders: install  ## run those of them that touch other libraries: HTTP, WebSocket, TLS, the keyring, the backend
	$(BIN)/python -m pytest -q -m 'not slow and not interop' $(BORDER_TESTS) $(ARGS)

test-slow: install  ## run the tests with whole processes, networks that misbehave and large messages
	$(BIN)/python -m pytest -q -m 'slow and not interop' $(ARGS)

interop: install  ## run the tests with the real afnio as the backend's client; installs it into an environment of its own
	$(BIN)/python -m pytest -q -m interop $(ARGS)

test-all: test test-slow interop  ## run all tests

cover: install  ## run all tests and report branch coverage
	$(BIN)/coverage run -m pytest -q $(ARGS)
	$(BIN)/coverage report --show-missing --skip-covered

soak: install  ## inject random faults for five minutes, and show that nothing was lost; ARGS="--seconds N --seed N --tls", or "--backend", or "--trainings --kills N"
	$(BIN)/python -m tests.faults.soak $(ARGS)

company-proxy: install  ## log in, log a run and ask a language model through a real proxy that opens TLS (mitmproxy, installed once under .cache)
	$(BIN)/python -m tests.company_proxy $(ARGS)

fuzz: install  ## feed a million random and mutated frames, answers, TLS records and requests to everything that reads; ARGS="--frames N --seed N"
	$(BIN)/python -m tests.faults.fuzz $(ARGS)

bench: install  ## measure against the peers, afnio among them (minutes; installs it once, under .cache); ARGS="--only TEXT"
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-quick: install  ## run every benchmark once, small: shows that they still run, not how fast
	$(BIN)/python -m tests.benchmarks --quick

bench-afnio: install  ## measure a program for afnio over afnio's client, over ours, and moved over here
	$(BIN)/python -m tests.benchmarks.ways $(ARGS)

bench-log: install  ## measure logging beside trackio, wandb, mlflow and tensorboardX, each installed once under .cache; ARGS="--only NAME"
	$(BIN)/python -m tests.benchmarks.logging_table $(ARGS)

bench-page: install  ## measure the pages of the local backend with a lot of data, beside those of trackio and mlflow; ARGS="--only-ours"
	$(BIN)/python -m tests.benchmarks.page_table $(ARGS)

bench-questions: install  ## count the questions of trainings here and with textgrad and gepa, each installed once under .cache; ARGS="--data FILE"
	$(BIN)/python -m tests.benchmarks.learning_table $(ARGS)

pictures: install  ## take the pictures of the pages anew that the README shows; needs Chromium
	$(BIN)/python -m tests.benchmarks.pictures

format: install  ## format the code
	$(RUFF) format $(RUFF_CONFIG) .
	$(RUFF) check $(RUFF_CONFIG) --fix-only .

lint: install  ## report what is not formatted, or looks wrong
	$(RUFF) format $(RUFF_CONFIG) --check .
	$(RUFF) check $(RUFF_CONFIG) .

type: install  ## check the types of the package
	$(BIN)/mypy

docs: install  ## build the documentation as pages for a browser, into build/docs; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file .ci/mkdocs.yml --site-dir $(abspath build/docs)

build: install  ## build the source distribution, the wheel and the one without C code into dist/
	rm -rf dist build
	$(CONSTRAINED) $(BIN)/python -m build --outdir dist .
	$(CONSTRAINED) TELLURIO_SYNC_PURE_PYTHON=1 $(BIN)/python -m build --wheel --outdir dist .

check-dist: build  ## install what was built into an empty environment, with and without a C compiler, and try it
	$(CONSTRAINED) $(BIN)/python tests/check_dist.py dist

check: lint type test test-slow interop bench-quick check-dist  ## everything that CI runs on one Python; .ci/run: all of CI

clean:  ## remove environments, builds and caches
	rm -rf .venv* .cache build dist *.egg-info tellurio_sync/*.so .coverage htmlcov .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
