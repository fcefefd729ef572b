#!/bin/sh
# Every kola test that one of our guests can run. usage: MANTLE=... [ROUNDS=3] kola-full.sh OUTPUT_DIR
# All rounds must pass: a test that passes now and then is a failure.
set -eu
out=$1
mkdir -p "$out"
guests=${MANTLE_GUEST_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mantle/guest}
# Output folders that kola may empty on the next run are called _*_temp.
kola() {
    name=$1
    shift
    echo "== $name: kola run $*"
    "$MANTLE" kola run --parallel 2 --output-dir "$out/_${name}_temp" "$@"
}

round=1
while [ "$round" -le "${ROUNDS:-3}" ]; do
    kola "nspawn-$round" -p nspawn
    kola "qemu-$round" -p qemu
    kola "selinux-$round" -p qemu --qemu-image "$guests/selinux/guest.qcow2" 'coreos.selinux.*' 'rhcos.selinux.*'
    round=$((round + 1))
done
