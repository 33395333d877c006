# `make demo` shows the whole path, `make test` runs the tests; both make what they need in .venv and nothing outside.

PYTHON ?= python3
DATA ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint requirements.lock

OUTPUT ?= dist
TENSORRT_RTX := tensorrt_rtx_cu13_libs==1.7.1.116 tensorrt_rtx_cu13_bindings==1.7.1.116


.PHONY: help install demo test test-all fuzz soak audit bench lint format deb docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo [DATA=DIR]  node and PACS on loopback, one study through both (DIR: a folder of DICOM files)"
	@echo "make test             the tests that take seconds each"
	@echo "make test-all         all tests, the slow ones too"
	@echo "make fuzz             hostile input for all that reads foreign bytes (MINUTES=15), findings in var/fuzz/found"
	@echo "make soak             a mixed load on the whole node (MINUTES=10), what is lost, doubled or grows"
	@echo "make bench            the engines against PyTorch, studies stage by stage (SLICES=16), into docs/performance.md"
	@echo "make audit            known vulnerabilities of the locked dependencies (asks PyPI; SECONDS=600)"
	@echo "make lint             style, types, import rules"
	@echo "make install          the node in .venv, without what only training and tests need"
	@echo "make deb              the Debian package, in dist/"
	@echo "make docs             the documentation as a site, in site/"
	@echo "make clean            remove .venv and everything made here"

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "lungnode needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv \
	  || { echo "no virtual environment could be made; on Debian: apt install python3-venv" >&2; exit 1; }
	@touch $@

.venv/serving: .venv/made pyproject.toml requirements.lock
	@echo "installing lungnode in .venv ..."
	@$(PIP) --editable .
	@touch $@

.venv/testing: .venv/serving
	@echo "installing what training, tests and the documentation need in .venv ..."
	@$(PIP) --editable '.[train,test,docs]'
	@$(PIP) --no-deps $(TENSORRT_RTX) || echo "no TensorRT for RTX here: the tests of real FP16 builds are skipped"
	@touch $@

install: .venv/serving

demo: .venv/serving
	@$(BIN)/lungnode demo $(if $(DATA),--data "$(DATA)")

test: .venv/testing
	$(BIN)/python -m pytest -m "not slow" -rs --numprocesses auto --dist loadfile

test-all: .venv/testing
	$(BIN)/python -m pytest

.venv/fuzzing: .venv/testing
	@$(PIP) --editable '.[fuzz]'
	@touch $@

fuzz: .venv/fuzzing
	@$(BIN)/python tests/fuzz/run.py --minutes $(or $(MINUTES),15)

soak: .venv/testing
	@$(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),10)

bench: .venv/testing
	$(BIN)/python benchmarks/engines.py --slices $(or $(SLICES),16) --document docs/performance.md

.venv/audit/made: .venv/made
	@$(PYTHON) -m venv .venv/audit && .venv/audit/bin/python -m pip install --quiet --quiet pip-audit
	@touch $@

audit: .venv/audit/made
	@$(BIN)/python .ci/audit .venv/audit/bin/pip-audit $(or $(SECONDS),600)

lint: .venv/testing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: .venv/testing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

deb:
	packaging/build_deb.sh $(OUTPUT)

docs: .venv/testing
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

clean:
	rm -rf .venv build dist site demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
