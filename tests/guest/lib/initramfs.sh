# Stage 2: the initramfs, made by hand from the Debian tree and the unpacked packages. Sourced by build.sh.
# It also serves containers: the nspawn platform runs Ignition chrooted in its unpacked tree.

# make_initramfs TREE UNPACKED OUT: TREE is the Debian tree before customisation; OUT becomes the initramfs' tree.
make_initramfs() {
	local tree=$1 unpacked=$2 out=$3
	local modules_d=$unpacked/usr/lib/dracut/modules.d/30ignition units=$out/usr/lib/systemd/system name

	mkdir -p "$out"/{dev,proc,sys,run,tmp,sysroot,root,var} "$out"/etc/ssl/certs \
		"$out"/usr/{bin,lib/systemd/{system,network,system-generators},lib/udev/rules.d,lib64}
	for name in bin lib lib64; do ln -s "usr/$name" "$out/$name"; done
	ln -s usr/bin "$out/sbin"
	ln -s bin "$out/usr/sbin"
	ln -s ../run "$out/var/run"

	# Programs
	for name in $(package_list "$here/initramfs/programs.txt"); do
		case $name in
		/*) install -D "$tree$name" "$out$name" ;;
		mkfs.xfs) install "$unpacked/sbin/$name" "$out/usr/bin/" ;;
		*) cp -L "$(find_program "$tree" "$name")" "$out/usr/bin/$name" ;;
		esac
	done
	ln -s bash "$out/usr/bin/sh"
	ln -s kmod "$out/usr/bin/modprobe"
	ln -s mkfs.fat "$out/usr/bin/mkfs.vfat"
	ln -s e2fsck "$out/usr/bin/fsck.ext4"
	ln -s ../../bin/udevadm "$out/usr/lib/systemd/systemd-udevd"
	install "$modules_d/ignition" "$out/usr/bin/"
	strip "$out/usr/bin/ignition"
	install "$modules_d/ignition-kargs-helper.sh" "$out/usr/bin/ignition-kargs-helper"
	copy_libraries "$tree" "$out"

	# Units, generators, rules
	install "$modules_d/ignition-generator" "$out/usr/lib/systemd/system-generators/"
	cp "$modules_d"/*.service "$modules_d"/*.target "$units/"
	for name in $(package_list "$here/initramfs/systemd.txt"); do
		case $name in
		*.rules) cp "$tree/usr/lib/udev/rules.d/$name" "$out/usr/lib/udev/rules.d/" ;;
		*) cp -P "$tree/usr/lib/systemd/system/$name" "$units/" ;;
		esac
	done
	cp -r --no-preserve=ownership "$here/initramfs/files/." "$out/"
	cp "$here/rootfs/common/usr/lib/systemd/network/zz-default.network" "$out/usr/lib/systemd/network/"
	ln -s initrd.target "$units/default.target"
	ln -s reboot.target "$units/ctrl-alt-del.target"
	link_units "$units" sysinit.target.wants systemd-journald.service systemd-udevd.service systemd-udev-trigger.service \
		systemd-modules-load.service
	link_units "$units" sockets.target.wants systemd-journald.socket systemd-journald-dev-log.socket \
		systemd-udevd-control.socket systemd-udevd-kernel.socket
	link_units "$units" initrd.target.wants guest-refill-root.service
	link_units "$units" ignition-complete.target.requires guest-network.service guest-first-boot.service \
		ignition-{fetch-offline,fetch,kargs,disks,mount,files}.service
	link_units "$units" ignition-diskful.target.requires ignition-remount-sysroot.service guest-wait-root.service

	# Configuration. Only the users and groups that the programs above name.
	ln -s os-release "$out/etc/initrd-release" # its presence tells systemd and Ignition where they are
	grep -E '^(root|systemd-network):' "$tree/etc/passwd" >"$out/etc/passwd"
	sed 's/:.*/:*:1:0:99999:7:::/' "$out/etc/passwd" >"$out/etc/shadow"
	grep -E '^(root|audio|cdrom|dialout|disk|input|kmem|kvm|lp|render|sgx|systemd-journal|systemd-network|tape|tty|video):' \
		"$tree/etc/group" >"$out/etc/group"
	cp "$tree/etc/login.defs" "$tree/etc/protocols" "$tree/etc/services" "$out/etc/"
	cp "$tree/etc/ssl/certs/ca-certificates.crt" "$out/etc/ssl/certs/"

	copy_modules "$unpacked" "$out" <(module_paths "$unpacked" "$here/initramfs/modules.txt")
}

# link_units UNITS FOLDER UNIT...: makes systemd start the UNITs with a target.
link_units() {
	local units=$1 folder=$2 unit
	mkdir -p "$units/$folder"
	shift 2
	for unit; do ln -s "../$unit" "$units/$folder/"; done
}

find_program() { # TREE NAME
	local folder
	for folder in bin sbin; do
		[[ -e $1/usr/$folder/$2 ]] && echo "$1/usr/$folder/$2" && return
	done
	die "initramfs: no program $2 in the Debian packages"
}

# copy_libraries TREE OUT: until no program or library in OUT needs one that OUT lacks.
copy_libraries() {
	local tree=$1 out=$2 lib_dir=usr/lib/x86_64-linux-gnu name file found
	mkdir -p "$out/$lib_dir/systemd"
	cp -L "$tree/usr/lib64/ld-linux-x86-64.so.2" "$out/usr/lib64/"
	cp -L "$tree/$lib_dir/libgcc_s.so.1" "$out/$lib_dir/" # loaded by name when a thread is cancelled
	found=1
	while [[ $found ]]; do
		found=
		for name in $(find "$out/usr" -type f \( -perm /111 -o -name '*.so*' \) -exec readelf -d {} + 2>/dev/null |
			sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u); do
			for file in "$lib_dir/$name" "$lib_dir/systemd/$name" "usr/lib64/$name"; do
				[[ -e $out/$file ]] && continue 2
			done
			for file in "$lib_dir/$name" "$lib_dir/systemd/$name"; do
				[[ -e $tree/$file ]] && cp -L "$tree/$file" "$out/$file" && found=1 && continue 2
			done
			die "initramfs: no shared library $name in the Debian packages"
		done
	done
}

# module_paths UNPACKED LIST: paths of the modules that LIST names, in the form of kernel-modules.txt. Built-in: none.
module_paths() {
	local kver file name
	kver=$(ls "$1/lib/modules")
	depmod -b "$1" "$kver"
	for name in $(package_list "$2"); do
		file=$(modinfo -b "$1" -k "$kver" -F filename "$name") || die "initramfs: no kernel module $name"
		[[ $file == "(builtin)" ]] || echo "${file#*/kernel/}"
	done
}

# pack_initramfs TREE FILE
pack_initramfs() {
	(cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio --null -o -H newc --quiet -R 0:0) | zstd -q -f -9 -T0 -o "$2"
}
