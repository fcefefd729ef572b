# Stage 4: the disk image: GPT, Container Linux's partitions, GRUB for BIOS and EFI. No loop devices, no mounts: every file
# system is made as a file and put in its place. Sourced by build.sh.

mib=$((1024 * 1024))
usr_type=5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6
root_type=3884dd41-8582-4404-b9a8-e9b84f2df50e
usr_a_uuid=7130c94a-213a-4e5a-8e26-6cce9662f132
usr_b_uuid=e03dd35c-7c2d-4a47-b3fe-27f15780a57c
grub_modules=(part_gpt fat ext2 search search_label linux normal configfile test serial echo boot ls sleep minicmd loadenv)

# make_disk TREE KERNEL INITRD WORK OUT: OUT is a sparse raw image; WORK an empty folder for the pieces.
make_disk() {
	local tree=$1 kernel=$2 initrd=$3 work=$4 out=$5 usr_size bios_boot_sector

	split_root "$tree" "$work/root"
	usr_size=$(($(du -sm "$tree/usr" | cut -f1) * 115 / 100 + 24))
	make_usr "$tree" "$usr_size" "$work/usr"
	# Inode tables are written now: left to the kernel, it would do so in the guest's first minute.
	mke2fs -q -t ext4 -L ROOT -m 0 -J size=8 -E lazy_itable_init=0,lazy_journal_init=0,nodiscard \
		-d "$work/root" "$work/root.img" "${root_size}M"
	mke2fs -q -t ext4 -L OEM -O ^has_journal "$work/oem" 16M
	make_esp "$kernel" "$initrd" "$work" "$work/esp"

	# number  name        type         size in MiB or file    partition UUID
	lay_out "$out" <<-EOF
		1  EFI-SYSTEM  ef00        $work/esp
		2  BIOS-BOOT   ef02        2
		3  USR-A       $usr_type   $work/usr       $usr_a_uuid
		4  USR-B       $usr_type   $usr_size       $usr_b_uuid
		6  OEM         8300        $work/oem
		7  OEM-CONFIG  8300        64
		9  ROOT        $root_type  $work/root.img
	EOF
	install_bios_grub "$out" "$work/core.img"
	sgdisk --verify "$out" | grep -q 'No problems found' || die "disk: sgdisk finds the partition table faulty"
}

# make_usr TREE MIB OUT: the file system of either half of /usr.
make_usr() {
	mke2fs -q -t ext4 -L USR -O ^has_journal,^metadata_csum -m 0 -d "$1/usr" "$3" "$2M"
}

