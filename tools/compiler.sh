#!/usr/bin/env bash
# Is there what a compiled wheel needs: a C compiler and Python's headers? Installs them where root or sudo allows.
# Fails, and says what is missing, where it may not.
set -euo pipefail
python="${1:?the Python to compile for}"

say() { printf '%s\n' "$*" >&2; }

missing() {
  wanted=()
  command -v gcc >/dev/null || command -v cc >/dev/null || wanted+=(gcc libc6-dev)
  "$python" -c 'import sys, sysconfig, pathlib
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || wanted+=(python3-dev)
  [ "${#wanted[@]}" -gt 0 ]
}

missing || exit 0
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo -n)
fi
if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
  say "Installing ${wanted[*]} with apt-get"
  "${as_root[@]}" apt-get update -qq || true
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >&2 ||
    true
fi
if missing; then
  say "Nothing can be compiled here: no ${wanted[*]} for $python. On Debian, as root: apt-get install ${wanted[*]}"
  exit 1
fi
