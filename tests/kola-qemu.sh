#!/bin/sh
# The kola tests that need a machine, and full boots by both firmwares. usage: MANTLE=... kola-qemu.sh OUTPUT_DIR
set -eu
out=$1
mkdir -p "$out"
# Output folders that kola may empty on the next run are called _*_temp.
kola() {
    name=$1
    shift
    echo "== $name: kola run $*"
    "$MANTLE" kola run --output-dir "$out/_${name}_temp" "$@"
}

# Any user: user networking, no root, chosen by itself.
unprivileged() {
    chmod 0755 "$out"
    guests=${MANTLE_GUEST_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mantle/guest}
    guest=$guests/base
    [ -e "$guest/guest.qcow2" ] || guest=$guests/full
    cp "$MANTLE" "$guest/guest.qcow2" "$guest/guest.qcow2.json" "$unpriv"
    chown -R 65534:65534 "$unpriv"
    echo "== unpriv: kola run as nobody"
    cd "$unpriv"
    setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$unpriv" \
        ./mantle kola run --qemu-image guest.qcow2 coreos.auth.verify
}

# One machine each: side by side they take half the time. What they say is told when they end.
unpriv=$(mktemp -d)
trap 'rm -rf "$unpriv"' EXIT
# Everything real from the first instruction on: firmware, boot loader, first-boot flag, Ignition.
kola bios -p qemu --qemu-firmware bios debian.basic >"$out/bios.log" 2>&1 &
bios=$!
if [ "$(id -u)" = 0 ]; then (unprivileged) >"$out/unpriv.log" 2>&1 & else : >"$out/unpriv.log" & fi
nobody=$!
failed=
kola uefi -p qemu --qemu-firmware uefi coreos.ignition.v2.once || failed=1
wait "$bios" || failed=1
wait "$nobody" || failed=1
cat "$out/bios.log" "$out/unpriv.log"
[ -z "$failed" ]

# What containers cannot show: kernel services, disks, clocks, networks of several machines. The kernel is loaded
# directly, which saves the emulated firmware. Of tests that are much alike one; kola-full.sh runs all.
kola machines -p qemu --qemu-kernel auto --parallel 2 \
    linux.ntp linux.nfs.v4 packages coreos.ignition.systemd.enable-service \
    cl.ignition.v2_1.vfat cl.ignition.v2_1.swap docker.network \
    coreos.ignition.v2_1.resource.local coreos.ignition.v2_2.security.tls systemd.journal.remote
