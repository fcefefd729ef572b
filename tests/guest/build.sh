#!/bin/bash
# Builds the guest image that kola is tested with, from Debian 12 packages. See README.md beside this file.
set -euo pipefail
shopt -s inherit_errexit

usage() {
	cat <<-EOF
		usage: build.sh [--variant base|full|update|selinux] [--distro ID] [--cache DIR] [--mirror URL] [--force]
		  --variant  base (default)
		             full: with docker, podman, etcd, NFS, ...
		             selinux: with a policy, permissive
		             update: can be updated, to the system in usr-next.img beside it
		  --distro   ID in the guest's os-release (default: debian, or \$MANTLE_GUEST_DISTRO)
		  --cache    where images are kept (default: \$MANTLE_GUEST_DIR, else ~/.cache/mantle/guest)
		  --mirror   Debian mirror (default: http://deb.debian.org/debian, or \$MANTLE_GUEST_MIRROR)
		  --force    build even if there is an image made by these very files
		Prints the image's folder on standard output, progress on standard error.
	EOF
}

exec 3>&2 # messages for people; standard error of the build itself goes to a log
say() { printf 'guest: %4d s  %s\n' $SECONDS "$*" >&3; }
die() {
	echo "guest: $*" >&3
	exit 1
}

variant=base
distro=${MANTLE_GUEST_DISTRO:-debian}
cache=${MANTLE_GUEST_DIR:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/mantle/guest}
mirror=${MANTLE_GUEST_MIRROR:-http://deb.debian.org/debian}
force=
while (($#)); do
	case $1 in
	--variant | --distro | --cache | --mirror)
		(($# > 1)) || die "$1 needs a value"
		declare "${1#--}=$2"
		shift 2
		;;
	--force) force=1 && shift ;;
	-h | --help) usage && exit ;;
	*) usage >&2 && die "unknown argument $1" ;;
	esac
done
case $variant in
base) root_size=2048 need_mib=2000 ;; # MiB of the ROOT file system; free space that a build takes
full) root_size=4096 need_mib=4000 ;;
selinux | update) root_size=2048 need_mib=3000 ;;
*) die "unknown variant $variant: base, full, selinux or update" ;;
esac
[[ $distro =~ ^[a-z0-9._-]+$ ]] || die "not an os-release ID: $distro"

cache=$(realpath -m "$cache")
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
suite=bookworm
mirror_security=${mirror%/debian}/debian-security
version=1.0.0
kernel_arguments="console=ttyS0,115200n8 root=LABEL=ROOT rw mount.usr=PARTLABEL=USR-A mount.usrfstype=ext4 \
mount.usrflags=ro,noatime fsck.mode=skip ignition.platform.id=qemu net.ifnames=0 security=none mitigations=off"
features=(ign3 btrfs xfs mdadm dbus ro-usr networkd timesyncd)
case $variant in
full) features+=(docker podman etcd nfs journal-remote ipvs) ;;
selinux)
	features+=(selinux)
	kernel_arguments=${kernel_arguments/security=none/security=selinux}
	;;
update) features+=(update-engine ab-usr locksmith) ;;
esac

# The four stages
# shellcheck source-path=SCRIPTDIR
source "$here/lib/rootfs.sh"
source "$here/lib/initramfs.sh"
source "$here/lib/customize.sh"
source "$here/lib/disk.sh"
source "$here/lib/selinux.sh"
source "$here/lib/update.sh"
source "$here/host.sh"

# The cache key: everything that the image is made of (not what is about this machine), except the day's package versions.
cache_key() {
	(
		cd "$here"
		echo "$variant $distro"
		local beside=(! -name README.md ! -name host.sh ! -name packages-host.txt ! -name packages-run.txt ! -name boot.sh)
		for other in base full selinux update; do # what only other variants have
			[[ $other == "$variant" ]] || beside+=(! -path "./rootfs/$other/*")
			[[ $other == "$variant" || $other == base ]] || beside+=(! -name "packages-$other.txt" ! -name "keep-$other.txt")
		done
		find . -type f "${beside[@]}" -printf '%m %p\n' | LC_ALL=C sort
		find . -type f "${beside[@]}" -print0 | LC_ALL=C sort -z | xargs -0 cat
	) | sha256sum | cut -c1-12
}

check_host() {
	local lacks
	((EUID == 0)) || die "must be run as root (it unpacks Debian packages with their owners)"
	lacks=$(lacking "$here/packages-host.txt")
	[[ -z $lacks ]] || die "missing programs; install them with: apt-get install -y $(cut -d' ' -f1 <<<"$lacks" | sort -u | xargs)"
}

free_mib() { df -Pm "$cache" | awk 'NR == 2 { print $4 }'; }

