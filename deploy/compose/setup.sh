#!/usr/bin/env bash
# Writes .env with fresh random secrets for the compose stack. Never overwrites one.
set -euo pipefail
cd "$(dirname "$0")/../.."
umask 077
if [ -e .env ]; then
  echo ".env is there already; remove it to start over" >&2
  exit 1
fi
if ! command -v htpasswd >/dev/null; then
  echo "htpasswd makes the password hash that Dex wants. On Debian: apt-get install apache2-utils" >&2
  exit 1
fi
random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }
password="$(random)"
hash="$(printf '%s' "$password" | htpasswd -niBC 10 agent | cut -d: -f2-)"
{
  printf "CUSTOMERS_API_KEY='%s'\n" "$(random)"
  printf "DEX_CUSTOMERS_API_SECRET='%s'\n" "$(random)"
  printf "DEX_APPROVALS_SECRET='%s'\n" "$(random)"
  # For you, to sign in as agent@example.com; the containers get the hash alone.
  printf "AGENT_PASSWORD='%s'\n" "$password"
  printf "DEX_AGENT_PASSWORD_HASH='%s'\n" "$hash"
} >.env
echo "wrote .env"
