# `make test` on a fresh Debian needs Python 3.11 or newer and nothing else; the rest is fetched once, by hash.
#
#   make demo ARGS=--once    play the story and exit with a status
#   make bench ARGS=--quick  a short run of the benchmarks

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.PHONY: help install system test lint format unit clients e2e mysql-server demo bench bench-postgres bench-mysql lock proto docs envoy screenshots clean

help:  ## what there is
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(READY)  ## the virtual environment, from requirements.lock

$(READY): requirements.lock pyproject.toml tools/venv.sh
	@VENV="$(VENV)" tools/venv.sh
	@touch $@

test: lint unit e2e  ## everything that must pass

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
	$(BIN)/pytest -m "not e2e" -n auto --dist worksteal $(ARGS)

clients: $(VENV)/clients/.ready  ## MySQL's own connector for Python, which tests run as a program

# It is under the GPL, so it has an environment of its own and nothing of ours imports it.
$(VENV)/clients/.ready: tools/clients.lock $(READY)
	$(BIN)/python -m venv --clear "$(VENV)/clients"
	"$(VENV)/clients/bin/python" -m pip --disable-pip-version-check --quiet install --require-hashes -r $<
	@touch $@

e2e: $(READY) system clients  ## tests that drive a real Envoy
	$(BIN)/pytest -m "e2e and not mysql_server" -n 2 --dist loadfile $(ARGS)

mysql-server: $(READY) system clients  ## tests with MySQL's own server, unpacked from Debian's unstable packages
	tools/mysql.sh
	$(BIN)/pytest -m mysql_server tests/e2e $(ARGS)

demo: $(READY)  ## the whole story on this machine
	$(BIN)/extproc demo $(ARGS)

bench: $(READY)  ## what it costs
	$(BIN)/python -m bench $(ARGS)

bench-postgres: $(READY) system  ## what it costs to govern Postgres
	$(BIN)/python -m bench.postgres_bench $(ARGS)

bench-mysql: $(READY) system  ## what it costs to govern MySQL
	$(BIN)/python -m bench.mysql_bench $(ARGS)

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
