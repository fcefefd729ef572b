# Stage 3: Debian tree -> guest tree, in place. Sourced by build.sh.

# copy_modules UNPACKED TREE LIST: the kernel modules that LIST names (see kernel-modules.txt), and their dependencies.
copy_modules() {
	local from=$1/lib/modules to=$2/usr/lib/modules list=$3 kver keep
	kver=$(ls "$from")
	mkdir -p "$to/$kver"
	cp "$from/$kver"/modules.{builtin,builtin.modinfo,order} "$to/$kver/"
	[[ -e $from/$kver/modules.dep ]] || depmod -b "$1" "$kver"
	keep=$(package_list "$list")
	# modules.dep: "path: dependency dependency ..." with all dependencies, not only the nearest.
	awk -v keep="$keep" '
		BEGIN { n = split(keep, name, "\n") }
		{
			for (i = 1; i <= n; i++) {
				p = "kernel/" name[i]
				if ($1 == p ":" || index($1, p "/") == 1) {
					sub(":", "")
					for (j = 1; j <= NF; j++) print $j
					next
				}
			}
		}' "$from/$kver/modules.dep" | sort -u |
		(cd "$from/$kver" && cpio --quiet -pdm "$to/$kver")
	depmod -b "$2" "$kver"
}

# customize_rootfs TREE UNPACKED
customize_rootfs() {
	local tree=$1 unpacked=$2 glob unit

	# Delete what drop.txt lists. The globs are relative: nothing outside the tree can match.
	(
		cd "$tree" || exit 1
		shopt -s nullglob dotglob
		while IFS= read -r glob; do
			# shellcheck disable=SC2086 # the glob is meant to expand
			rm -rf --one-file-system -- $glob
		done < <(package_list "$here/drop.txt" | grep -vxF -f <([[ ! -e $here/keep-$variant.txt ]] || package_list "$here/keep-$variant.txt"))
	)

	# Our own files over it; modes do not travel in git.
	cp -r --no-preserve=ownership "$here/rootfs/common/." "$tree/"
	if [[ -d $here/rootfs/$variant ]]; then cp -r --no-preserve=ownership "$here/rootfs/$variant/." "$tree/"; fi
	chmod 440 "$tree/etc/sudoers.d/core"

	copy_modules "$unpacked" "$tree" "$here/kernel-modules.txt"
	cp "$unpacked/usr/bin/ignition-validate" "$tree/usr/bin/"
	cp "$unpacked/sbin/mkfs.xfs" "$tree/usr/sbin/"

	# Identity. Without a machine-id the guest is a fresh machine: the initramfs (or the platform) makes one.
	rm -f "$tree/etc/os-release" "$tree/etc/machine-id" "$tree/var/lib/dbus/machine-id"
	cat >"$tree/usr/lib/os-release" <<-EOF
		NAME="Mantle Test Linux"
		ID=$distro
		ID_LIKE=debian
		VERSION=$version
		VERSION_ID=$version
		BUILD_ID=0
		PRETTY_NAME="Mantle Test Linux $version ($variant)"
		COREOS_BOARD="amd64-usr"
	EOF
	ln -s ../usr/lib/os-release "$tree/etc/os-release"
	ln -s /etc/machine-id "$tree/var/lib/dbus/machine-id"
	ln -sf ../run/systemd/resolve/resolv.conf "$tree/etc/resolv.conf"

	# User core, as on Container Linux. Password "*", not "!": sshd takes the latter for a locked account.
	chroot "$tree" groupadd -g 500 core
	chroot "$tree" groupadd -r -f docker
	chroot "$tree" useradd -u 500 -g core -G sudo,docker,systemd-journal,adm -c "CoreOS Admin" -s /bin/bash -m core
	chroot "$tree" usermod -p '*' core
	chroot "$tree" usermod -p '*' root

	# Name resolution and time are started after ssh, not before it (see the late.conf drop-ins).
	for unit in resolved timesyncd; do
		sed -i 's/^WantedBy=.*/WantedBy=multi-user.target/; /^Before=/d' "$tree/usr/lib/systemd/system/systemd-$unit.service"
	done
	ln -s ../serial-getty@.service "$tree/usr/lib/systemd/system/multi-user.target.wants/serial-getty@ttyS0.service"
	find "$tree/usr/lib/systemd/system" "$tree/etc/systemd" -xtype l -lname '[^/]*' -delete
	chroot "$tree" systemctl preset-all
	chroot "$tree" systemctl set-default multi-user.target

	mkdir -p "$tree/var/log/journal"
	# Newer than /usr: spares the units that bring /etc and /var up to date.
	touch "$tree/usr" "$tree/etc/.updated" "$tree/var/.updated"
}
