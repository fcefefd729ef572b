#!/bin/sh
# Machines of a host that has QEMU and nothing else: as the commands of platform external on it.
#
# usage: IMAGE=DISK.qcow2 HOST=ADDRESS qemu.sh provision|console|deprovision
set -eu
dir=${STATE:-/var/tmp/lab}/$MACHINE
case $1 in
provision)
    mkdir -p "$dir"
    qemu-img create -q -f qcow2 -F qcow2 -b "$IMAGE" "$dir/disk.qcow2" >&2
    # The first of some ports that is free carries the machine's sshd.
    for port in 40022 40023 40024 40025 40026; do
        # With -daemonize QEMU returns once all that it needs is there.
        qemu-system-x86_64 -machine pc,graphics=off -accel "${ACCEL:-tcg}" -smp 1 -m 768 -display none \
            -drive "file=$dir/disk.qcow2,if=virtio" -fw_cfg "name=opt/com.coreos/config,file=$USERDATA_FILE" \
            -netdev "user,id=net,hostfwd=tcp:$HOST:$port-:22" -device virtio-net-pci,netdev=net,romfile= \
            -device virtio-rng-pci -serial "file:$dir/console" -pidfile "$dir/pid" -daemonize >&2 || continue
        echo "$HOST:$port"
        exit
    done
    echo "no port is free" >&2
    exit 1 ;;
console)
    exec tail -c +1 -F "$dir/console" 2>/dev/null ;;
deprovision)
    # Whether it was made, half made or not at all.
    if [ -e "$dir/pid" ]; then
        pid=$(cat "$dir/pid")
        kill "$pid" 2>/dev/null || true
        while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    fi
    rm -rf "$dir" ;;
esac