# Nothing of a failed or interrupted build stays behind but its log.
clean_up() {
	local status=$?
	trap - EXIT INT TERM HUP
	if [[ ${build_group-} ]]; then
		kill -TERM -- "-$build_group" 2>/dev/null || :
		wait "$build_group" || :
	fi
	if ((status > 128)); then
		echo "guest: interrupted" >&2
	elif ((status != 0)); then
		if [[ -s $work/build.log ]]; then
			mv -f "$work/build.log" "$cache/$variant-failed.log"
			echo "guest: build failed; last lines of $cache/$variant-failed.log:" >&2
			tail -n 20 "$cache/$variant-failed.log" | sed 's/^/    /' >&2
		fi
		(($(free_mib) > 100)) || echo "guest: the disk that holds $cache is full" >&2
	fi
	rm -rf --one-file-system "$work"
	exit $status
}

build() {
	local out=$work/out
	mkdir -p "$out" "$work/disk" "$work/tmp"
	export TMPDIR=$work/tmp
	say "packages ($variant)"
	make_rootfs "$out/root" "$work/unpacked"
	say "initramfs"
	make_initramfs "$out/root" "$work/unpacked" "$out/ignition-root"
	pack_initramfs "$out/ignition-root" "$out/initrd.zst"
	cp "$work"/unpacked/boot/vmlinuz-* "$out/vmlinuz"
	say "customisation"
	dpkg-query --admindir="$out/root/var/lib/dpkg" -W >"$out/packages.txt"
	customize_rootfs "$out/root" "$work/unpacked"
	case $variant in
	selinux) label_rootfs "$out/root" ;;
	update) make_updatable "$out" ;;
	esac
	say "disk"
	make_disk "$out/root" "$out/vmlinuz" "$out/initrd.zst" "$work/disk" "$work/disk.raw"
	[[ $variant != update ]] || make_next "$out" "$work/disk/usr"
	say "qcow2"
	qemu-img convert -O qcow2 -c -o compression_type=zstd "$work/disk.raw" "$out/guest.qcow2"
	write_features "$out/root" >"$out/guest.qcow2.json"
}

# What kola asks about the image. guest.firstboot=auto: see initramfs/files/init.
write_features() {
	local list read
	list=$(printf '"%s", ' "${features[@]}")
	read=$(ignition_versions "$1")
	[[ $read == *3.0.0* ]] || die "the guest's Ignition does not say what it reads"
	cat <<-EOF
		{
		  "distro": "$distro",
		  "board": "amd64-usr",
		  "version": "$version",
		  "user": "core",
		  "features": [${list%, }],
		  "ignition": [${read%, }],
		  "kernel": "vmlinuz",
		  "initrd": "initrd.zst",
		  "kernel_arguments": "$kernel_arguments guest.firstboot=auto"
		}
	EOF
}

# The versions of configs that the guest's Ignition takes, by its own word, as a list for JSON.
ignition_versions() {
	local version
	for version in 2.{0..5}.0 3.{0..9}.0 3.{1..9}.0-experimental; do
		if chroot "$1" /usr/bin/ignition-validate - <<<'{"ignition": {"version": "'"$version"'"}}' >/dev/null 2>&1; then
			printf '"=%s", ' "$version"
		fi
	done
}

point_to() { # the folder: makes the variant's link point to it, at once or not at all
	ln -sfn "${1##*/}" "$cache/.$variant.new"
	mv -fT "$cache/.$variant.new" "$cache/$variant"
	echo "$1"
}

result=$cache/$variant-$(cache_key)
if [[ -e $result && -z $force ]]; then
	touch "$result"
	point_to "$result"
	exit
fi

check_host
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
umask 022
mkdir -p "$cache"
exec 9>"$cache/.lock-$variant"
flock -n 9 || { say "waiting for another build" && flock 9; }
if [[ -e $result && -z $force ]]; then # the other build was this one
	point_to "$result"
	exit
fi
rm -rf --one-file-system "$cache/.build-$variant".* # of a build that was killed
(($(free_mib) > need_mib)) || die "disk full: building $variant needs $need_mib MiB in $cache, $(free_mib) MiB are free"

# The build runs in a process group of its own, so that all of it can be ended at once.
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
work=$(mktemp -d "$cache/.build-$variant.XXXXXX")
set -m
build >"$work/build.log" 2>&1 </dev/null &
build_group=$!
set +m
wait "$build_group"
build_group=

chmod 755 "$work/out"
[[ -e $result ]] && mv "$result" "$work/old"
mv "$work/out" "$result"
rm -f "$cache/$variant-failed.log"
find "$cache" -maxdepth 1 -name "$variant-*" -type d -mtime +2 ! -path "$result" -exec rm -rf --one-file-system {} +
say "done: $(du -sm "$result/guest.qcow2" | cut -f1) MiB guest.qcow2"
point_to "$result"
