#!/usr/bin/env bash
# Writes requirements.lock (everything, for development) and, with the same versions, the two the image needs:
# deploy/build.lock and deploy/runtime.lock. Each file is named by its hash and no registry is named at all.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip --disable-pip-version-check --quiet install uv
compile() {
  "$scratch/venv/bin/uv" pip compile --quiet --universal --generate-hashes --no-header "$@"
}

# `tools/lock.sh image` leaves requirements.lock as it is.
if [ "${1:-}" != image ]; then
  compile --extra dev pyproject.toml -o requirements.lock "$@"
fi
if [ "${1:-}" != image ]; then
  # newer than 9: its C part wants an OpenSSL that Debian 12 has not
  echo "mysql-connector-python>=9,<10" | compile --no-annotate - -o tools/clients.lock "$@"
fi
compile --constraints requirements.lock --no-annotate pyproject.toml -o deploy/runtime.lock
# mypy and setuptools compile the request path, with the types of what it imports that brings none itself
printf "%s\n" hatchling mypy setuptools types-grpcio types-protobuf types-pyyaml |
  compile --constraints requirements.lock --no-annotate - -o deploy/build.lock
