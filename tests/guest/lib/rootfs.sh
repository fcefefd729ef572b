# Stage 1: Debian packages -> directory tree, and the unpacked-only packages beside it. Sourced by build.sh.

# Package names of a list file, one a line.
package_list() {
	sed 's/#.*//' "$@" | grep -o '[^[:space:]]\+'
}

# make_rootfs TREE UNPACKED: fills TREE with the variant's packages, UNPACKED with those of packages-unpacked.txt.
# Downloaded packages are kept in $cache/debs, so that the second build needs few downloads.
make_rootfs() {
	local tree=$1 unpacked=$2 debs=$cache/debs list=("$here/packages-base.txt") include doc
	[[ -e $here/packages-$variant.txt && $variant != base ]] && list+=("$here/packages-$variant.txt")
	include=$(package_list "${list[@]}" | paste -sd,)
	mkdir -p "$debs" "$unpacked"

	local exclude=()
	for doc in doc man locale info lintian bug; do
		exclude+=(--dpkgopt="path-exclude=/usr/share/$doc/*")
	done
	# The hooks run on the host with the new tree as $1; the apt settings point apt at the tree's own package lists.
	# mmdebstrap runs them under sh, hence the environment for the file names.
	DEBS=$debs LIST=$here/packages-unpacked.txt mmdebstrap \
		--mode=root --variant=essential --format=directory --include="$include" \
		--aptopt='APT::Install-Recommends "false"' --aptopt='APT::Sandbox::User "root"' \
		--aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' \
		--dpkgopt=force-unsafe-io "${exclude[@]}" \
		--skip=download/empty --skip=essential/unlink \
		--setup-hook='mkdir -p "$1/var/cache/apt/archives"; cp -al "$DEBS"/*.deb "$1/var/cache/apt/archives/" 2>/dev/null || :' \
		--customize-hook='cp -nl "$1"/var/cache/apt/archives/*.deb "$DEBS/" || :' \
		--customize-hook='cd "$DEBS" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && set -- $(sed "s/#.*//" "$LIST") &&
			apt-get -q download "$@" $(apt-cache depends "$1" | sed -n "s/^ *Depends: //p")' \
		"$suite" "$tree" \
		"deb $mirror $suite main" \
		"deb $mirror $suite-updates main" \
		"deb $mirror_security $suite-security main"

	unpack_newest() { # the newest of the files named so
		local deb
		deb=$(printf '%s\n' "$@" | sort -V | tail -n1)
		dpkg-deb -x "$deb" "$unpacked"
	}
	unpack_newest "$debs"/linux-image-[0-9]*-cloud-amd64_*.deb
	unpack_newest "$debs"/ignition_*.deb
	unpack_newest "$debs"/xfsprogs_*.deb
}