# split_root TREE ROOT: ROOT gets what is not /usr, and /usr/share/factory/root a copy of it, from which the initramfs fills
# a ROOT that an Ignition config has wiped.
split_root() {
	local factory=$1/usr/share/factory/root
	rm -rf "$factory"
	mkdir -p "$factory" "$2"
	tar -C "$1" -c --xattrs --xattrs-include=security.selinux --exclude=./usr --exclude='./boot/*' --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' \
		--exclude='./run/*' --exclude='./tmp/*' . |
		tar -C "$2" -x --xattrs --xattrs-include=security.selinux
	cp -al "$2/." "$factory/"
	mkdir "$2/usr"
}

# make_esp KERNEL INITRD WORK OUT: the EFI system partition; leaves GRUB's core image for BIOS in WORK/core.img.
make_esp() {
	local kernel=$1 initrd=$2 work=$3 out=$4
	export MTOOLS_SKIP_CHECK=1
	cat >"$work/early.cfg" <<-'EOF'
		search --no-floppy --set root --label EFI-SYSTEM
		set prefix=($root)/coreos/grub
		configfile ($root)/coreos/grub/grub.cfg
	EOF
	sed "s|@KERNEL_ARGUMENTS@|${kernel_arguments/USR-A/\$usr}|" "$here/grub.cfg" >"$work/grub.cfg"
	: >"$work/first_boot"
	grub-mkimage -O i386-pc -o "$work/core.img" -p '(hd0,gpt1)/coreos/grub' -c "$work/early.cfg" \
		biosdisk "${grub_modules[@]}"
	grub-mkimage -O x86_64-efi -o "$work/bootx64.efi" -p /coreos/grub -c "$work/early.cfg" efi_gop "${grub_modules[@]}"

	grub-editenv "$work/usr.env" create # GRUB can write to a file, but cannot make one
	truncate -s 120M "$out" # two kernels with their initramfs
	mkfs.fat -F 32 -n EFI-SYSTEM "$out" >/dev/null
	mmd -i "$out" ::/EFI ::/EFI/BOOT ::/coreos ::/coreos/grub
	mcopy -i "$out" "$work/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
	mcopy -i "$out" "$work/grub.cfg" ::/coreos/grub/grub.cfg
	mcopy -i "$out" "$kernel" ::/coreos/vmlinuz-a
	mcopy -i "$out" "$initrd" ::/coreos/initrd-a
	mcopy -i "$out" "$work/first_boot" ::/coreos/first_boot
	mcopy -i "$out" "$work/usr.env" ::/coreos/usr.env
}

# lay_out DISK: makes the disk from the table on standard input (see make_disk). Sets bios_boot_sector.
lay_out() {
	local disk=$1 number name type content uuid start=1 size args=() pieces=()
	while read -r number name type content uuid; do
		size=$content
		if [[ $content == /* ]]; then
			size=$(($(stat -c %s "$content") / mib))
			pieces+=("$content $start")
		fi
		args+=(--new="$number:${start}M:+${size}M" --change-name="$number:$name" --typecode="$number:$type")
		[[ $uuid ]] && args+=(--partition-guid="$number:$uuid")
		[[ $name == BIOS-BOOT ]] && bios_boot_sector=$((start * mib / 512))
		start=$((start + size))
	done
	rm -f "$disk"
	truncate -s $((start + 1))M "$disk" # 1 MiB for the second partition table
	sgdisk --clear "${args[@]}" "$disk" >/dev/null
	for content in "${pieces[@]}"; do
		dd if="${content% *}" of="$disk" bs=$mib seek="${content##* }" conv=notrunc,sparse status=none
	done
}

# install_bios_grub DISK CORE: what grub-install would do, without a block device. The boot sector gets the place of the
# first sector of the core image, that sector a list of where the rest lies; both formats are GRUB's.
install_bios_grub() {
	local disk=$1 core=$2 boot=${2%/*}/boot.img sectors
	truncate -s %512 "$core"
	sectors=$(($(stat -c %s "$core") / 512))
	((sectors * 512 <= 2 * mib)) || die "disk: GRUB's core image does not fit BIOS-BOOT"
	head -c 440 /usr/lib/grub/i386-pc/boot.img >"$boot" # the rest of the sector is the partition table's
	patch_file "$boot" 0x5c "$(le 8 "$bios_boot_sector")"
	patch_file "$boot" 0x66 '\x90\x90' # no-ops over the jump that is for floppies
	patch_file "$core" 500 "$(le 8 $((bios_boot_sector + 1)))$(le 2 $((sectors - 1)))$(le 2 0x820)"
	dd if="$boot" of="$disk" conv=notrunc status=none
	dd if="$core" of="$disk" bs=512 seek="$bios_boot_sector" conv=notrunc status=none
}

le() { # BYTES NUMBER: little endian, as escapes for printf
	local i
	for ((i = 0; i < $1; i++)); do printf '\\x%02x' $(($2 >> (8 * i) & 255)); done
}

patch_file() { # FILE OFFSET ESCAPES
	# shellcheck disable=SC2059 # the escapes are the format
	printf "$3" | dd of="$1" bs=1 seek=$(($2)) conv=notrunc status=none
}
