#!/bin/sh
# A laboratory to try things in: runs COMMAND beside another "host" at 10.99.0.2, with an sshd of its own, in a network
# namespace. All of it ends with COMMAND. Root; needs iproute2, util-linux, openssh-server.
#
# usage: lab.sh COMMAND...    where $LAB_KEY is the private key that opens the account root of the host
set -eu
if [ "${LAB_KEY:-}" = "" ]; then
    LAB_KEY=$(mktemp -d "${TMPDIR:-/tmp}/lab.XXXXXX")/key
    export LAB_KEY
    trap 'rm -rf "${LAB_KEY%/*}"' EXIT
    status=0
    unshare --net --mount --pid --fork --kill-child --mount-proc sh "$0" "$@" || status=$?
    exit $status
fi

dir=${LAB_KEY%/*}
ip link set lo up
mkdir -p /run/netns /run/sshd
mount -t tmpfs lab /run/netns
ip netns add lab
ip link add lab type veth peer name uplink netns lab
ip address add 10.99.0.1/24 dev lab
ip link set lab up
ip -n lab link set lo up
ip -n lab link add br0 type bridge
ip -n lab address add 10.99.0.2/24 dev br0
ip -n lab link set br0 up
ip -n lab link set uplink master br0 up

ssh-keygen -q -t ed25519 -N '' -f "$LAB_KEY"
ssh-keygen -q -t ed25519 -N '' -f "$dir/host"
cat >"$dir/sshd" <<END
HostKey $dir/host
AuthorizedKeysFile $LAB_KEY.pub
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
END
# It goes into the background once it listens.
nsenter --net=/run/netns/lab /usr/sbin/sshd -f "$dir/sshd" -E "$dir/log"
"$@"
