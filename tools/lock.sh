#!/usr/bin/env bash
# Writes requirements.lock: every dependency with its hashes, for all platforms, naming no registry.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip --disable-pip-version-check --quiet install uv
"$scratch/venv/bin/uv" pip compile --universal --generate-hashes --no-emit-index-url --no-header \
  --extra dev pyproject.toml -o requirements.lock "$@"
