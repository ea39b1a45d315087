#!/usr/bin/env bash
# Makes $VENV from requirements.lock, every file checked by its hash, and puts this project into it.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${VENV:-.venv}"

say() { printf '%s\n' "$*" >&2; }

find_python() {
  local name
  for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$name" ] && command -v "$name" >/dev/null &&
      "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  say "Python 3.11 or newer is needed. On Debian: apt-get install python3 python3-venv"
  say "Another one can be named: make test PYTHON=/path/to/python3"
  exit 1
}

can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

install_venv_module() {
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    else
      return 1
    fi
  fi
  command -v apt-get >/dev/null || return 1
  say "python3-venv is missing; installing it with apt-get"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv
}

python="$(find_python)"
if ! can_make_venv "$python"; then
  install_venv_module || true
  if ! can_make_venv "$python"; then
    say "$python cannot make virtual environments. On Debian, as root: apt-get install python3-venv"
    exit 1
  fi
fi

# An environment whose Python is gone (an upgrade of the system, another machine) is made anew.
if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
  "$python" -m venv --clear "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install --require-hashes -r requirements.lock
"${pip[@]}" install --no-deps --no-build-isolation -e .
