#!/bin/sh
# Runs one container machine; started in a mount namespace and a network namespace of its own, which take
# everything with them when this process ends: tmpfs, overlay and bind mounts need no clean-up.
#
# usage: boot.sh TREE IGNITION_TREE MOUNT_POINT MACHINE_ID [CONFIG]
set -eu
tree=$1 ignition=$2 top=$3 id=$4 config=${5-}

fail() { echo "mantle: $*"; exit 1; }

mount --make-rprivate /
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
    # The machine id exists already, so systemd will not apply presets: apply those that Ignition asked for.
    presets=ignition/sysroot/etc/systemd/system-preset/20-ignition.preset
    if [ -e $presets ]; then
        while read -r verb unit; do
            if [ "$verb" = enable ] || [ "$verb" = disable ]; then
                chroot ignition /usr/bin/systemctl --root=/sysroot preset "$unit" || fail "Ignition failed (stage presets)"
            fi
        done < $presets
    fi
    umount -R ignition
fi

# /usr belongs to the system, not to the machine, as on the real image.
mount --bind "$tree/usr" root/usr
mount -o remount,bind,ro root/usr

# systemd-nspawn ends with 133 when the machine reboots: start it again.
while :; do
    status=0
    systemd-nspawn --quiet --directory="$top/root" --register=no --keep-unit --console=pipe --link-journal=no \
        --network-namespace-path="/proc/$$/ns/net" --capability=CAP_NET_ADMIN,CAP_SYS_TTY_CONFIG --boot \
        </dev/null || status=$?
    [ $status = 133 ] || exit $status
done
