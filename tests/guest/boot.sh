#!/bin/bash
# Boots the guest image once, by hand: fresh overlay disk, user-mode network, one ssh session, power off. See usage.
# The private network, many machines and so on are kola's business; this is for a look at the image itself.
set -euo pipefail

usage() {
	cat <<-EOF
		usage: boot.sh [--image DIR|base|full] [--by bios|uefi|kernel] [--config FILE.ign] [--reboot] [--smp N]
		               [--memory MIB] [--append WORDS] [--qemu 'ARGUMENTS'] [COMMAND [ARGUMENT...]]
		Boots the image, runs COMMAND as core over ssh (or opens a shell) and ends the machine.
		  --image   folder made by build.sh, or a variant of the default cache (default: base)
		  --by      what starts the kernel: SeaBIOS and GRUB (default), OVMF and GRUB, or QEMU itself
		  --config  Ignition config of spec 3.x; core's ssh key is added by merging it into a parent config
		  --reboot  run COMMAND, reboot the machine, and run COMMAND again
		  --append  more kernel arguments (only with --by kernel)
		The console goes to \$MANTLE_CONSOLE, or to a temporary file that is shown if the machine does not come up.
	EOF
}
die() {
	echo "boot: $*" >&2
	exit 1
}
say() { # with wall clock and QEMU's CPU seconds, the steadier measure on a busy machine
	local cpu
	cpu=$(awk '{ sub(".*[)] ", ""); print ($12 + $13) / 100 }' "/proc/$pid/stat" 2>/dev/null) || cpu=0
	printf 'boot: %5.1f s, CPU %5.1f s: %s\n' "$(bc <<<"$(date +%s.%N) - $start")" "$cpu" "$*" >&2
}

image=base by=bios config='' reboot='' smp=1 memory=1024 append='' qemu=''
while (($#)); do
	case $1 in
	--image | --by | --config | --smp | --memory | --append | --qemu)
		(($# > 1)) || die "$1 needs a value"
		declare "${1#--}=$2"
		shift 2
		;;
	--reboot) reboot=1 && shift ;;
	-h | --help) usage && exit ;;
	--) shift && break ;;
	-*) usage >&2 && die "unknown option $1" ;;
	*) break ;;
	esac
done
[[ $image == */* ]] || image=${MANTLE_GUEST_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mantle/guest}/$image
image=$(realpath "$image")
[[ -e $image/guest.qcow2 ]] || die "no image in $image; run build.sh"

work=$(mktemp -d)
pid=
# shellcheck disable=SC2317 # called by the trap
clean_up() {
	trap - EXIT
	[[ $pid ]] && kill "$pid" 2>/dev/null && wait "$pid"
	rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
console=${MANTLE_CONSOLE:-$work/console}
: >"$console"

# The Ignition config: an ssh key, and the user's config merged in as a data URL.
ssh-keygen -q -t ed25519 -N '' -C boot.sh -f "$work/key"
merge=
[[ $config ]] && merge=", \"config\": {\"merge\": [{\"source\": \"data:;base64,$(base64 -w0 "$config")\"}]}"
cat >"$work/config.ign" <<-EOF
	{"ignition": {"version": "3.0.0"$merge},
	 "passwd": {"users": [{"name": "core", "sshAuthorizedKeys": ["$(<"$work/key.pub")"]}]}}
EOF

qemu-img create -q -f qcow2 -b "$image/guest.qcow2" -F qcow2 "$work/disk.qcow2"
port=$((20000 + RANDOM % 10000))
# shellcheck disable=SC2054 # the commas are QEMU's
run=(qemu-system-x86_64 -accel tcg,thread=multi,tb-size=64 -machine pc -cpu qemu64 -m "$memory" -smp "$smp"
	-nodefaults -no-user-config -display none -chardev "file,id=console,path=$console" -serial chardev:console
	-fw_cfg "name=opt/com.coreos/config,file=$work/config.ign" -device virtio-rng-pci
	-netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=net,romfile=
	-drive "if=none,id=disk,file=$work/disk.qcow2,format=qcow2,cache=unsafe"
	-device virtio-blk-pci,drive=disk,serial=primary-disk)
case $by in
bios) ;;
uefi)
	cp /usr/share/OVMF/OVMF_VARS.fd "$work/vars.fd"
	# shellcheck disable=SC2054
	run+=(-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd
		-drive "if=pflash,format=raw,file=$work/vars.fd")
	;;
kernel)
	arguments=$(sed -n 's/.*"kernel_arguments": "\(.*\)".*/\1/p' "$image/guest.qcow2.json")
	run+=(-kernel "$image/vmlinuz" -initrd "$image/initrd.zst" -append "$arguments $append")
	;;
*) die "--by $by: bios, uefi or kernel" ;;
esac
# shellcheck disable=SC2206 # words are meant to be split
run+=($qemu)

start=$(date +%s.%N)
"${run[@]}" &
pid=$!

options=(-i "$work/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes
	-o ConnectTimeout=120 -o ServerAliveInterval=15 -o ServerAliveCountMax=40 -p "$port")
# shellcheck disable=SC2029 # the command is meant to be put together here
guest() { ssh "${options[@]}" core@127.0.0.1 "$@"; }

# The port accepts connections long before the guest is up: only ssh's banner tells.
wait_for_ssh() {
	local old_boot_id=${1-} boot_id='' guard=1500 give_up # against hangs only: a boot under emulation takes 20 s, on a busy machine a few times that
	give_up=$((SECONDS + guard))
	while [[ -z $boot_id || $boot_id == "$old_boot_id" ]]; do
		if ! kill -0 "$pid" 2>/dev/null; then
			tail -n 40 "$console" >&2
			die "the machine has ended without ssh; the end of the console is above"
		fi
		if ((SECONDS > give_up)); then
			tail -n 40 "$console" >&2
			die "a guard against hangs fired: waited $guard s for ssh of $image; the end of the console is above"
		fi
		sleep 0.1
		timeout 62 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port && read -r -t 60 -n 4 b <&3 && [[ \$b == SSH- ]]" 2>/dev/null || continue
		boot_id=$(guest cat /proc/sys/kernel/random/boot_id 2>/dev/null) || boot_id=
	done
	say "ssh works"
	REPLY=$boot_id
}

wait_for_ssh
status=0
guest "$@" || status=$?
say "command ended with $status"
if [[ $reboot ]]; then
	guest 'sudo systemctl stop sshd.socket && sudo systemctl reboot' || : # the connection may break
	wait_for_ssh "$REPLY"
	guest "$@" || status=$?
	say "command ended with $status"
fi
exit $status
