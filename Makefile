# make book    run the smoke profile end to end and build the book
# make env     set up .venv, and nothing more
# make test    run the tests, but for the slow ones; make test-all runs every one
# make lab     open copies of the chapters in JupyterLab; LAB="--no-browser" passes options on
# make lint    check the style of the code and its types
# make lock    resolve the dependencies anew into requirements.lock
# make clean   remove what was set up and built; runs/, data/ and lab/ stay
#
# Each sets up .venv first where needed. PYTHON=/path/to/python3.12 chooses the interpreter.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help env book test test-all lab lint lock clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := uv==0.13.9
PYTHON ?=

# Without compiled files every process would compile PyTorch's sources again. Where commands will write none (as in
# many containers), they are compiled on installation.
COMPILED := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
unexport PYTHONDONTWRITEBYTECODE

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^$$/q'

env: $(READY)
	@echo "$(VENV) is set up. Next: source $(BIN)/activate, and then"
	@echo "  diffusegen new path/to/pairs   for data of your own, or"
	@echo "  make book                      for a run on phantoms"

book: $(READY)
	@$(BIN)/diffusegen run params/smoke.yaml --workers 2

# A process for each core and one more, as a part of the time is waiting; but at most four: each imports PyTorch
# anew. The tests of a file stay in one process, as they share what they make; tests/conftest.py says which files come
# first, so that all end together.
test: CHOSEN := -m "not slow"
test test-all: $(READY)
	@cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); \
	$(BIN)/python -m pytest $(CHOSEN) -n $$((cores < 4 ? cores + 1 : 4)) --dist loadfile --no-loadscope-reorder

lab: $(READY)
	@$(BIN)/python -m diffusegen_core.lab $(LAB)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# The lock names no server, so that it serves any mirror; every file is held by its hash.
lock: $(BIN)/uv
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra dev pyproject.toml -o requirements.lock
	@echo "requirements.lock is written."

clean:
	@rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(READY): requirements.lock pyproject.toml | $(BIN)/uv
	@echo "Installing the locked packages into $(VENV) ..."
	@$(BIN)/uv pip install -q $(COMPILED) --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# A name on the path may be a shim that fails, so each candidate is run.
$(BIN)/uv:
	@for python in $(PYTHON) python3 python3.12 python3.11; do \
		if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
			2>/dev/null; then \
			echo "Setting up $(VENV) with $$($$python --version) ..."; \
			$$python -m venv --clear $(VENV) && $(BIN)/python -m pip install -q --disable-pip-version-check $(UV); \
			exit; \
		fi; \
	done; \
	echo "Python 3.11 or 3.12, with its venv module, was not found (tried $(PYTHON) python3 python3.12 python3.11)."; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.12 book"; \
	exit 1
