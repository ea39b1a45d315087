#!/usr/bin/env bash
# MySQL's own server and client from Debian's unstable packages, unpacked into a folder: nothing is installed, and
# its libraries come with it. 65 MB, 410 MB unpacked. The first argument is the folder, the tests' own by default.
set -euo pipefail

cache="$HOME/.cache"
[ "$(id -u)" -ne 0 ] || cache=/var/cache # the server runs as nobody then
folder="${1:-${EXTPROC_MYSQL:-$cache/extproc/mysql}}"
[ -x "$folder/usr/sbin/mysqld" ] && exit 0

say() { printf '%s\n' "$*" >&2; }
keys=/usr/share/keyrings/debian-archive-keyring.gpg
mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -m1 '/debian/$' || true)"
if [ -z "$mirror" ] || [ ! -e "$keys" ] || ! command -v dpkg-deb >/dev/null; then
  say "No MySQL server can be brought: this machine has no Debian archive to fetch it from."
  exit 1
fi

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
: > "$work/status"
echo "deb [signed-by=$keys] $mirror sid main" > "$work/sources.list"
cat > "$work/apt.conf" <<CONF
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
APT::Sandbox::User "root";
CONF
export APT_CONFIG="$work/apt.conf"
say "Fetching MySQL's packages"
if ! apt-get update -qq >&2 ||
  ! apt-get install -y -qq --download-only --no-install-recommends mysql-server-core mysql-client-core >&2; then
  say "No MySQL server can be brought: the packages were not to be had."
  exit 1
fi
mkdir -p "$folder.new"
for package in "$work"/cache/archives/*.deb; do
  dpkg-deb -x "$package" "$folder.new"
done
rm -rf "$folder"
mv "$folder.new" "$folder"
say "MySQL is in $folder"
