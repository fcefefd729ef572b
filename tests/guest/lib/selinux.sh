# Variant selinux: a policy of few modules, and labels on all files. Sourced by build.sh.

# label_rootfs TREE
label_rootfs() {
	# The contexts are those that the machine will see: / is its root, and /usr is part of it. setfiles wants /proc.
	# shellcheck disable=SC2016 # for the inner shell
	unshare --mount sh -c '
		mount -t proc proc "$1/proc" &&
			chroot "$1" setfiles -F /etc/selinux/default/contexts/files/file_contexts /' - "$1" ||
		die "selinux: setfiles fails ($?)"
}
