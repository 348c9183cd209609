# Everything is installed into $(VENV), from hashes, and nothing is written outside this folder.
# `make` alone prints the list of targets.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
ARGS ?=
PYTEST_ARGS ?=
SECONDS ?= 120
LOCK_ARGS ?=

# pip keeps its downloads beside what it installs, and a "user = true" of pip's configuration must not win over the venv.
export PIP_CACHE_DIR ?= $(abspath $(VENV))/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_USER := 0
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-deps
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --extra embedded --extra top --group build

.DEFAULT_GOAL := help
.PHONY: help run install test check audit bench bench-peers bench-pages chaos fuzz screenshots db docs lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# `exec`: a SIGTERM that reaches make goes to the supervisor itself, and make waits until it has drained.
run: $(VENV)/run.stamp ## install, then start scheduler, runner and API with the tasks of tasks/ (ARGS=…)
	@exec $(BIN)/python -m taskrunner.foreground $(BIN)/taskrunner start all $(ARGS)

install: $(VENV)/run.stamp ## install into .venv what running needs

test: $(VENV)/dev.stamp ## install the development tools and run the tests (PYTEST_ARGS=…)
	@$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

check: $(VENV)/dev.stamp ## lint, format, types, layers, security, files: what CI checks before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive taskrunner
	$(BIN)/python -m pytest -q -p no:randomly tests/unit/test_repository.py

audit: $(VENV)/dev.stamp ## look the pinned dependencies up among known vulnerabilities (needs the internet)
	$(BIN)/pip-audit --require-hashes --disable-pip --requirement requirements/run.txt

bench: $(VENV)/dev.stamp ## measure the twelve rows of docs/benchmarks.md on this machine, 20 minutes (ARGS=…)
	@exec $(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(VENV)/dev.stamp ## install other queues into .bench/ and measure them beside this one, 20 minutes (ARGS=…)
	@exec $(BIN)/python -m benchmarks.peers $(ARGS)

bench-pages: $(VENV)/dev.stamp ## measure all pages and lists beside ten million ended tasks, 10 minutes, 8 GB (ARGS=…)
	@exec $(BIN)/python -m benchmarks.dashboard $(ARGS)

chaos: $(VENV)/dev.stamp ## inject faults for SECONDS=120 and check that nothing is lost or doubled
	@TASKRUNNER_CHAOS_SECONDS=$(SECONDS) exec $(BIN)/python -m pytest -m chaos tests/chaos $(PYTEST_ARGS)

fuzz: ARGS := $(or $(ARGS),--max-examples=500)
fuzz: $(VENV)/dev.stamp ## ask the API for all that its description promises, and for what it does not (ARGS="--seed 7")
	@TASKRUNNER_FUZZ="$(ARGS)" exec $(BIN)/python -m pytest -s tests/e2e/test_schemathesis.py $(PYTEST_ARGS)

screenshots: $(VENV)/dev.stamp ## take the pictures of docs/screenshots/ anew (needs chromium)
	@exec $(BIN)/python -m tests.demo.screenshots

db: ## start PostgreSQL in Docker on port 6000
	@command -v docker >/dev/null || { echo "docker is not installed; without it, leave DATABASE_URL unset:" \
		"taskrunner then starts a PostgreSQL of its own" >&2; exit 1; }
	docker compose up --detach --wait db
	@echo "export DATABASE_URL=postgresql://taskuser:taskpass@localhost:6000/taskdb"

docs: $(VENV)/dev.stamp ## write the pages that are generated from the code
	$(BIN)/python docs/generate.py

lock: $(VENV)/dev.stamp ## pin the dependencies of pyproject.toml with hashes (LOCK_ARGS=--upgrade)
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) $(LOCK_ARGS) --group dev pyproject.toml -o requirements/dev.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(COMPILE) $(LOCK_ARGS) -c requirements/dev.txt pyproject.toml \
		-o requirements/run.txt

clean: ## remove .venv and caches; .taskrunner/ with its database stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.taskrunner/*' -prune -exec rm -rf {} +

# The first Python that is new enough and can make a venv; a pyenv shim may exist and still fail, so each one is tried.
# Where none can, the reason is told: too old, or Debian's python3-venv is missing.
$(VENV)/python.stamp:
	@usable='import sys; sys.exit(sys.version_info < (3, 11))'; old=yes; chosen=; \
	for python in $(or $(PYTHON),$(PYTHONS)); do \
		"$$python" -c "$$usable" >/dev/null 2>&1 || continue; \
		old=; if "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then chosen=$$python; break; fi; \
	done; \
	if [ -n "$$old" ]; then \
		echo "taskrunner needs Python 3.11 or newer; none found among: $(or $(PYTHON),$(PYTHONS))." \
			"Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; \
	elif [ -z "$$chosen" ]; then \
		echo "this Python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 1; \
	fi; \
	"$$chosen" -m venv $(VENV)
	@touch $@

$(VENV)/run.stamp: requirements/run.txt pyproject.toml $(VENV)/python.stamp
	@echo "Installing into $(VENV); the first time takes about a minute"
	@$(PIP_INSTALL) --require-hashes --requirement requirements/run.txt
	@$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	@echo "Installing the development tools"
	@$(PIP_INSTALL) --require-hashes --requirement requirements/dev.txt
	@touch $@
