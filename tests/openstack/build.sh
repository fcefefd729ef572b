#!/bin/bash
# Puts the OpenStack that tests run against into a folder of its own, from Debian 12 packages. See README.md beside this
# file. Prints the folder on standard output, progress on standard error.
set -euo pipefail

cache=${MANTLE_OPENSTACK_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mantle/openstack}
mirror=${MANTLE_GUEST_MIRROR:-http://deb.debian.org/debian}
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
suite=bookworm
say() { printf 'openstack: %4d s  %s\n' $SECONDS "$*" >&2; }

list() { # package names of a list file
	sed 's/#.*//' "$@" | grep -o '[^[:space:]]\+'
}

((EUID == 0)) || { echo "openstack: this needs root" >&2 && exit 1; }
mkdir -p "$cache/debs"
exec 9>"$cache/.lock"
flock 9
recipe=$(cat "$here"/{build.sh,packages.txt,packages-unpacked.txt} | sha256sum | cut -c1-12)
root=$cache/root-$recipe
if [[ ! -e $root/.complete ]]; then
	rm -rf "$cache"/root-*
	say "installing packages (about 250 of them), log in $cache/build.log"
	exclude=()
	for doc in doc man locale info lintian bug; do
		exclude+=(--dpkgopt="path-exclude=/usr/share/$doc/*")
	done
	# The hooks run on the host with the new tree as $1, under sh.
	DEBS=$cache/debs UNPACKED=$(list "$here/packages-unpacked.txt" | paste -sd' ') mmdebstrap \
		--mode=root --variant=essential --format=directory \
		--include="$(list "$here/packages.txt" | paste -sd,)" \
		--aptopt='APT::Install-Recommends "false"' --aptopt='APT::Sandbox::User "root"' \
		--aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' \
		--dpkgopt=force-unsafe-io "${exclude[@]}" \
		--skip=download/empty --skip=essential/unlink \
		--setup-hook='mkdir -p "$1/var/cache/apt/archives"; cp -al "$DEBS"/*.deb "$1/var/cache/apt/archives/" 2>/dev/null || :' \
		--customize-hook='cp -nl "$1"/var/cache/apt/archives/*.deb "$DEBS/" || :' \
		--customize-hook='rm -f "$1"/var/cache/apt/archives/*.deb' \
		--customize-hook='cd "$DEBS" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -q download $UNPACKED' \
		"$suite" "$root" \
		"deb $mirror $suite main" "deb $mirror $suite-updates main" \
		"deb ${mirror%/debian}/debian-security $suite-security main" >"$cache/build.log" 2>&1
	for package in $(list "$here/packages-unpacked.txt"); do
		# As dpkg does it: /lib is a link, which `dpkg-deb -x` would replace.
		deb=$(printf '%s\n' "$cache/debs/${package}"_*.deb | sort -V | tail -n1)
		dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$root"
	done
	touch "$root/.complete"
fi
say "in $root"
echo "$root"
