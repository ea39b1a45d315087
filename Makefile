# `make test` on a fresh Debian needs Python 3.11 or newer and nothing else; the rest is fetched once, by hash.
#
#   make demo ARGS=--once    play the story and exit with a status
#   make bench ARGS=--quick  a short run of the benchmarks, of the compiled form; PURE=1 measures the interpreted one

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
PURE ?=

# Tests start some hundred interpreters, which without bytecode would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=

# One file after another on each worker, as tests/e2e/conftest.py orders them. Mostly they wait for other processes.
FILES_APART := -n 4 --dist loadfile --no-loadscope-reorder

# What drives an Envoy: named, because collecting the tests that are then left out takes as long as many of them.
E2E := tests/e2e $(filter-out tests/e2e/%,$(shell grep -rl --include='test_*.py' 'mark\.e2e' tests))

# How a checkout runs the compiled form: its package comes first, tests and bench are the checkout's own.
COMPILED := build/compiled
AS_COMPILED := PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR)/$(COMPILED):$(CURDIR)"
SHIPPED = $(shell find extproc policies/demo -type f -not -name '*.pyc') pyproject.toml hatch_build.py README.md

.PHONY: help install system test lint format unit clients e2e mysql-server demo wheel compiled compiled-tests bench bench-postgres bench-mysql lock proto docs envoy screenshots clean

help:  ## what there is
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(READY)  ## the virtual environment, from requirements.lock

$(READY): requirements.lock pyproject.toml tools/venv.sh
	@VENV="$(VENV)" tools/venv.sh
	@touch $@

# lint and the compiler keep one core busy each, most end-to-end tests none: so what can go on at once does.
test: $(READY) system  ## everything that must pass
	@$(MAKE) --no-print-directory -j 2 lint-unit compiled-meanwhile
	@$(MAKE) --no-print-directory e2e compiled-tests

.PHONY: lint-unit compiled-meanwhile
lint-unit:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit

# Says nothing unless it fails. Where there is no compiler, compiled-tests says so.
compiled-meanwhile: $(READY)
	@mkdir -p build
	@! tools/compiler.sh $(BIN)/python >build/compiled.log 2>&1 || \
	  $(MAKE) --no-print-directory compiled >>build/compiled.log 2>&1 || \
	  { cat build/compiled.log >&2; echo "the compiled form could not be built, see above" >&2; exit 1; }

lint: $(READY)  ## format, lint, types, import arrows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## rewrite what the formatter would
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

system:  ## psql, h2load, a PostgreSQL server, MariaDB and a browser, where root or sudo allows
	tools/system.sh

unit: $(READY) system  ## tests without a real Envoy
	$(BIN)/pytest -m "not e2e" --ignore tests/e2e -n auto --dist worksteal $(ARGS)

clients: $(VENV)/clients/.ready  ## MySQL's own connector for Python, which tests run as a program

# It is under the GPL, so it has an environment of its own and nothing of ours imports it.
$(VENV)/clients/.ready: tools/clients.lock $(READY)
	$(BIN)/python -m venv --clear "$(VENV)/clients"
	"$(VENV)/clients/bin/python" -m pip --disable-pip-version-check --quiet install --require-hashes -r $<
	@touch $@

e2e: $(READY) system clients  ## tests that drive a real Envoy
	$(BIN)/pytest -m "e2e and not mysql_server" $(FILES_APART) $(or $(ARGS),$(E2E))

mysql-server: $(READY) system clients  ## tests with MySQL's own server, unpacked from Debian's unstable packages
	tools/mysql.sh
	$(BIN)/pytest -m mysql_server tests/e2e $(ARGS)

demo: $(READY)  ## the whole story on this machine
	$(BIN)/extproc demo $(ARGS)

wheel: dist/.compiled  ## the wheel with the request path compiled, in dist; wants gcc and Python's headers

compiled: $(COMPILED)/.ready  ## that wheel unpacked, in build/compiled

