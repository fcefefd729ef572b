#!/bin/bash
# Makes a small SDK of Debian packages, once: prints the path of its archive. debian.sh [CACHE]; MANTLE_GUEST_MIRROR names a
# mirror. What an SDK has that its chroot is entered with, and a shell; packages' own scripts have run in it.
set -euo pipefail
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/mantle/sdk}
mirror=${MANTLE_GUEST_MIRROR:-http://deb.debian.org/debian}
archive=$cache/debian-$(sha256sum <"$0" | cut -c1-12).tar.bz2
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if ! [ -e "$archive" ]; then
	work=$(mktemp -d "$cache/work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	chmod 755 "$work"
	# shellcheck disable=SC2016 # mmdebstrap's hooks get the folder as $1
	mmdebstrap --quiet --variant=essential --include=sudo,passwd \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/zoneinfo/*' \
		--customize-hook='printf "root ALL=(ALL:ALL) ALL\n%%sudo ALL=(ALL:ALL) NOPASSWD: ALL\n@includedir /etc/sudoers.d\n" >"$1/etc/sudoers"' \
		--customize-hook='printf "NAME=SDK\nVERSION=2.0.0\nVERSION_ID=2.0.0\n" >"$1/usr/lib/os-release"' \
		--customize-hook='chroot "$1" groupadd -r kvm; chroot "$1" groupadd -r portage' \
		--customize-hook='rm -rf "$1"/var/lib/apt/lists "$1"/var/cache "$1"/usr/share/{perl5,bash-completion,info}' \
		--format=tar bookworm "$work/sdk.tar" "$mirror" >&2
	bzip2 -9 "$work/sdk.tar"
	mv "$work/sdk.tar.bz2" "$archive"
	rm -rf "$work"
fi
echo "$archive"
