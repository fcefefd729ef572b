#!/bin/sh
# As qemu.sh, with containers in place of virtual machines, which are there at once: what mantle's own tests use.
#
# usage: GUEST=FOLDER BOOT=src/platform/nspawn/boot.sh nspawn.sh provision|console|deprovision
# where the folder is of mantle's own guest, with its trees root and ignition-root
set -eu
dir=${STATE:-/var/tmp/lab}/$MACHINE
name=m${MACHINE%%-*} # names of interfaces are short

# This process's groups in the hierarchies of systemd, see cgroups(7).
groups() {
    while IFS=: read -r number controllers path; do
        case $number:$controllers in
        0:) kind='- cgroup2 ' ;;
        *:name=systemd) kind='name=systemd' ;;
        *) continue ;;
        esac
        base=$(grep -e "$kind" /proc/self/mountinfo | head -n 1 | cut -d ' ' -f 5)
        if [ -d "$base$path" ]; then echo "$base${path%/}/mantle-$name"; fi
    done </proc/self/cgroup
}

case $1 in
provision)
    mkdir -p "$dir/top"
    number=10
    until mkdir "$dir/../$number" 2>/dev/null; do number=$((number + 1)); done
    echo $number >"$dir/number"
    ip netns add "$name"
    # The same hardware address for the same address, or the others look for the machine that had it before.
    ip link add "$name" type veth peer name eth0 netns "$name" address "$(printf 02:00:0a:63:00:%02x "$number")"
    ip link set "$name" master br0 up
    ip -n "$name" link set lo up
    ip -n "$name" address add "10.99.0.$number/24" dev eth0
    ip -n "$name" link set eth0 up
    CGROUPS=$(groups | tr '\n' ' ')
    export CGROUPS
    echo "$CGROUPS" >"$dir/groups"
    mkdir $CGROUPS
    setsid nsenter --net="/run/netns/$name" unshare --mount --pid --fork --kill-child --mount-proc \
        sh "$BOOT" "$GUEST/root" "$GUEST/ignition-root" "$dir/top" "$(echo "$MACHINE" | tr -d -)" "$USERDATA_FILE" \
        </dev/null >"$dir/console" 2>&1 &
    echo $! >"$dir/pid"
    echo "10.99.0.$number" ;;
console)
    exec tail -c +1 -F "$dir/console" 2>/dev/null ;;
deprovision)
    if [ -e "$dir/pid" ]; then
        pid=$(cat "$dir/pid")
        kill -KILL "$pid" 2>/dev/null || true
        while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    fi
    for group in $(cat "$dir/groups" 2>/dev/null); do
        tries=0
        while [ -d "$group" ] && ! find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do
            tries=$((tries + 1))
            if [ $tries = 50 ]; then exit 1; fi
            sleep 0.1
        done
    done
    ip netns delete "$name" 2>/dev/null || true
    if [ -e "$dir/number" ]; then rmdir "$dir/../$(cat "$dir/number")"; fi
    rm -rf "$dir" ;;
esac