dist/.compiled: $(READY) $(SHIPPED) tools/compiler.sh
	tools/compiler.sh $(BIN)/python
	rm -f dist/*.whl
	@mkdir -p dist && touch dist/.begun
	EXTPROC_COMPILE=1 $(BIN)/hatchling build -t wheel -d dist
	@mv dist/.begun $@  # as old as its beginning: what was changed meanwhile is not in it

$(COMPILED)/.ready: dist/.compiled
	rm -rf $(COMPILED)
	$(BIN)/python -m pip --disable-pip-version-check --quiet install --no-deps --no-index --target $(COMPILED) dist/*.whl
	@touch $@

# What is compiled, by itself and through a real Envoy. The same tests as ever; what says nothing about the compiled
# form is marked `pure_only` with the reason, and listed at the end.
COMPILED_UNIT := tests/test_compiled.py tests/app/test_form.py tests/protocols \
  tests/domain/test_request.py tests/identity/test_verifier.py \
  $(addprefix tests/ledger/test_,lines.py otlp.py spans.py statement_spans.py) \
  tests/adapters/test_ledger_files.py tests/adapters/test_telemetry.py tests/masking tests/pipeline \
  $(addprefix tests/policy/test_,cases.py laws.py plain.py projection.py rulings.py statements.py) \
  tests/servers
COMPILED_E2E := $(addprefix tests/e2e/test_,lean_invariant.py masking.py ext_authz.py holds.py \
  lifecycle.py::test_kill_9_during_two_thousand_requests_leaves_nothing_unrecorded \
  lifecycle.py::test_sigterm_under_load_loses_no_record_and_passes_nothing_unrecorded \
  postgres.py postgres_sessions.py mysql.py relay.py \
  postgres_workers.py::test_a_cancel_finds_a_held_statement_in_whatever_worker_it_is \
  mysql_records.py::test_binary_rows_become_text)
COMPILED_PYTEST := EXTPROC_FORM=compiled $(AS_COMPILED) $(BIN)/python -m pytest --import-mode=append -rfEs

compiled-tests: $(READY) system  ## the tests of what is compiled, on the compiled form
	@if tools/compiler.sh $(BIN)/python; then \
	  $(MAKE) --no-print-directory compiled; \
	  $(COMPILED_PYTEST) -m "not e2e" -n auto --dist worksteal $(COMPILED_UNIT) $(ARGS); \
	  $(COMPILED_PYTEST) -m e2e $(FILES_APART) $(COMPILED_E2E) $(ARGS); \
	else echo "compiled-tests: the compiled form was not tested, see above"; [ "$${CI:-}" != true ]; fi

# $(call measure,MODULE): the compiled form is measured, or the pure one for PURE=1 and where there is no compiler.
measure = if [ -z "$(PURE)" ] && tools/compiler.sh $(BIN)/python; then \
	  $(MAKE) --no-print-directory compiled; export $(AS_COMPILED); \
	fi; $(BIN)/python -m $(1) $(ARGS)

bench: $(READY)  ## what it costs
	@$(call measure,bench)

bench-postgres: $(READY) system  ## what it costs to govern Postgres
	@$(call measure,bench.postgres_bench)

bench-mysql: $(READY) system  ## what it costs to govern MySQL
	@$(call measure,bench.mysql_bench)

lock:  ## write requirements.lock anew, with uv in an environment of its own
	tools/lock.sh

proto: $(READY)  ## message classes from our .proto files
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -I. --python_out=. --mypy_out=. \
	  extproc/servers/wire/*.proto

docs: $(READY)  ## renew the table of settings in docs/configuration.md
	$(BIN)/python -m tools.config_page

envoy: $(READY)  ## render the ready Envoy configurations
	$(BIN)/python -m tools.ready_envoy

screenshots: $(READY) system  ## pictures of every page of the console, in build/screenshots
	$(BIN)/python -m tools.screenshots $(ARGS)

clean:  ## remove what make made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
