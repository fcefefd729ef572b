# Read by the scripts of tests/cork/chroot.rs, run by a user who is not root: a manifest with one project, and what they
# do again and again. $SDK: where the tarballs are.
die() {
	echo "FAILED: $*" >&2
	exit 99
}
expect() { [ "$1" = "$2" ] || die "found '$1', expected '$2'"; }
status() {
	local wanted=$1 got=0
	shift
	"$@" || got=$?
	expect "$got" "$wanted"
}
git config --global user.name "Alice A"
git config --global user.email alice@localhost
git config --global init.defaultBranch master
commit() { git -C /srv/tmp/"$1" add --all && git -C /srv/tmp/"$1" commit -qm x; }
# The version of the manifests, and of the SDK that they want.
release() {
	printf 'FLATCAR_VERSION=%s\nFLATCAR_VERSION_ID=%s\nFLATCAR_BUILD_ID=""\nFLATCAR_SDK_VERSION=%s\n' "$1" "$1" "$2" \
		>/srv/tmp/manifest.git/version.txt
	commit manifest.git
}
git init -q /srv/tmp/scripts.git
cat >/srv/tmp/scripts.git/update_chroot <<'END'
#!/bin/bash
set -eu
echo "updating as $(id -un) with: $*"
sudo touch /updated
[ "${1:-}" != fail ] || exit 7
END
chmod +x /srv/tmp/scripts.git/update_chroot
commit scripts.git
git init -q /srv/tmp/manifest.git
cat >/srv/tmp/manifest.git/default.xml <<'END'
<manifest><remote name="origin" fetch="file:///srv/tmp"/><default remote="origin" revision="master"/>
<project name="scripts" path="src/scripts"/></manifest>
END
release 2.0.0 2.0.0
sources="--manifest-url=file:///srv/tmp/manifest.git --manifest-branch=master --sync-with=builtin --sdk-url=$SDK"
mounted() { grep -c "/srv/root" /proc/self/mounts || true; }
