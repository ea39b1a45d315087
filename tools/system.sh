#!/usr/bin/env bash
# The programs that tests drive and that no wheel brings: psql, h2load, a PostgreSQL server that speaks TLS,
# MariaDB with its clients, a browser, Java with its Postgres driver.
# Installed where root or sudo allows.
set -euo pipefail

wanted=()
command -v psql >/dev/null || wanted+=(postgresql-client)
command -v h2load >/dev/null || wanted+=(nghttp2-client)
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || wanted+=(postgresql)
PATH="$PATH:/usr/sbin" command -v mariadbd >/dev/null || wanted+=(mariadb-server)
command -v mariadb >/dev/null || wanted+=(mariadb-client)
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
  wanted+=(chromium)
command -v java >/dev/null || wanted+=(default-jdk-headless)
[ -e /usr/share/java/postgresql.jar ] || wanted+=(libpostgresql-jdbc-java)
[ "${#wanted[@]}" -eq 0 ] && exit 0

say() { printf '%s\n' "$*" >&2; }

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
    say "Not here: ${wanted[*]}. Tests that need them say so. As root: apt-get install ${wanted[*]}"
    exit 0
  fi
  as_root=(sudo -n)
fi
if ! command -v apt-get >/dev/null; then
  say "Not here, and no apt-get to bring them: ${wanted[*]}. Tests that need them say so."
  exit 0
fi
say "Installing ${wanted[*]} with apt-get"
"${as_root[@]}" apt-get update -qq || true
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >&2 ||
  say "apt-get could not install ${wanted[*]}. Tests that need them say so."
