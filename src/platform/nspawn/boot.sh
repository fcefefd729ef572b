#!/bin/sh
# Runs one container machine; started in a mount, a process and a network namespace of its own, which take
# everything with them when this process ends: mounts need no clean-up, and no process of the container survives.
#
# usage: CGROUPS="DIR..." boot.sh TREE IGNITION_TREE MOUNT_POINT MACHINE_ID [CONFIG]
set -eu
tree=$1 ignition=$2 top=$3 id=$4 config=${5-}

fail() { echo "mantle: $*"; exit 1; }

# The container's systemd takes the group it starts in for the root of its tree.
for group in $CGROUPS; do echo 0 > "$group/cgroup.procs" || fail "cannot enter control group $group"; done

mount --make-rprivate /
# systemd-nspawn keeps things there by machine name; ours go with this namespace.
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=0755 nspawn /run/systemd/nspawn
mount -t tmpfs -o mode=0755 mantle "$top"
cd "$top"
mkdir upper work root ignition
mount -t overlay -o "lowerdir=$tree,upperdir=upper,workdir=work" machine root || fail "cannot mount an overlay over $tree"
echo "$id" > root/etc/machine-id
: > root/etc/fstab

if [ -n "$config" ]; then
    # As in the initramfs: Ignition's own tree is the root, the machine's is its /sysroot.
    mount --bind "$ignition" ignition
    mount --rbind root ignition/sysroot
    mount --bind /dev ignition/dev
    mount -t proc proc ignition/proc
    mount -t tmpfs run ignition/run
    mkdir -p ignition/run/ignition
    cp "$config" ignition/run/config.ign
    stage() {
        IGNITION_CONFIG_FILE=/run/config.ign PATH=/usr/bin:/usr/sbin chroot ignition \
            /usr/bin/ignition --platform=file --root=/sysroot --stage="$1" --log-to-stdout </dev/null ||
            fail "Ignition failed (stage $1)"
    }
    stage fetch-offline
    if [ -e ignition/run/ignition/neednet ]; then stage fetch; fi
    stage files
    chroot ignition /usr/bin/guest-first-boot /sysroot || fail "Ignition failed (stage presets)"
    umount -R ignition
fi

# /usr belongs to the system, not to the machine, as on the real image.
mount --bind "$tree/usr" root/usr
mount -o remount,bind,ro root/usr

# systemd-nspawn ends with 133 when the machine reboots: start it again.
while :; do
    status=0
    systemd-nspawn --quiet --directory="$top/root" --machine="m-$id" --hostname=localhost --register=no --keep-unit --console=pipe --link-journal=no \
        --network-namespace-path="/proc/$$/ns/net" --capability=CAP_NET_ADMIN,CAP_SYS_TTY_CONFIG --boot \
        </dev/null || status=$?
    [ $status = 133 ] || exit $status
done
